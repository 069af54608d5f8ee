"""Tar archives read once, from front to back, in bounded memory: headers in full, contents only where asked.

The formats: POSIX.1-2001 (pax), ustar, and GNU tar's long names and sparse files
(GNU tar manual, "Basic Tar Format"), and the headers of Unix V7; gzip (RFC 1952), zstd (RFC 8878), bzip2 and
xz around them. What a header says is read as Go's archive/tar does, which engines use. Nothing is ever
unpacked to a disk. Python's `tarfile` takes some ten times as long per header, and keeps all of them.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, NamedTuple, Protocol

import zstandard

from labhelpers.errors import BadArchive

BLOCK = 512
CHUNK = 1 << 20
# small: what stands behind the end of each of gzip's members is copied
STEP = 1 << 14
ZEROS = bytes(BLOCK)
# Linux's PATH_MAX; a pax record may claim any length
MAX_PATH_BYTES = 4096
MAX_PAX_BYTES = 1 << 20
# RFC 8878 lets a frame ask for far more memory than a layer needs; `zstd --long` asks for 2^27
MAX_ZSTD_WINDOW = 1 << 27
# `xz -9` needs 65 MiB, and a header may ask for 4 GiB
MAX_XZ_MEMORY_BYTES = 1 << 28
# archive/tar's and containerd's largest number of bytes
MAX_MEMBER_BYTES = (1 << 63) - 1
MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0"}
MAGIC_BYTES = 6
# RFC 8878, "Skippable Frames": 16 numbers; zstd:chunked may begin with one
SKIPPABLE = b"\x2a\x4d\x18"
PAX_KEYS = frozenset(
    ("path", "linkpath", "size", "GNU.sparse.name", "GNU.sparse.size", "GNU.sparse.realsize")
)
HEADER_ONLY = frozenset("123456")
KINDS = {"\0": "file", "0": "file", "7": "file", "S": "file", "1": "hard link", "2": "link"}
KINDS |= {"3": "device", "4": "device", "5": "directory", "6": "pipe"}


class Member(NamedTuple):
    """One header of a tar archive.

    Attributes:
        name: as the archive says it, undecodable bytes kept as surrogates.
        kind: file, hard link, link (symbolic), device, directory, pipe, or other.
        bytes: the size of the file; 0 for what has no content.
        stored_bytes: what the archive holds of it.
        target: where a link leads, else empty.
    """

    name: str
    kind: str
    bytes: int
    stored_bytes: int
    target: str


class Source(Protocol):
    """Where bytes come from."""

    def read(self, count: int, /) -> bytes:
        """At most `count` bytes; none at the end."""

    def skip(self, count: int, /) -> int:
        """Go past at most `count` bytes; how many there were."""


class File:
    """A file of this machine; what is skipped is not read."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, count: int, /) -> bytes:
        """As `Source.read`."""
        part = self._file.read(count)
        self._left -= len(part)
        return part

    def skip(self, count: int, /) -> int:
        """As `Source.skip`."""
        count = min(count, self._left)
        self._file.seek(count, 1)
        self._left -= count
        return count


class Chunks:
    """Bytes that arrive in pieces, such as what the engine sends."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = iter(chunks), b""

    def read(self, count: int, /) -> bytes:
        """As `Source.read`."""
        while not self._rest:
            more = next(self._chunks, None)
            if more is None:
                return b""
            self._rest = more
        part, self._rest = self._rest[:count], self._rest[count:]
        return part

    def skip(self, count: int, /) -> int:
        """As `Source.skip`."""
        return skip_by_reading(self, count)


class Hashed:
    """A source whose every byte is shown to a hash; skipping reads."""

    def __init__(self, source: Source, total: Any) -> None:
        self._source, self._total = source, total

    def read(self, count: int, /) -> bytes:
        """As `Source.read`."""
        part = self._source.read(count)
        self._total.update(part)
        return part

    def skip(self, count: int, /) -> int:
        """As `Source.skip`."""
        return skip_by_reading(self, count)


class ParallelHasher:
    """SHA-256 of ranges of a file, recomputed on all cores while its headers are read.

    hashlib lets other threads run while it works. A block that is left ends what is not done yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def __enter__(self) -> ParallelHasher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def sha256(self, begin: int, size: int) -> Callable[[], str]:
        """Begin with a range; what is given back waits for its digest, in hexadecimal digits."""
        return self._pool.submit(self._sha256, begin, size).result

    def _sha256(self, begin: int, size: int) -> str:
        total = hashlib.sha256()
        with open(self._path, "rb", buffering=0) as file:
            file.seek(begin)
            while size > 0 and (part := file.read(min(size, CHUNK))):
                total.update(part)
                size -= len(part)
        return total.hexdigest()


