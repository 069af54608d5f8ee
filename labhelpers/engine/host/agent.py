"""The program in the helper container of `HostView`. The source is passed as the container's command.

It reads one JSON object per line from standard input and writes one per request to standard output:
`{"response": …}`, or `{"error": …}`. It exits at the end of standard input. It opens files for reading only, and
runs only the programs that a request names.
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
"""No text file of the kernel is larger; /proc/kcore is."""
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def respond(request: dict[str, Any]) -> Any:
    """The response to one request."""
    return REQUESTS[request.pop("do")](**request)


def for_each_path(read_one: Callable[[str], str], paths: list[str]) -> dict[str, dict[str, str]]:
    """The results of `read_one` by path, and the errors by path."""
    texts, errors = {}, {}
    for path in paths:
        try:
            texts[path] = read_one(path)
        except OSError as error:
            errors[path] = error.strerror or str(error)
    return {"texts": texts, "errors": errors}


def read(path: str, begin_bytes: int | None = None) -> str:
    """The text of a file of the host: below /proc or /sys, or in the root file system of the engine's process."""
    if not path.startswith(("/proc/", "/sys/")):
        path = resolve(os.getppid(), path)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(0, "not a text file")
    text = b""
    with open(path, "rb", buffering=0) as file:
        # in pieces: below /proc/sys the kernel allocates a buffer of the requested size
        while part := file.read(1 << 16):
            text += part
            if begin_bytes is not None and len(text) >= begin_bytes:
                return text[:begin_bytes].decode(errors="replace")
            if len(text) > FILE_BYTES:
                raise OSError(0, f"larger than {FILE_BYTES >> 20} MiB")
    return text.decode(errors="replace")


def processes(only: int | None = None) -> dict[str, Any]:
    """The status, cmdline, cgroup and namespaces (link targets by name) of each process, or of one.

    `only` 0 is the engine's own process.
    """
    records: dict[str, Any] = {}
    pids = filter(str.isdigit, os.listdir("/proc")) if only is None else [str(only or os.getppid())]
    for pid in pids:
        files = [f"/proc/{pid}/{name}" for name in ("status", "cmdline", "cgroup")]
        texts = for_each_path(read, files)["texts"]
        try:
            names = os.listdir(f"/proc/{pid}/ns")
        except OSError:
            names = []
        links = for_each_path(os.readlink, [f"/proc/{pid}/ns/{name}" for name in names])["texts"]
        records[pid] = {
            **{os.path.basename(path): text for path, text in texts.items()},
            "ns": {os.path.basename(path): link for path, link in links.items()},
        }
    return records


def run(commands: list[list[str]], net: int | None = None) -> list[list[Any]]:
    """Run commands, in the network namespace of process `net`: [exit status, stdout, stderr] of each."""
    enter = [] if net is None else ["nsenter", f"--net=/proc/{net}/ns/net"]
    results: list[list[Any]] = []
    for command in commands:
        completed = subprocess.run([*enter, *command], capture_output=True, stdin=subprocess.DEVNULL)
        # names of interfaces and comments of rules may hold any byte
        stdout, stderr = (text.decode("utf-8", "replace") for text in (completed.stdout, completed.stderr))
        results.append([completed.returncode, stdout, stderr])
    return results


def resolve(pid: int, path: str) -> str:
    """`path` below the root of process `pid` (0: the engine's own), with symbolic links resolved.

    Absolute link targets are resolved below that root; the kernel would resolve them below this process's root.
    """
    root = f"/proc/{pid or os.getppid()}/root"
    remaining = [part for part in path.split("/") if part not in ("", ".")][::-1]
    resolved: list[str] = []
    links = 0
    while remaining:
        part = remaining.pop()
        if part == "..":
            del resolved[-1:]
            continue
        current = "/".join([root, *resolved, part])
        if os.path.islink(current):
            links += 1
            if links > 40:
                raise OSError(0, "too many levels of symbolic links")
            target = os.readlink(current)
            resolved = [] if target.startswith("/") else resolved
            remaining += [name for name in target.split("/") if name not in ("", ".")][::-1]
        else:
            resolved.append(part)
    return "/".join([root, *resolved])


