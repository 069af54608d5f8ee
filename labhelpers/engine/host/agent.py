"""What runs inside the helper container of `HostView`. Its text is the container's command.

One JSON object a line on standard input, one on standard output: `{"answer": …}`, or `{"error": …}`. It ends
when standard input does. It opens files for reading only, and starts no program but those that it is asked for.
"""

import json
import os
import select
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

FILE_BYTES = 16 << 20
"""No text of the kernel is longer; /proc/kcore is."""
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def answer(request: dict[str, Any]) -> Any:
    """The answer to one request."""
    return REQUESTS[request.pop("do")](**request)


def for_each_path(read_one: Callable[[str], str], paths: list[str]) -> dict[str, dict[str, str]]:
    """`read_one` at every path: what was found, and the error of each that failed."""
    found, failed = {}, {}
    for path in paths:
        try:
            found[path] = read_one(path)
        except OSError as error:
            failed[path] = error.strerror or str(error)
    return {"found": found, "failed": failed}


def read(path: str, begin_bytes: int | None = None) -> str:
    """The text of a file of the host: the kernel's own, or one below the root of the engine's process."""
    if not path.startswith(("/proc/", "/sys/")):
        path = resolve(os.getppid(), path)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(0, "not a text file")
    text = b""
    with open(path, "rb", buffering=0) as file:
        # not in one go: below /proc/sys the kernel sets aside as much memory as one read asks for
        while part := file.read(1 << 16):
            text += part
            if begin_bytes is not None and len(text) >= begin_bytes:
                return text[:begin_bytes].decode(errors="replace")
            if len(text) > FILE_BYTES:
                raise OSError(0, f"larger than {FILE_BYTES >> 20} MiB")
    return text.decode(errors="replace")


def processes(only: int | None = None) -> dict[str, Any]:
    """Every process, or one: the texts of its status, cmdline and cgroup, and its namespaces (link texts by name).

    `only` 0 is the engine's own process.
    """
    found: dict[str, Any] = {}
    wanted = filter(str.isdigit, os.listdir("/proc")) if only is None else [str(only or os.getppid())]
    for pid in wanted:
        texts = for_each_path(read, [f"/proc/{pid}/{name}" for name in ("status", "cmdline", "cgroup")])[
            "found"
        ]
        try:
            names = os.listdir(f"/proc/{pid}/ns")
        except OSError:
            names = []
        links = for_each_path(os.readlink, [f"/proc/{pid}/ns/{name}" for name in names])["found"]
        found[pid] = {
            **{os.path.basename(path): text for path, text in texts.items()},
            "ns": {os.path.basename(path): link for path, link in links.items()},
        }
    return found


def run(commands: list[list[str]], net: int | None = None) -> list[list[Any]]:
    """Run commands, in the network namespace of process `net`: [exit status, output, errors] of each."""
    enter = [] if net is None else ["nsenter", f"--net=/proc/{net}/ns/net"]
    done: list[list[Any]] = []
    for command in commands:
        one = subprocess.run([*enter, *command], capture_output=True, stdin=subprocess.DEVNULL)
        # names of interfaces and comments of rules may hold any byte
        output, errors = (part.decode("utf-8", "replace") for part in (one.stdout, one.stderr))
        done.append([one.returncode, output, errors])
    return done


def resolve(pid: int, path: str) -> str:
    """`path` as process `pid` (0: the engine's own) sees it.

    A link's target is taken below that process's root. The kernel would take it below ours.
    """
    root = f"/proc/{pid or os.getppid()}/root"
    todo = [part for part in path.split("/") if part not in ("", ".")][::-1]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            del done[-1:]
            continue
        here = "/".join([root, *done, part])
        if os.path.islink(here):
            links += 1
            if links > 40:
                raise OSError(0, "too many levels of symbolic links")
            target = os.readlink(here)
            done = [] if target.startswith("/") else done
            todo += [name for name in target.split("/") if name not in ("", ".")][::-1]
        else:
            done.append(part)
    return "/".join([root, *done])


