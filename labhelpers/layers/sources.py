"""Streams of bytes that are read once, from front to back, in bounded memory: buffered, hashed, decompressed.

Compression formats: gzip (RFC 1952), zstd (RFC 8878), bzip2 and xz.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Protocol

import zstandard

from labhelpers.errors import BadArchive
from labhelpers.layers.archive_errors import truncated_error

CHUNK = 1 << 20
# small, because the input left over after each gzip member is copied
STEP = 1 << 14
# RFC 8878 lets a frame request far more memory than a layer needs; `zstd --long` requests 2^27
MAX_ZSTD_WINDOW = 1 << 27
# `xz -9` needs 65 MiB, but a header can request 4 GiB
MAX_XZ_MEMORY_BYTES = 1 << 28
MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0"}
MAGIC_BYTES = 6
# RFC 8878, "Skippable Frames": 16 magic numbers; zstd:chunked may start with such a frame
SKIPPABLE = b"\x2a\x4d\x18"


class Source(Protocol):
    """A forward-only stream of bytes."""

    def read(self, count: int, /) -> bytes:
        """Read at most `count` bytes; empty at the end."""

    def skip(self, count: int, /) -> int:
        """Skip at most `count` bytes, and return how many were skipped."""


class File:
    """A local file; skipped bytes are not read."""

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
    """Bytes that arrive in chunks, such as a response of the engine."""

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
    """A source that updates a hash with every byte, skipped bytes included."""

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
    """Computes the SHA-256 of ranges of a file on all cores, while its headers are read.

    hashlib releases the GIL. Leaving the `with` block cancels pending ranges.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def __enter__(self) -> ParallelHasher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def sha256(self, begin: int, size: int) -> Callable[[], str]:
        """Start to hash a range; the returned function waits for its digest in hexadecimal."""
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
    """The compression format of data by its first `MAGIC_BYTES`: a key of `MAGIC`, or None.

    Engines detect it in the same way and ignore media types and file names (moby, pkg/archive, DetectCompression).
    """
    if begin[1:4] == SKIPPABLE and begin[0] & 0xF0 == 0x50:
        return "zstd"
    return next((kind for kind, magic in MAGIC.items() if begin.startswith(magic)), None)


class Unpacked:
    """Decompresses a source in chunks of at most `CHUNK` bytes: a few compressed bytes can expand to gigabytes.

    Args:
        kind: the compression format, from `compression`.

    Raises:
        BadArchive: from `read`: the data is damaged or truncated.
    """

    def __init__(self, source: Source, where: str, kind: str) -> None:
        self._where = where
        self._read: Callable[[int], bytes]
        if kind == "zstd":
            unpack = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
            joined: Any = source  # the library needs `read` only
            self._read = unpack.stream_reader(joined, read_across_frames=True).read
        else:
            self._read = _Members(source, where, kind).read

    def read(self, count: int, /) -> bytes:
        """As `Source.read`."""
        try:
            return self._read(min(count, CHUNK))
        except (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError, EOFError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno:
                raise  # an error of the disk; those of bz2 have no errno
            raise BadArchive(
                f"{self._where} cannot be decompressed: its compressed data is damaged",
                hint="download or save the archive again",
                engine_message=str(error),
            ) from None

    def skip(self, count: int, /) -> int:
        """As `Source.skip`."""
        return skip_by_reading(self, count)


class _Members:
    """Concatenated compressed streams (eStargz has many gzip members), each with its own checksum at the end."""

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
                # zeros may pad the last block of a tape or, with xz, a multiple of four bytes
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
    """Skip `count` bytes by reading them, and return how many were skipped."""
    left = count
    while left:
        part = source.read(min(left, CHUNK))
        if not part:
            break
        left -= len(part)
    return count - left


class BufferedSource:
    """A source with a buffer, for fast reads of a few bytes.

    Attributes:
        where: name of the source in messages.
    """

    def __init__(self, source: Source, where: str, chunk: int = CHUNK) -> None:
        self._source, self.where, self._chunk = source, where, chunk
        self._window, self._at, self._before = b"", 0, 0

    @property
    def position(self) -> int:
        """Number of bytes that were read or skipped."""
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
        """The next `count` bytes, without consuming them."""
        part = self.take(count)
        self._at -= len(part)
        return part

    def read_available(self, limit: int) -> bytes:
        """Up to `limit` bytes from the buffer, which is refilled only if it is empty; empty at the end."""
        if self._at == len(self._window):
            self._fill(1)
        return self.take(min(limit, len(self._window) - self._at))

    def skip(self, count: int) -> int:
        """Skip `count` bytes, and return how many were skipped."""
        buffered = min(count, len(self._window) - self._at)
        self._at += buffered
        if buffered == count:
            return count
        beyond = self._source.skip(count - buffered)
        self._before += beyond
        return buffered + beyond

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
    """The next `size` bytes of a source."""

    def __init__(self, flow: BufferedSource, size: int) -> None:
        self._flow, self._left = flow, size

    def read(self, count: int, /) -> bytes:
        """As `Source.read`."""
        part = self._flow.read_available(min(count, self._left)) if self._left else b""
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
        """Skip the rest."""
        self.skip(self._left)