def entry(path: str, name: str) -> dict[str, Any]:
    """The attributes of the file at `path`; a symbolic link is not followed."""
    status = os.lstat(path)
    kind = KINDS.get(stat.S_IFMT(status.st_mode), "other")
    try:
        attributes = {
            key: os.getxattr(path, key, follow_symlinks=False).decode(errors="replace")
            for key in os.listxattr(path, follow_symlinks=False)
        }
    except OSError:
        attributes = {}  # not supported by the file system, such as proc
    return {
        "path": name,
        "kind": kind,
        "size_bytes": status.st_size,
        "allocated_bytes": status.st_blocks * 512,
        "mode": stat.S_IMODE(status.st_mode),
        "user": status.st_uid,
        "group": status.st_gid,
        "links": status.st_nlink,
        "inode": status.st_ino,
        "modified_ns": status.st_mtime_ns,
        "device": f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if "device" in kind else "",
        "target": os.readlink(path) if kind == "link" else "",
        "attributes": attributes,
    }


def list_directory(pid: int, path: str, recursive: bool, limit: int) -> dict[str, Any]:
    """The entries of a directory, with `recursive` also of its subdirectories; at most `limit`."""
    top = resolve(pid, path)
    rows: list[dict[str, Any]] = []
    pending = [(top, "")]
    while pending:
        folder, prefix = pending.pop()
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            if folder == top:
                raise
            continue  # removed since it was listed
        for name in names:
            if len(rows) == limit:
                return {"entries": rows, "truncated": True}
            try:
                row = entry(f"{folder}/{name}", prefix + name)
            except FileNotFoundError:
                continue  # removed since it was listed
            rows.append(row)
            if recursive and row["kind"] == "directory":
                pending.append((f"{folder}/{name}", f"{prefix}{name}/"))
    return {"entries": rows, "truncated": False}


def entries(pid: int, path: str, names: list[str]) -> dict[str, Any]:
    """The entry at each of `names` below a directory; None where there is none or a parent is a symbolic link."""
    top = resolve(pid, path)
    os.listdir(top)  # raises NotADirectoryError
    return {name: lookup_below(top, name) for name in names}


def lookup_below(top: str, name: str) -> dict[str, Any] | None:
    """The entry at `name` below `top`, if all its parents are directories."""
    current = top
    *parents, last = name.split("/")
    try:
        for part in parents:
            current = f"{current}/{part}"
            if not stat.S_ISDIR(os.lstat(current).st_mode):
                return None
        return entry(f"{current}/{last}", name)
    except FileNotFoundError:
        return None


def disk_usage(pid: int, path: str) -> dict[str, int]:
    """Disk space that a file or directory uses, as `du -x` counts it: each inode once, one file system."""
    top = resolve(pid, path)
    device = os.lstat(top).st_dev
    counts = {"files": 0, "directories": 0, "allocated_bytes": 0, "apparent_bytes": 0}
    inodes: set[int] = set()
    pending = [top]
    while pending:
        current = pending.pop()
        try:
            status = os.lstat(current)
            if status.st_dev != device or status.st_ino in inodes:
                continue
            inodes.add(status.st_ino)
            is_directory = stat.S_ISDIR(status.st_mode)
            if is_directory:
                pending += [f"{current}/{name}" for name in os.listdir(current)]
        except FileNotFoundError:
            if current == top:
                raise
            continue  # removed since it was listed
        counts["directories" if is_directory else "files"] += 1
        counts["allocated_bytes"] += status.st_blocks * 512
        counts["apparent_bytes"] += status.st_size
    return counts


def stream(paths: list[str], every_s: float) -> None:
    """Write the texts of `paths` every `every_s` seconds, until standard input ends."""
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
        at = time.monotonic()
        write_line({"response": {"at_s": at, **for_each_path(read, paths)}})
        # missed ticks are skipped
        due += every_s * max(1, -(-(time.monotonic() - due) // every_s))
    sys.exit()


def write_line(message: Any) -> None:
    """One line on standard output."""
    print(json.dumps(message), flush=True)


REQUESTS: dict[str, Callable[..., Any]] = {
    "read": lambda paths, **options: for_each_path(lambda path: read(path, **options), paths),
    "processes": processes,
    "run": run,
    "list_directory": list_directory,
    "entries": entries,
    "real_path": lambda pid, path: (
        resolve(pid, path).removeprefix(f"/proc/{pid or os.getppid()}/root") or "/"
    ),
    "disk_usage": disk_usage,
    "stream": stream,
}

if __name__ == "__main__":
    # not `for line in sys.stdin`: select() in stream() does not see buffered input
    while request := sys.stdin.readline():
        try:
            message = {"response": respond(json.loads(request))}
        except (OSError, ValueError) as error:
            # ValueError: a path with a null byte
            message = {"error": getattr(error, "strerror", None) or str(error)}
        write_line(message)