def compression(begin: bytes) -> str | None:
    """What data are compressed with, by their first `MAGIC_BYTES`: a key of `MAGIC`, or None.

    Engines decide in the same way, whatever a media type or a file name says (moby, pkg/archive,
    DetectCompression).
    """
    if begin[1:4] == SKIPPABLE and begin[0] & 0xF0 == 0x50:
        return "zstd"
    return next((kind for kind, magic in MAGIC.items() if begin.startswith(magic)), None)


class Unpacked:
    """What a compressed source holds, in pieces of at most `CHUNK` bytes: few packed bytes may hold gigabytes.

    Args:
        kind: what it is compressed with, as `compression` gives it.

    Raises:
        BadArchive: by `read`: the data are damaged, or end before their end.
    """

    def __init__(self, source: Source, where: str, kind: str) -> None:
        self._where = where
        self._read: Callable[[int], bytes]
        if kind == "zstd":
            unpack = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
            joined: Any = source  # the library asks for no more than a `read`
            self._read = unpack.stream_reader(joined, read_across_frames=True).read
        else:
            self._read = _Members(source, where, kind).read

    def read(self, count: int, /) -> bytes:
        """As `Source.read`."""
        try:
            return self._read(min(count, CHUNK))
        except (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError, EOFError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno:
                raise  # of the disk; bzip2's have no number
            raise BadArchive(
                f"{self._where} cannot be unpacked: its compressed data are damaged",
                hint="fetch or save the archive again",
                engine_message=str(error),
            ) from None

    def skip(self, count: int, /) -> int:
        """As `Source.skip`."""
        return skip_by_reading(self, count)


class _Members:
    """Compressed streams that follow one another (eStargz is many of gzip's); each checks its own sum at its end."""

    _NEW: Mapping[str, Callable[[], Any]] = {
        "gzip": lambda: zlib.decompressobj(wbits=31),
        "bzip2": bz2.BZ2Decompressor,
        "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY_BYTES),
    }

    def __init__(self, source: Source, where: str, kind: str) -> None:
        self._source, self._where, self._new = source, where, self._NEW[kind]
        self._packed = b""
        self._member: Any = None
        self._has_begun = False

    def read(self, count: int) -> bytes:
        while True:
            wants_input = self._member is None or getattr(self._member, "needs_input", True)
            if wants_input and not self._packed:
                self._packed = self._source.read(STEP)
                if not self._packed:
                    if self._member is None:
                        return b""
                    raise truncated_error(self._where)
            if self._member is None:
                # zeros may fill up the last block of a tape or, in xz, a multiple of four bytes
                self._packed = self._packed.lstrip(b"\0") if self._has_begun else self._packed
                if not self._packed:
                    continue
                self._member, self._has_begun = self._new(), True
            part: bytes = self._member.decompress(self._packed, count)
            self._packed = getattr(self._member, "unconsumed_tail", b"")
            if self._member.eof:
                self._packed, self._member = self._member.unused_data, None
            if part:
                return part


def skip_by_reading(source: Source, count: int) -> int:
    """Go past `count` bytes by reading them; how many there were."""
    left = count
    while left:
        part = source.read(min(left, CHUNK))
        if not part:
            break
        left -= len(part)
    return count - left


class BufferedSource:
    """A source with a window on it, from which small pieces are cut quickly.

    Attributes:
        where: what it is called in messages.
    """

    def __init__(self, source: Source, where: str, chunk: int = CHUNK) -> None:
        self._source, self.where, self._chunk = source, where, chunk
        self._window, self._at, self._before = b"", 0, 0

    @property
    def position(self) -> int:
        """How many bytes were taken or skipped."""
        return self._before + self._at

    def take(self, count: int) -> bytes:
        """The next `count` bytes; fewer at the end."""
        end = self._at + count
        if end > len(self._window):
            self._fill(count)
            end = self._at + count
        part = self._window[self._at : end]
        self._at += len(part)
        return part

    def peek(self, count: int) -> bytes:
        """The next `count` bytes, which stay to be taken."""
        part = self.take(count)
        self._at -= len(part)
        return part

    def some(self, most: int) -> bytes:
        """What is at hand of the next `most` bytes; none at the end."""
        if self._at == len(self._window):
            self._fill(1)
        return self.take(min(most, len(self._window) - self._at))

    def skip(self, count: int) -> int:
        """Go past `count` bytes; how many there were."""
        at_hand = min(count, len(self._window) - self._at)
        self._at += at_hand
        if at_hand == count:
            return count
        beyond = self._source.skip(count - at_hand)
        self._before += beyond
        return at_hand + beyond

    def _fill(self, count: int) -> None:
        parts = [self._window[self._at :]]
        missing = count - len(parts[0])
        while missing > 0:
            part = self._source.read(max(self._chunk, missing))
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        self._before += self._at
        self._window, self._at = b"".join(parts), 0


class LimitedSource:
    """The next `size` bytes of a flow, as a source of their own."""

    def __init__(self, flow: BufferedSource, size: int) -> None:
        self._flow, self._left = flow, size

    def read(self, count: int, /) -> bytes:
        """As `Source.read`."""
        part = self._flow.some(min(count, self._left)) if self._left else b""
        if self._left and not part:
            raise truncated_error(self._flow.where)
        self._left -= len(part)
        return part

    def skip(self, count: int, /) -> int:
        """As `Source.skip`."""
        count = min(count, self._left)
        if self._flow.skip(count) < count:
            raise truncated_error(self._flow.where)
        self._left -= count
        return count

    def finish(self) -> None:
        """Go to its end."""
        self.skip(self._left)


def members(flow: BufferedSource) -> Iterator[Member]:
    """Every member in order. Between two of them, the caller goes past the member's `stored_bytes`.

    Raises:
        BadArchive: a header is damaged, or the archive ends within a member.
    """
    said: dict[str, str] = {}
    while block := flow.take(BLOCK):
        if block == ZEROS:
            return
        if len(block) < BLOCK:
            raise truncated_error(flow.where)
        kind = chr(block[156])
        size = _checked_size(block, flow.where)
        if kind in "xgLK":
            records = _records(kind, _short_text(flow, size), flow.where)
            # engines do not apply what a global header says; git's says which commit it was
            said.update({} if kind == "g" else records)
            continue
        member = _member(block, kind, size, said, flow)
        said = {}
        yield member
        _to_the_next_block(flow, member.stored_bytes)


def looks_like_tar(block: bytes) -> bool:
    """Whether `block` can begin a tar archive; an empty one is all zeros."""
    return block == ZEROS or (len(block) == BLOCK and _sum_is_right(block))


def truncated_error(where: str) -> BadArchive:
    """The error for an archive that ends too early."""
    return BadArchive(
        f"{where} ends before its end: it was cut short, or a size in it lies",
        hint="compare its size with that of the original; then copy, fetch or save it again",
    )


def damaged_error(where: str, what: str) -> BadArchive:
    """The error for an archive that cannot be read."""
    return BadArchive(f"{where} is damaged: {what}", hint="copy, fetch or save it again")


def printable_name(name: str) -> str:
    """A name from an archive as a message may show it: short, and without what a terminal would obey."""
    short = name if len(name) <= 80 else f"{name[:80]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


def unsafe_error(where: str, what: str) -> BadArchive:
    """The error for an archive that tries what no image needs."""
    return BadArchive(
        f"{where} is not to be trusted: {what}",
        hint="nothing was written; ask whoever made it, and do not unpack it or load it into an engine",
    )


# --- one header


def _member(block: bytes, kind: str, size: int, said: dict[str, str], flow: BufferedSource) -> Member:
    name, target = said.get("path"), said.get("linkpath")
    if name is None:
        name = _text(block[:100])
        # only POSIX's own magic has a prefix; GNU tar keeps other things there
        if block[345] and block[257:263] == b"ustar\0":
            name = f"{_text(block[345:500])}/{name}"
    if target is None:
        target = _text(block[157:257]) if kind in "12" else ""
    if len(name) > MAX_PATH_BYTES or len(target) > MAX_PATH_BYTES:
        raise unsafe_error(
            flow.where, f"a path in it is longer than {MAX_PATH_BYTES} bytes: {printable_name(name[:40])}…"
        )
    if "size" in said:
        size = _number(said["size"], flow.where)
    if kind == "\0" and name.endswith("/"):
        kind = "5"
    whole = size
    if kind == "S":
        whole = _octal(block[483:495], flow.where)
        _past_sparse_map(flow, block[482])
    elif said:
        name = said.get("GNU.sparse.name", name)
        real = said.get("GNU.sparse.realsize", said.get("GNU.sparse.size"))
        whole = whole if real is None else _number(real, flow.where)
    return Member(name, KINDS.get(kind, "other"), whole, 0 if kind in HEADER_ONLY else size, target)


def _checked_size(block: bytes, where: str) -> int:
    if not _sum_is_right(block):
        raise damaged_error(where, "a header's checksum is wrong")
    return _octal(block[124:136], where)


def _sum_is_right(block: bytes) -> bool:
    field = block[148:156]
    try:
        stored = _octal_digits(field)
    except ValueError:
        return False
    # the low half of Adler-32 is 1 + the sum of the bytes, modulo 65,521 (RFC 1950): C's speed for a sum
    found = (zlib.adler32(block) & 0xFFFF) - (zlib.adler32(field) & 0xFFFF) + 8 * 32
    # some old programs took bytes for signed numbers
    signed = found - 256 * sum(byte > 127 for byte in block[:148] + block[156:])
    return (found - stored) % 65521 == 0 or (signed - stored) % 65521 == 0


def _octal_digits(field: bytes) -> int:
    digits = field.strip(b" \0").partition(b"\0")[0].rstrip(b" ")
    if digits and not digits.isdigit():
        raise ValueError
    return int(digits or b"0", 8)


def _octal(field: bytes, where: str) -> int:
    """A number in octal, or in base 256 where its first bit is set (GNU tar); it may be negative there."""
    try:
        number = -1
        if not field[0] & 0x80:
            number = _octal_digits(field)
        elif not field[0] & 0x40:
            number = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    except ValueError:
        pass
    if not 0 <= number <= MAX_MEMBER_BYTES:
        raise damaged_error(where, "a header holds a size that is no number of bytes")
    return number


def _number(text: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 20 or int(text) > MAX_MEMBER_BYTES:
        raise damaged_error(where, "a header holds a size that is no number of bytes")
    return int(text)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _short_text(flow: BufferedSource, size: int) -> bytes:
    if size > MAX_PAX_BYTES:
        raise unsafe_error(flow.where, f"a header in it claims to be {size:,} bytes long")
    text = flow.take(size)
    if len(text) < size:
        raise truncated_error(flow.where)
    _to_the_next_block(flow, size)
    return text


def _records(kind: str, text: bytes, where: str) -> dict[str, str]:
    """What a header before a header says: pax's records (`length key=value`), GNU's long name or link."""
    if kind in "LK":
        return {"path" if kind == "L" else "linkpath": _text(text)}
    said = {}
    while text:
        length, _, _ = text.partition(b" ")
        count = int(length) if length.isdigit() and len(length) < 8 else 0
        key, equals, value = text[len(length) + 1 : count - 1].partition(b"=")
        if not equals or text[count - 1 : count] != b"\n":
            raise damaged_error(where, "the records of a header do not add up")
        if key in (b"path", b"linkpath") and b"\0" in value:
            raise damaged_error(where, "a path in it has a zero byte")
        name = key.decode("utf-8", "replace")
        # an empty value leaves what the header itself says (POSIX.1-2001, pax)
        if name in PAX_KEYS and value:
            said[name] = value.decode("utf-8", "surrogateescape")
        text = text[count:]
    return said


def _past_sparse_map(flow: BufferedSource, goes_on: int) -> None:
    while goes_on:
        block = flow.take(BLOCK)
        if len(block) < BLOCK:
            raise truncated_error(flow.where)
        goes_on = block[504]


def _to_the_next_block(flow: BufferedSource, size: int) -> None:
    flow.skip(-size % BLOCK)
