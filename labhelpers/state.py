"""The state directory: all files of the lab outside the checkout.

`LABHELPERS_HOME` if it is set; else `$XDG_STATE_HOME/labhelpers`; else `~/.local/state/labhelpers`
(XDG Base Directory Specification). Imports the standard library only, because `labhelpers.commandline.bootstrap` uses
it before there is an environment.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from labhelpers.errors import SetupFailed

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PACKAGE = Path(__file__).resolve().parent
_BUNDLE = _PACKAGE / "bundle"

IS_CHECKOUT = not _BUNDLE.is_dir()
"""Whether the package runs from a checkout; False if it was installed from a wheel."""

ROOT = _PACKAGE.parent if IS_CHECKOUT else _BUNDLE
"""`notebooks/`, `images/` and `assets/` as shipped: the checkout, or the wheel's copy. Read-only."""

CONTENTS = (
    *("cache", "course", "docker", "engine", "env", "gateways", "jupyter", "locks", "sessions", "ssh"),
    *("test-engines", "work"),
    *("packages.json", "predictions.json", "progress.json", "course.json", "vm-accel.json", "images.json"),
)
"""The names that the lab uses in the state directory. `remove` removes nothing else: the reader may have chosen a
directory with other files in it."""

# errors of flock(2) on a file system without locks: NFS without lockd, some FUSE and 9p mounts
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}
_LOCKS_ELSEWHERE = "LABHELPERS_LOCKS"
_DISK_FULL_ERRORS = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_DENIED_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS}
DISK_ERRORS = frozenset(_DISK_FULL_ERRORS | {errno.EROFS})
"""Errors of a write to a full or read-only disk."""


