"""Read a tar archive once, from front to back, in bounded memory; contents are read only on request.

Formats: POSIX.1-2001 (pax), ustar, GNU tar's long names and sparse files (GNU tar manual, "Basic Tar Format"), and
the headers of Unix V7. Headers are interpreted as Go's archive/tar does, which engines use. Nothing is written to
disk. Python's `tarfile` takes about ten times as long per header, and keeps all of them in memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from labhelpers.layers.archive_errors import damaged_error, printable_name, truncated_error, unsafe_error
from labhelpers.layers.sources import BufferedSource

BLOCK = 512
ZEROS = bytes(BLOCK)
# PATH_MAX of Linux; a pax record can declare any length
MAX_PATH_BYTES = 4096
MAX_PAX_BYTES = 1 << 20
# the largest size that Go's archive/tar accepts
MAX_MEMBER_BYTES = (1 << 63) - 1
PAX_KEYS = frozenset(
    ("path", "linkpath", "size", "GNU.sparse.name", "GNU.sparse.size", "GNU.sparse.realsize")
)
HEADER_ONLY = frozenset("123456")
KINDS = {"\0": "file", "0": "file", "7": "file", "S": "file", "1": "hard link", "2": "link"}
KINDS |= {"3": "device", "4": "device", "5": "directory", "6": "pipe"}


class Member(NamedTuple):
    """One header of a tar archive.

    Attributes:
        name: path in the archive, with undecodable bytes as surrogates.
        kind: file, hard link, link (symbolic), device, directory, pipe, or other.
        bytes: size of the file; 0 for an entry without contents.
        stored_bytes: number of bytes of its contents in the archive.
        target: target of a link, otherwise empty.
    """

    name: str
    kind: str
    bytes: int
    stored_bytes: int
    target: str


def members(flow: BufferedSource) -> Iterator[Member]:
    """The members in order. The caller consumes the `stored_bytes` of each before the next.

    Raises:
        BadArchive: a header is damaged, or the archive ends within a member.
    """
    extended: dict[str, str] = {}
    while block := flow.take(BLOCK):
        if block == ZEROS:
            return
        if len(block) < BLOCK:
            raise truncated_error(flow.where)
        kind = chr(block[156])
        size = _checked_size(block, flow.where)
        if kind in "xgLK":
            records = _records(kind, _short_text(flow, size), flow.where)
            # engines ignore global headers, such as the one in which git records the commit
            extended.update({} if kind == "g" else records)
            continue
        member = _member(block, kind, size, extended, flow)
        extended = {}
        yield member
        _skip_padding(flow, member.stored_bytes)


def looks_like_tar(block: bytes) -> bool:
    """Whether a tar archive can start with `block`; that of an empty archive is all zeros."""
    return block == ZEROS or (len(block) == BLOCK and _has_valid_checksum(block))


# --- one header


def _member(block: bytes, kind: str, size: int, extended: dict[str, str], flow: BufferedSource) -> Member:
    name, target = extended.get("path"), extended.get("linkpath")
    if name is None:
        name = _text(block[:100])
        # only a header with the POSIX magic has a prefix; GNU tar uses the field for other data
        if block[345] and block[257:263] == b"ustar\0":
            name = f"{_text(block[345:500])}/{name}"
    if target is None:
        target = _text(block[157:257]) if kind in "12" else ""
    if len(name) > MAX_PATH_BYTES or len(target) > MAX_PATH_BYTES:
        raise unsafe_error(
            flow.where, f"a path in it is longer than {MAX_PATH_BYTES} bytes: {printable_name(name[:40])}…"
        )
    if "size" in extended:
        size = _number(extended["size"], flow.where)
    if kind == "\0" and name.endswith("/"):
        kind = "5"
    file_size = size
    if kind == "S":
        file_size = _octal(block[483:495], flow.where)
        _skip_sparse_map(flow, block[482])
    elif extended:
        name = extended.get("GNU.sparse.name", name)
        real = extended.get("GNU.sparse.realsize", extended.get("GNU.sparse.size"))
        file_size = file_size if real is None else _number(real, flow.where)
    return Member(name, KINDS.get(kind, "other"), file_size, 0 if kind in HEADER_ONLY else size, target)


def _checked_size(block: bytes, where: str) -> int:
    if not _has_valid_checksum(block):
        raise damaged_error(where, "the checksum of a header is wrong")
    return _octal(block[124:136], where)


def _has_valid_checksum(block: bytes) -> bool:
    field = block[148:156]
    try:
        stored = _octal_digits(field)
    except ValueError:
        return False
    # the low half of Adler-32 is 1 + the sum of the bytes, modulo 65,521 (RFC 1950): a sum at the speed of C
    unsigned = (zlib.adler32(block) & 0xFFFF) - (zlib.adler32(field) & 0xFFFF) + 8 * 32
    # some old programs summed signed bytes
    signed = unsigned - 256 * sum(byte > 127 for byte in block[:148] + block[156:])
    return (unsigned - stored) % 65521 == 0 or (signed - stored) % 65521 == 0


def _octal_digits(field: bytes) -> int:
    digits = field.strip(b" \0").partition(b"\0")[0].rstrip(b" ")
    if digits and not digits.isdigit():
        raise ValueError
    return int(digits or b"0", 8)


def _octal(field: bytes, where: str) -> int:
    """A number in octal, or in base 256 if its first bit is set (GNU tar), where it can be negative."""
    try:
        number = -1
        if not field[0] & 0x80:
            number = _octal_digits(field)
        elif not field[0] & 0x40:
            number = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    except ValueError:
        pass
    if not 0 <= number <= MAX_MEMBER_BYTES:
        raise damaged_error(where, "a header has an invalid size")
    return number


def _number(text: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 20 or int(text) > MAX_MEMBER_BYTES:
        raise damaged_error(where, "a header has an invalid size")
    return int(text)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _short_text(flow: BufferedSource, size: int) -> bytes:
    if size > MAX_PAX_BYTES:
        raise unsafe_error(flow.where, f"a header in it declares a length of {size:,} bytes")
    text = flow.take(size)
    if len(text) < size:
        raise truncated_error(flow.where)
    _skip_padding(flow, size)
    return text


def _records(kind: str, text: bytes, where: str) -> dict[str, str]:
    """The contents of an extended header: pax records (`length key=value`), or GNU's long name or link."""
    if kind in "LK":
        return {"path" if kind == "L" else "linkpath": _text(text)}
    records = {}
    while text:
        length, _, _ = text.partition(b" ")
        count = int(length) if length.isdigit() and len(length) < 8 else 0
        key, equals, value = text[len(length) + 1 : count - 1].partition(b"=")
        if not equals or text[count - 1 : count] != b"\n":
            raise damaged_error(where, "a pax header is malformed")
        if key in (b"path", b"linkpath") and b"\0" in value:
            raise damaged_error(where, "a path in it contains a NUL byte")
        name = key.decode("utf-8", "replace")
        # an empty value means that the field of the header applies (POSIX.1-2001, pax)
        if name in PAX_KEYS and value:
            records[name] = value.decode("utf-8", "surrogateescape")
        text = text[count:]
    return records


def _skip_sparse_map(flow: BufferedSource, extended: int) -> None:
    while extended:
        block = flow.take(BLOCK)
        if len(block) < BLOCK:
            raise truncated_error(flow.where)
        extended = block[504]


def _skip_padding(flow: BufferedSource, size: int) -> None:
    flow.skip(-size % BLOCK)
