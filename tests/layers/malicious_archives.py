"""Image archives that only differ from ordinary ones in one odd thing, and what is to be made of each.

`READ`: an engine loads it, or one that is newer than the tests' does. `DAMAGED`: no engine loads it.
`UNSAFE`: an engine loads it because its unpacker has the layer's directory for its root; any other unpacker
would write outside.
"""

from __future__ import annotations

from typing import Any

from archive_builder import Content, block, docker_archive, layer, padded, pax, tar, with_checksum

READ, DAMAGED, UNSAFE = "read", "damaged", "unsafe"
END = bytes(1024)
X = layer({"a": b"x"})


def one(*files: tuple[str, Content]) -> bytes:
    return docker_archive([layer(files)])


def tar_from_parts(*parts: bytes) -> bytes:
    return docker_archive([b"".join(parts)])


def without_keys(*keys: str) -> Any:
    return lambda made: {key: value for key, value in made.items() if key not in keys}


ARCHIVES: dict[str, tuple[bytes, str]] = {
    # links that nothing follows
    "a link to itself": (one(("self", "->self")), READ),
    "a directory that is a link to itself": (one(("usr", None), ("usr/lib64", "->/usr/lib64")), READ),
    "two links in a ring": (one(("a", "->b"), ("b", "->a")), READ),
    "a link out of the image": (one(("up", "->../../../etc"), ("abs", "->/etc/passwd")), READ),
    "a hard link to a link that leads nowhere": (one(("l", "->nope"), ("b", "=>l")), READ),
    # links that an entry follows
    "a file through a link": (one(("usr/lib", None), ("lib", "->usr/lib"), ("lib/x", b"x")), READ),
    "a file through an absolute link": (one(("usr/lib", None), ("lib", "->/usr/lib"), ("lib/x", b"x")), READ),
    "a hard link through a link": (one(("d/a", b"x"), ("l", "->d"), ("b", "=>l/a")), READ),
    "a whiteout through a link": (one(("d", None), ("l", "->d"), ("l/.wh.x", b"")), READ),
    "an opaque marker through a link": (one(("d", None), ("l", "->d"), ("l/.wh..wh..opq", b"")), READ),
    "a directory in place of a link": (one(("l", "->nope"), ("l2", None)), READ),
    "a file through a link out": (one(("tmp", None), ("l", "->../../tmp"), ("l/x", b"x")), UNSAFE),
    "a hard link through a link out": (one(("tmp/a", b""), ("l", "->../../tmp"), ("b", "=>l/a")), UNSAFE),
    "a file through two links out": (
        one(("d/e", None), ("tmp", None), ("d/m", "->.."), ("n", "->d/m/../../tmp"), ("n/x", b"x")),
        UNSAFE,
    ),
    "a file through a ring of links": (one(("s", "->s"), ("s/x", b"x")), DAMAGED),
    "a file through a ring of two": (one(("a", "->b"), ("b", "->a"), ("b/d/x", b"x")), DAMAGED),
    "a file below a file": (one(("a", b"x"), ("a/b", b"y")), DAMAGED),
    "a file below a link to a file": (one(("a", b"x"), ("l", "->a"), ("l/b", b"y")), DAMAGED),
    # hard links
    "a hard link": (one(("a", b"x"), ("b", "=>a"), ("c", "=>/a"), ("d", "=>./a")), READ),
    "a hard link to what is not there": (one(("a", "=>nope")), DAMAGED),
    "a hard link to what comes later": (one(("a", "=>b"), ("b", b"x")), DAMAGED),
    "a hard link to itself": (one(("a", "=>a")), DAMAGED),
    "a hard link to a directory": (one(("d", None), ("a", "=>d")), DAMAGED),
    "a hard link out of the layer": (one(("a", b"x"), ("b", "=>../../a")), UNSAFE),
    # names
    "a path that climbs out": (one(("../../x", b"x")), UNSAFE),
    "a path that climbs inside": (one(("d/../x", b"x")), READ),
    "an absolute path": (one(("/etc/x", b"x"), ("//y", b"y")), READ),
    "names like JSON": (one(("[slug].js", b"x"), ("{a}", b"y")), READ),
    "a name like bzip2": (one(("BZh91AY.txt", b"x")), READ),
    "AppleDouble": (one(("._a", b"x"), ("a", b"y")), READ),
    "a file with a slash": (tar_from_parts(block("a/", 3), padded(b"abc"), END), READ),
    "a name that is no UTF-8": (tar_from_parts(block("a", at_0=b"\xff\xfe"), END), READ),
    "no name": (tar_from_parts(block(""), END), READ),
    # whiteouts
    "a whiteout of nothing": (one((".wh.nope", b"")), READ),
    "a whiteout before its file": (one((".wh.a", b""), ("a", b"x")), READ),
    "an opaque directory without an entry": (one(("d/.wh..wh..opq", b"")), READ),
    "an opaque file": (one(("d", b"x"), ("d/.wh..wh..opq", b"")), READ),
    "AUFS's own files": (one((".wh..wh.plnk", b""), (".wh..wh.aufs", b"")), READ),
    "a whiteout without a name": (one((".wh.", b"")), DAMAGED),
    "a whiteout of its directory": (one(("d/.wh..", b"")), DAMAGED),
    "a whiteout of what is above": (one(("d/.wh...", b"")), DAMAGED),
    # empty layers, first and last blocks
    "no layers": (docker_archive([]), READ),
    "layers: null": (docker_archive([], manifest=lambda row: {**row, "Layers": None}), READ),
    "a layer of no bytes": (tar_from_parts(), READ),
    "a layer of one block": (tar_from_parts(bytes(512)), READ),
    "a layer of padding": (tar_from_parts(bytes(10240)), READ),
    "a layer of 20 zeros": (tar_from_parts(bytes(20)), DAMAGED),
    "./ first": (tar_from_parts(block("./", 0, b"5"), block("./a"), END), READ),
    ". first": (tar_from_parts(block(".", 0, b"5"), END), READ),
    "a root that is a file": (tar_from_parts(block("./"), block("a"), END), READ),
    "a global header first": (tar_from_parts(pax(b"g", comment=b"abc"), block("a"), END), READ),
    "a global path": (tar_from_parts(pax(b"g", path=b"other"), block("a"), END), READ),
    "a long name first": (tar_from_parts(block("x" * 200), END), READ),
    "no end": (tar_from_parts(block("a", 3), padded(b"abc")), READ),
    "no padding": (tar_from_parts(block("a", 3), b"abc"), READ),
    "one block of end": (tar_from_parts(block("a"), bytes(512)), READ),
    "more after the end": (tar_from_parts(X, b"more"), READ),
    # headers
    "Unix V7": (tar_from_parts(block("a", at_257=bytes(88)), block("d/", 0, b"\0"), END), READ),
    "base 256": (tar_from_parts(block("a", at_124=b"\x80" + bytes(10) + b"\3"), padded(b"abc"), END), READ),
    "a size of blanks": (tar_from_parts(block("a", at_124=b" " * 12), END), READ),
    "a signed checksum": (
        tar_from_parts(with_checksum(bytearray(block("a", at_0=b"\xff")), signed=True), END),
        READ,
    ),
    "pax: size": (tar_from_parts(pax(size=b"3"), block("a"), padded(b"abc"), END), READ),
    "pax: linkpath": (tar_from_parts(pax(linkpath=b"b" * 150), block("a", 0, b"2"), END), READ),
    "pax: no path": (tar_from_parts(pax(path=b""), block("a"), END), READ),
    "pax: an attribute": (tar_from_parts(pax(SCHILY_xattr_user_a=b"\0\1\xff"), block("a"), END), READ),
    "pax: a zero byte": (tar_from_parts(pax(path=b"a\0b"), block("a"), END), DAMAGED),
    "pax: no record": (tar_from_parts(block("P", 5, b"x"), padded(b"hello"), END), DAMAGED),
    "devices and a pipe": (
        tar_from_parts(block("a", 0, b"3"), block("b", 0, b"4"), block("p", 0, b"6"), END),
        READ,
    ),
    # configuration and manifest
    "config: null": (docker_archive([X], config=lambda made: {**made, "config": None}), READ),
    "no platform": (docker_archive([X], config=without_keys("architecture", "os", "config")), READ),
    "history: null": (docker_archive([X], config=lambda made: {**made, "history": None}), READ),
    "history: []": (docker_archive([X], config=lambda made: {**made, "history": []}), READ),
    "no rootfs": (docker_archive([X], config=without_keys("rootfs")), DAMAGED),
    "RepoTags: null": (docker_archive([X], manifest=lambda row: {**row, "RepoTags": None}), READ),
    "Config: null": (docker_archive([X], manifest=lambda row: {**row, "Config": None}), DAMAGED),
    "no Config": (docker_archive([X], manifest=without_keys("Config")), DAMAGED),
    "Parent and LayerSources": (
        docker_archive([X], manifest=lambda row: {**row, "Parent": "", "LayerSources": {}}),
        READ,
    ),
    "layers with ./": (
        docker_archive([X], manifest=lambda row: {**row, "Layers": [f"./{name}" for name in row["Layers"]]}),
        READ,
    ),
    "a layer that is not there": (
        docker_archive([X], manifest=lambda row: {**row, "Layers": ["nope"]}),
        DAMAGED,
    ),
    "what schema 1 leaves": (
        docker_archive(
            [X], more=[(f"{0:064x}/VERSION", b"1.0"), (f"{0:064x}/json", b"{}"), ("repositories", b"{}")]
        ),
        READ,
    ),
    "odd links next to the layer": (
        docker_archive([X], more=[("odd", "->../../../etc/passwd"), ("ring", "->ring")]),
        READ,
    ),
    "./ before all": (tar([("./", None)])[:512] + docker_archive([X]), READ),
}