def normalize_environment() -> None:
    """Work around unusual environments that would make this process, or those that it starts, fail.

    Characters missing from the terminal's encoding are escaped. The umask must not deny the owner access. `HOME` is set
    for a user without a passwd entry, and a TMPDIR that does not exist is ignored.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if (mask := os.umask(0o077)) & 0o700 == 0:
        os.umask(mask)
    if not os.path.isdir(os.environ.get("TMPDIR") or "/"):
        del os.environ["TMPDIR"]
    if _user_home() is None and os.environ.get("LABHELPERS_HOME"):
        with suppress(SetupFailed):
            os.environ["HOME"] = str(location())


def _user_home() -> Path | None:
    if os.environ.get("HOME") == "":
        del os.environ["HOME"]  # "" would be the root directory; without HOME, the passwd entry is used
    try:
        directory = Path.home()
    except RuntimeError:  # no HOME, and the user id is not in the passwd database
        return None
    return directory if directory.is_absolute() else None


def location() -> Path:
    """The path of the state directory, which may not exist.

    A relative or `~` path in `LABHELPERS_HOME` is replaced with an absolute one in the environment, so that child
    processes in other directories use the same directory.

    Raises:
        SetupFailed: it cannot be determined.
    """
    configured = os.environ.get("LABHELPERS_HOME")
    if configured:
        try:
            directory = Path(configured).expanduser().absolute()
        except RuntimeError as error:
            raise SetupFailed(
                f"LABHELPERS_HOME is {configured!r}, but that user or home directory does not exist",
                hint="use an absolute path: `LABHELPERS_HOME=/path/to/directory`",
            ) from error
        os.environ["LABHELPERS_HOME"] = str(directory)
        return directory
    base = os.environ.get("XDG_STATE_HOME") or ""
    if os.path.isabs(base):  # the specification: a relative path is invalid and is ignored
        return Path(base) / "labhelpers"
    user = _user_home()
    if user is None:
        raise SetupFailed(
            "you have no home directory: HOME is not set, and your user ID has no passwd entry",
            hint="choose a directory for the lab's files: `export LABHELPERS_HOME=/path/to/directory`",
        )
    return user / ".local" / "state" / "labhelpers"


def home() -> Path:
    """The state directory, created if it does not exist.

    Raises:
        SetupFailed: it cannot be created.
    """
    directory = location()
    _create(directory, mode=0o700)
    return directory


def path(*parts: str) -> Path:
    """A path below the state directory; its parent is created if it does not exist.

    Raises:
        SetupFailed: the parent cannot be created.
    """
    target = home().joinpath(*parts)
    _create(target.parent)
    return target


def _create(folder: Path, mode: int = 0o777) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise directory_error(error, folder) from error


def directory_error(error: OSError, target: Path) -> SetupFailed:
    """The error for a failed access to the lab's file or directory `target`."""
    largest = "use a directory on a larger disk: `export LABHELPERS_HOME=/path/to/directory`"
    other = "use another directory for the lab's files: `export LABHELPERS_HOME=/path/to/directory`"
    if error.errno in _DISK_FULL_ERRORS:
        free = _free_bytes(target) // 1_000_000
        return SetupFailed(
            f"no space left on device: {target} cannot be written ({free} MB free)",
            hint=f"free some space, then try again; or {largest}",
            engine_message=str(error),
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        message = f"the state directory cannot be used: {target} or one of its parents is a file"
    elif error.errno in _DENIED_ERRORS:
        message = f"the state directory cannot be used: no permission to write {target}"
    else:
        message = f"the state directory cannot be used: {target}"
    return SetupFailed(message, hint=other, engine_message=str(error))


def _free_bytes(target: Path) -> int:
    for folder in (target, *target.parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return 0


def abbreviate_home(text: object) -> str:
    """`text` with the reader's home directory written as `~`, for messages and pages.

    Only at the beginning of a path: `root` in `ssh://root@host` is not a directory, and `/root` after a colon is in a
    container.
    """
    try:
        directory = Path.home()
    except RuntimeError:  # no HOME, and no passwd entry
        return str(text)
    if not directory.is_absolute() or directory == Path(directory.anchor):
        return str(text)
    whole = rf"(?:(?<=://)|(?<![\w/.:~-])){re.escape(str(directory))}(?![\w@-]|\.\w)"
    return re.sub(whole, "~", str(text))


def read_json(name: str, default: Any) -> Any:
    """The JSON file `name` of the state directory.

    `default` if the file is missing or damaged, or its value does not have the type of `default` (None: any type).
    """
    try:
        value = json.loads(path(name).read_text(encoding="utf-8", errors="surrogatepass"))
    except (OSError, ValueError, RecursionError):
        return default
    return value if default is None or isinstance(value, type(default)) else default


def write_json(name: str, data: Any) -> None:
    """Write the JSON file `name` atomically.

    Raises:
        SetupFailed: the disk is full or read-only.
    """
    target = path(name)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        # a path may have bytes that are not UTF-8; Python represents each as a lone surrogate
        partial.write_text(text, encoding="utf-8", errors="surrogatepass")
        partial.replace(target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise directory_error(error, target) from error


@contextmanager
def locked(name: str, timeout_s: float = 900, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the lock `name` between processes; `waiting` is called once if another process holds it.

    Raises:
        SetupFailed: the lock was not free within `timeout_s`, or cannot be created.
    """
    lock_path = lock_file("locks", name)
    try:
        file = lock_path.open("a", encoding="utf-8")
    except OSError as error:
        raise directory_error(error, lock_path) from error
    with file:
        end = time.monotonic() + timeout_s
        acquired = _acquired(file)
        if not acquired and waiting:
            waiting()
        while not acquired:
            if time.monotonic() > end:
                raise SetupFailed(
                    f"timed out after {timeout_s:.0f} s waiting for the lock “{name}”, held by another lab "
                    "command",
                    hint="wait for it or stop it, then try again",
                )
            time.sleep(0.05)
            acquired = _acquired(file)
        yield  # closing the file releases the lock


def _acquired(file: TextIO) -> bool:
    """Whether this process now holds the lock of `file` (flock(2))."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def lock_file(*parts: str) -> Path:
    """The file to lock for `parts` of the state directory.

    If that directory's file system does not support locks, it is a file of the same name on a local disk: locks then
    still work between processes of one machine. The file in the state directory is created as well, so that it can be
    listed.
    """
    target = path(*parts)
    elsewhere = _locks_elsewhere()
    if elsewhere is None:
        return target
    with suppress(OSError):
        target.touch()
    local = elsewhere.joinpath(*parts)
    _create(local.parent)
    return local


def _locks_elsewhere() -> Path | None:
    """A directory for locks outside the state directory, or None if the state directory's file system supports them."""
    if sys.platform == "win32":
        return None
    if named := os.environ.get(_LOCKS_ELSEWHERE):
        of, _, directory = named.partition("|")
        if of == str(home()):
            return Path(directory)
    try:
        with path("locks", ".probe").open("a", encoding="utf-8") as probe:
            fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            return None  # locked by another process, or not writable: reported when the lock is acquired
        reason = error.strerror
    else:
        return None
    local = _local_directory()
    print(
        f"locks: the file system of {home()} does not support them ({reason}); using {local}. Do not use "
        "this state directory from two machines at once.",
        file=sys.stderr,
    )
    # child processes use it too, without this message
    os.environ[_LOCKS_ELSEWHERE] = f"{home()}|{local}"
    return local


def _local_directory() -> Path:
    """A directory of this user on a local disk, the same for all processes that use this state directory."""
    name = f"labhelpers-{os.getuid()}-{hashlib.sha256(os.fsencode(home())).hexdigest()[:12]}"
    for base in ("/tmp", "/var/tmp", tempfile.gettempdir()):
        folder = Path(base) / name
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            usable = folder.stat().st_uid == os.getuid() and not folder.is_symlink()
            with (folder / "probe").open("a", encoding="utf-8") as probe:
                fcntl.flock(probe, fcntl.LOCK_SH)
        except OSError:
            continue
        if usable:
            return folder
    raise SetupFailed(
        f"neither the file system of {home()} nor /tmp supports file locks, which lab commands need",
        hint="use a directory on a local disk: `export LABHELPERS_HOME=/path/to/directory`",
    )


def course_directory() -> Path:
    """A directory with `notebooks/` in which the reader works: the checkout, or a copy of the wheel's notebooks.

    After an upgrade of the package, files that the reader has not changed are replaced.

    Raises:
        SetupFailed: the copy cannot be written.
    """
    if IS_CHECKOUT:
        return ROOT
    copy = path("course", "notebooks").parent
    shipped = {
        file.relative_to(ROOT).as_posix(): file for file in sorted((ROOT / "notebooks").rglob("*.ipynb"))
    }
    known: dict[str, str] = read_json("course.json", {})
    copied = dict(known)
    for name, file in shipped.items():
        content, target = file.read_bytes(), copy / name
        digest = hashlib.sha256(content).hexdigest()
        current = target.read_bytes() if target.is_file() else None
        if current is None or (known.get(name) == hashlib.sha256(current).hexdigest() != digest):
            _create(target.parent)
            try:
                target.write_bytes(content)
            except OSError as error:
                raise directory_error(error, target) from error
            copied[name] = digest
    if copied != known:
        write_json("course.json", copied)
    return copy


def remove() -> list[Path]:
    """Remove the lab's files from the state directory, and that directory if nothing else is in it.

    Returns:
        The remaining files: not the lab's, or not removable.
    """
    folder = location()
    for pattern in (*CONTENTS, "*.damaged*", "*.partial"):
        for entry in folder.glob(pattern):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with suppress(OSError):
                    entry.unlink()
    with suppress(OSError):
        folder.rmdir()
    return sorted(folder.iterdir()) if folder.exists() else []