def entry(path: str, name: str) -> dict[str, Any]:
    """What is at `path`, without following a link."""
    it = os.lstat(path)
    kind = KINDS.get(stat.S_IFMT(it.st_mode), "other")
    try:
        attributes = {
            key: os.getxattr(path, key, follow_symlinks=False).decode(errors="replace")
            for key in os.listxattr(path, follow_symlinks=False)
        }
    except OSError:
        attributes = {}  # the file system has none, or /proc
    return {
        "path": name,
        "kind": kind,
        "size_bytes": it.st_size,
        "allocated_bytes": it.st_blocks * 512,
        "mode": stat.S_IMODE(it.st_mode),
        "user": it.st_uid,
        "group": it.st_gid,
        "links": it.st_nlink,
        "inode": it.st_ino,
        "modified_ns": it.st_mtime_ns,
        "device": f"{os.major(it.st_rdev)}:{os.minor(it.st_rdev)}" if "device" in kind else "",
        "target": os.readlink(path) if kind == "link" else "",
        "attributes": attributes,
    }


def list_directory(pid: int, path: str, recursive: bool, limit: int) -> dict[str, Any]:
    """What is in a directory, and with `recursive` in those below it; at most `limit` entries."""
    top = resolve(pid, path)
    found: list[dict[str, Any]] = []
    todo = [(top, "")]
    while todo:
        folder, prefix = todo.pop()
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            if folder == top:
                raise
            continue  # it went between two looks
        for one in names:
            if len(found) == limit:
                return {"entries": found, "more": True}
            try:
                seen = entry(f"{folder}/{one}", prefix + one)
            except FileNotFoundError:
                continue  # it went between two looks
            found.append(seen)
            if recursive and seen["kind"] == "directory":
                todo.append((f"{folder}/{one}", f"{prefix}{one}/"))
    return {"entries": found, "more": False}


def entries(pid: int, path: str, names: list[str]) -> dict[str, Any]:
    """What is at each of `names` below a directory, None for nothing; no link on the way is followed."""
    top = resolve(pid, path)
    os.listdir(top)  # it says so if it is no directory
    return {name: lookup_below(top, name) for name in names}


def lookup_below(top: str, name: str) -> dict[str, Any] | None:
    """What is at `name` below `top`, if directories lead to it."""
    here = top
    *above, last = name.split("/")
    try:
        for part in above:
            here = f"{here}/{part}"
            if not stat.S_ISDIR(os.lstat(here).st_mode):
                return None
        return entry(f"{here}/{last}", name)
    except FileNotFoundError:
        return None


def disk_usage(pid: int, path: str) -> dict[str, int]:
    """What a file or directory takes, as `du -x` counts: each inode once, one file system only."""
    top = resolve(pid, path)
    first = os.lstat(top)
    counts = {"files": 0, "directories": 0, "allocated_bytes": 0, "apparent_bytes": 0}
    seen: set[int] = set()
    todo = [top]
    while todo:
        here = todo.pop()
        try:
            it = os.lstat(here)
            if it.st_dev != first.st_dev or it.st_ino in seen:
                continue
            seen.add(it.st_ino)
            is_directory = stat.S_ISDIR(it.st_mode)
            if is_directory:
                todo += [f"{here}/{name}" for name in os.listdir(here)]
        except FileNotFoundError:
            if here == top:
                raise
            continue  # it went between two looks
        counts["directories" if is_directory else "files"] += 1
        counts["allocated_bytes"] += it.st_blocks * 512
        counts["apparent_bytes"] += it.st_size
    return counts


def stream(paths: list[str], every_s: float) -> None:
    """Write the texts of `paths` every `every_s` seconds, until standard input ends."""
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
        at = time.monotonic()
        write_line({"answer": {"at_s": at, **for_each_path(read, paths)}})
        # a tick that was missed is left out, not made up for
        due += every_s * max(1, -(-(time.monotonic() - due) // every_s))
    sys.exit()


def write_line(message: Any) -> None:
    """One line on standard output."""
    print(json.dumps(message), flush=True)


REQUESTS: dict[str, Callable[..., Any]] = {
    "read": lambda paths, **how: for_each_path(lambda path: read(path, **how), paths),
    "processes": processes,
    "run": run,
    "contents": list_directory,
    "entries": entries,
    "real_path": lambda pid, path: (
        resolve(pid, path).removeprefix(f"/proc/{pid or os.getppid()}/root") or "/"
    ),
    "use": disk_usage,
    "stream": stream,
}

if __name__ == "__main__":
    # not `for line in sys.stdin`: select() in stream() does not see what a buffer holds
    while request := sys.stdin.readline():
        try:
            message = {"answer": answer(json.loads(request))}
        except (OSError, ValueError) as error:
            # ValueError: a path with a zero byte
            message = {"error": getattr(error, "strerror", None) or str(error)}
        write_line(message)
