"""The exercises of the chapter on volumes: the engine's state and the directories on its host prove them.

What the lab creates for an exercise has a name with a random end; what the reader creates has the name in the task.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from labhelpers.course.checks import (
    has_volume,
    is_anonymous,
    made_from,
    mount_at,
    mounts,
    not_a_file,
    not_mounted,
    not_persistent,
    runs,
)
from labhelpers.course.containers import container_named, output_of, running, session_value, stored_value
from labhelpers.course.exercises import Exercise, Task
from labhelpers.lab.names import all_with_suffix
from labhelpers.volumes import common
from labhelpers.volumes.ownership import host_id
from labhelpers.volumes.trees import Tree, difference, files_of, inodes_of, tree_of

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

CHAPTER = "07"
SHELF, COMMA, STAYS, SHOP, CLERK, COPY = all_with_suffix(
    "bookshelf", "bind-fix", "stays", "shop", "clerk", "archive-copy"
)
MOUNT_POINT = "/var/log"
MIN_RUNTIME_S = 10
PAGE = "index.html"


# --- 1: docker create volume


def bookshelf(lab: Lab) -> Exercise:
    """Repair `docker create volume bookshelf`.

    Promise: there is a volume of that name, and a file called `title` is in the directory where the engine keeps it.
    """
    tasks = (
        Task("there", f"The engine has a volume called {SHELF}", has_volume(SHELF), _shelf_hint),
        Task(
            "holds",
            "A container has put a file called title into it",
            lambda lab: not_a_file(
                lab,
                common.directory_of(lab, SHELF),
                "title",
                f"title in {SHELF}",
                f"{SHELF} is there, and holds no file called title",
            ),
            "Any container that has the volume mounted can write it: the volume's name, a colon, a path inside.",
            ("there",),
        ),
    )
    return Exercise(lab, CHAPTER, "bookshelf", "A volume, not an image", tasks, settle_s=0.3)


def _shelf_hint(lab: Lab) -> str:
    if container_named(lab, SHELF):
        return (
            f"{SHELF} is a container now: `docker create` creates one, from the image that its first argument names. "
            "Volumes have commands of their own: see `docker volume --help`."
        )
    return (
        "`docker create` creates a container. It takes the next argument as the name of an image, here `volume`. In "
        "docker's commands, the kind of object comes first, and then the action."
    )


# --- 2: a dot instead of a comma


def desk(lab: Lab) -> str:
    """A directory of the engine's host that a bind mount may have as its source; it is removed with the session."""
    volume = session_value(lab, "desk", lambda: _new_volume(lab, "desk"))
    return common.directory_of(lab, volume)


def _new_volume(lab: Lab, prefix: str) -> str:
    name = f"{prefix}-{secrets.token_hex(2)}"
    with lab.hidden():
        lab.create_volume(name)
    return name


def comma(lab: Lab) -> Exercise:
    """Repair `--mount type=bind.source=…`.

    Promise: what the container writes at /var/log is in the directory on the engine's host. A read-only mount does not
    count, nor another mount on top of it.
    """
    source = desk(lab)
    tasks = (
        runs(
            COMMA,
            "The engine took `bind.source=…` for the name of a type. What separates the fields of --mount?",
        ),
        Task(
            "bound",
            f"Its {MOUNT_POINT} is the directory $desk of the engine's host, as a bind mount",
            lambda lab: _is_bound(lab, source),
            "Three fields: the type, the source, the target. A name without a slash in front is a volume's.",
            ("runs",),
        ),
        Task(
            "arrived",
            "It has written a file called hello there, and the engine's host has it",
            lambda lab: _hello_arrived(lab, source),
            f"`docker exec` runs another process in {COMMA}. Let it write {MOUNT_POINT}/hello.",
            ("bound",),
        ),
    )
    return Exercise(lab, CHAPTER, "comma", "A dot where a comma belongs", tasks, 0.5, (COMMA,))


def _is_bound(lab: Lab, source: str) -> str | None:
    mount = mount_at(lab, COMMA, MOUNT_POINT)
    if mount is None:
        return not_mounted(lab, COMMA, MOUNT_POINT)
    if mount["Type"] != "bind":
        return f"{MOUNT_POINT} is a {mount['Type']}, and not a bind mount"
    if lab.host.real_path(mount["Source"]) != lab.host.real_path(source):
        return f"{MOUNT_POINT} is another directory than $desk"
    return None if mount["RW"] else f"{MOUNT_POINT} is mounted read-only: {COMMA} cannot write there"


def _hello_arrived(lab: Lab, source: str) -> str | None:
    nothing = "$desk has no file called hello, seen from the engine's host"
    if missing := not_a_file(lab, source, "hello", "hello in $desk", nothing):
        return missing
    on_host = lab.host.entries(source, ["hello"])["hello"]
    inside = lab.host.entries(MOUNT_POINT, ["hello"], running(lab, COMMA))["hello"]
    same = on_host is not None and inside is not None and inside.inode == on_host.inode
    return None if same else f"hello in $desk is another file than {MOUNT_POINT}/hello of {COMMA}"


# --- 3: it exits at once


def stays(lab: Lab) -> Exercise:
    """Keep the book's container running.

    Promise: its first process keeps running. It is the process of the container's first start, and has lasted for
    `MIN_RUNTIME_S` seconds: a command that ends a little later, or a restart policy that hides its end, does not pass.
    """
    tasks = (
        runs(STAYS, _stays_hint),
        Task(
            "volume",
            f"It has a volume with a name at {MOUNT_POINT}",
            _has_named_volume,
            f"-v takes a name, a colon, and {MOUNT_POINT}.",
            ("runs",),
        ),
        Task(
            "once",
            "It was never started again: its first process is still the first one",
            _started_once,
            "A restart policy starts it again and again, and each time it ends. Why does it end?",
            ("runs",),
        ),
        Task(
            "lasts",
            f"It has run for {MIN_RUNTIME_S} seconds",
            _has_lasted,
            "Nothing is left to do but to wait. Will its command still be busy then?",
            ("runs", "once"),
        ),
    )
    return Exercise(lab, CHAPTER, "stays", "A container that stays", tasks, 0.5, (STAYS,))


def _has_named_volume(lab: Lab) -> str | None:
    mount = mount_at(lab, STAYS, MOUNT_POINT)
    if mount and (mount["Type"] != "volume" or is_anonymous(str(mount.get("Name") or ""))):
        return f"what is mounted at {MOUNT_POINT} is no volume with a name"
    return mounts(STAYS, MOUNT_POINT)(lab)


def _started_once(lab: Lab) -> str | None:
    attrs = running(lab, STAYS).attrs
    if attrs["RestartCount"]:
        return f"it has ended {attrs['RestartCount']} times, and was restarted each time"
    if str(attrs["State"]["FinishedAt"]).startswith("0001-"):
        return None
    return "it has ended before, and was started again by hand: create a new one that keeps running by itself"


def _has_lasted(lab: Lab) -> str | None:
    pid = lab.host.process(running(lab, STAYS)).pid
    # both since the start of the host's kernel; starttime in clock ticks, 100 a second (proc(5), /proc/PID/stat)
    started_s = int(lab.host.read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]) / 100
    age_s = float(lab.host.read("/proc/uptime").split()[0]) - started_s
    if age_s >= MIN_RUNTIME_S:
        return None
    return f"it has run for {age_s:.0f} s so far: wait until it is {MIN_RUNTIME_S} s"


def _stays_hint(lab: Lab) -> str:
    container = container_named(lab, STAYS)
    if container is None:
        return "The book's line begins `docker run -d`. What is missing in it?"
    code = container.attrs["State"]["ExitCode"]
    if code == 0:
        return (
            "Exit code 0: nothing went wrong. Its command is a shell, and a shell without a terminal comes to the end "
            "of its input at once. Give it a terminal and keep its input open, or give it a command that takes long."
        )
    return f"It ended with exit code {code}. `docker logs {STAYS}` may say why."


# --- 4: the page that vanished


def shop(lab: Lab) -> Exercise:
    """A volume at /www, and the image's page still there.

    Promise: the container serves the image's own page to a client, from a volume that outlives it, and nothing that
    the image has in /www is lost or changed.
    """
    image = lab.image("payload")
    image_id, files = session_value(lab, "shop", lambda: _original_files(lab, image))
    tasks = (
        runs(SHOP, f"{image} has a small web server: httpd -f -h /www"),
        Task(
            "image",
            f"It runs {image}",
            made_from(SHOP, image_id, image),
            f"The page is in {image}.",
            ("runs",),
        ),
        Task(
            "mounted",
            "Its /www is a volume with a name",
            mounts(SHOP, "/www"),
            "A directory of the host hides what the image has. Which kind of mount is filled from the image?",
            ("runs",),
        ),
        Task(
            "page",
            f"The image's {PAGE} is there, as it was in the image",
            lambda lab: _files_changed(lab, files),
            _page_hint,
            ("image", "mounted"),
        ),
        Task(
            "served",
            "It serves that page",
            lambda lab: _not_served(lab, files[PAGE]),
            "Its command must be the web server, and /www what it serves. `docker inspect` shows its command.",
            ("page",),
        ),
    )
    return Exercise(lab, CHAPTER, "shop", "The page that vanished", tasks, 0.5, (SHOP,))


def _original_files(lab: Lab, image: str) -> tuple[str, dict[str, str]]:
    """The ID of an image, and its files in /www."""
    with lab.hidden(), lab.running(image, common.KEEP_RUNNING, network="none") as original:
        return original.attrs["Image"], files_of(lab, "/www", original)


def _files_changed(lab: Lab, files: dict[str, str]) -> str | None:
    mount = mount_at(lab, SHOP, "/www") or {}
    # in the volume itself: another mount on top of it may show something else
    present = files_of(lab, common.directory_of(lab, str(mount.get("Name"))))
    for path, text in files.items():
        if path not in present:
            return f"{SHOP} sees no {path} in /www: it sees {', '.join(sorted(present)) or 'nothing'}"
        if present[path] != text:
            return f"{path} in /www is not the image's: its contents differ"
    return None


def _not_served(lab: Lab, page: str) -> str | None:
    ports = _listening_ports(lab, running(lab, SHOP))
    if not ports:
        return f"nothing in {SHOP} listens on a port, so no client gets its page"
    for port in ports:
        # busybox's own limit, -T, ends in a segmentation fault in Debian's static build
        fetch = ["timeout", "10", "wget", "-q", "-O", "-", f"http://127.0.0.1:{port}/"]
        if output_of(lab, SHOP, fetch) == page.strip():
            return None
    return f"{SHOP} listens on {', '.join(map(str, ports))}, and does not send the image's page"


def _listening_ports(lab: Lab, container: Container) -> list[int]:
    """The TCP ports on which something in a container listens (proc(5), /proc/PID/net/tcp)."""
    pid = lab.host.process(container).pid
    texts = lab.host.read_many([f"/proc/{pid}/net/tcp", f"/proc/{pid}/net/tcp6"]).values()
    rows = [line.split() for text in texts for line in (text or "").splitlines()[1:]]
    return sorted({int(row[1].rpartition(":")[2], 16) for row in rows if len(row) > 3 and row[3] == "0A"})


def _page_hint(lab: Lab) -> str:
    source = str((mount_at(lab, SHOP, "/www") or {}).get("Source"))
    if lab.host.entries(source, [PAGE])[PAGE]:
        return "A page of that name is there, and not the image's. Take a new volume: an empty one is filled."
    if lab.host.directory(source):
        return "The volume had files before, so nothing was copied into it. Only an empty one is filled."
    return "The volume is empty: something kept the engine from filling it, or it was emptied later. Take a new one."


# --- 5: the clerk's ledger


def ledger(lab: Lab) -> Exercise:
    """A process that is not root writes into a volume that belongs to root.

    Promise: the container's user can write into the volume and has done so, and a user with another ID cannot.
    Both are tried, with an empty file that is removed again.
    """
    volume, user = session_value(
        lab, "ledger", lambda: (_new_volume(lab, "ledger"), 5000 + secrets.randbelow(1000))
    )
    tasks = (
        runs(CLERK, "It needs a command that keeps running. `docker run` has an option for the user."),
        Task(
            "user",
            f"Its user is {user}, and the volume {volume} is its /ledger",
            lambda lab: mounts(CLERK, "/ledger", volume)(lab) or _other_user(lab, user),
            "`docker run` has an option for the user: a number will do, it needs no name.",
            ("runs",),
        ),
        Task(
            "wrote",
            "That user has written /ledger/entries, and can go on",
            lambda lab: _not_written(lab, volume, user),
            _ledger_hint,
            ("user",),
        ),
        Task(
            "closed",
            "Nobody else may write into the volume",
            lambda lab: _open_to_others(lab, volume, user),
            "Mode 777 opens it to every user of every container that mounts it. Change its owner, and not its mode.",
            ("user",),
        ),
    )
    return Exercise(lab, CHAPTER, "ledger", "The clerk's ledger", tasks, 0.5, (CLERK,))


def _host_id(lab: Lab, user: int) -> int:
    """The ID that a user of the clerk has on the engine's host."""
    pid = lab.host.process(running(lab, CLERK)).pid
    return host_id(lab.host.read(f"/proc/{pid}/uid_map"), user)


def _other_user(lab: Lab, user: int) -> str | None:
    actual = lab.host.process(running(lab, CLERK)).user
    return (
        None if actual == _host_id(lab, user) else f"its first process belongs to user {actual} on the host"
    )


def _not_written(lab: Lab, volume: str, user: int) -> str | None:
    directory = common.directory_of(lab, volume)
    if missing := not_a_file(lab, directory, "entries", "/ledger/entries"):
        return missing
    entry = lab.host.entries(directory, ["entries"])["entries"]
    if entry and entry.user != _host_id(lab, user):
        return f"/ledger/entries belongs to user {entry.user} on the host"
    error = _cannot_write(lab, f"{user}:{_group(lab)}")
    return f"user {user} cannot write into the volume: {error}" if error else None


def _open_to_others(lab: Lab, volume: str, user: int) -> str | None:
    directory = common.directory_of(lab, volume)
    parent, _, name = directory.rpartition("/")
    top = lab.host.entries(parent, [name])[name]
    if top and top.mode & 0o002:
        return f"everybody may write into it: its mode is {top.mode:04o}"
    other = user + 1000
    # `--group-add` counts for every user of `docker exec`
    adds_groups = running(lab, CLERK).attrs["HostConfig"].get("GroupAdd")
    if not adds_groups and not _cannot_write(lab, f"{other}:{other}"):
        return f"user {other} may write into it, too"
    entry = lab.host.entries(directory, ["entries"])["entries"]
    if entry and entry.mode & 0o002:
        return f"everybody may write to /ledger/entries: its mode is {entry.mode:04o}"
    return None


def _group(lab: Lab) -> int:
    """The group ID of the clerk's first process, inside its container."""
    pid = lab.host.process(running(lab, CLERK)).pid
    status, gid_map = (lab.host.read(f"/proc/{pid}/{name}") for name in ("status", "gid_map"))
    host_id = next(int(line.split()[2]) for line in status.splitlines() if line.startswith("Gid:"))
    ranges = [tuple(map(int, line.split())) for line in gid_map.splitlines()]
    return next((a + host_id - b for a, b, length in ranges if 0 <= host_id - b < length), host_id)


def _cannot_write(lab: Lab, user: str) -> str | None:
    """The error when a user writes /ledger/entries and creates a file beside it; None if both work.

    It leaves nothing behind: the file is opened and not written to, the other one is removed.
    """
    probe = f"/ledger/.check-{secrets.token_hex(4)}"
    script = f"[ ! -e /ledger/entries ] || : >>/ledger/entries && : >{probe} && rm {probe}"
    with lab.hidden():
        done = lab.exec(running(lab, CLERK), ["sh", "-c", script], user=user)
    if done.exit_code == 0:
        return None
    lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
    return lines[-1].rpartition(": ")[2]


def _ledger_hint(lab: Lab) -> str:
    volume, _ = stored_value(lab, "ledger")
    if lab.host.entries(common.directory_of(lab, volume), ["entries"])["entries"]:
        return "To own a file is not enough to make the next one: that takes the right to write into its directory."
    return (
        "The volume's directory belongs to root, and only root may change that. A second container that has the same "
        "volume may be root: it can give the directory away (chown)."
    )


# --- 6: a copy of an archive


def archive(lab: Lab) -> Exercise:
    """Copy a volume with owners, modes and links.

    Promise: the copy holds the same, and is a copy: none of its files is the original's under another name.
    """
    volume, original = session_value(lab, "archive", lambda: _new_archive(lab))
    tasks = (
        Task(
            "there",
            f"There is a volume {COPY}",
            has_volume(COPY),
            "It may be created before, or by -v of the container that does the copying.",
        ),
        Task(
            "kept",
            f"The volume {volume} is as it was",
            lambda lab: _changed(lab, volume, original),
            "Mount it read-only: then nothing can go wrong.",
        ),
        Task(
            "same",
            f"{COPY} holds the same: names, contents, owners, modes, links",
            lambda lab: _differs(lab, volume, original) or not_persistent(lab, COPY),
            "One container may mount both. tar keeps owners, modes and links; so does cp with the right option. Mind "
            "where the path begins.",
            ("there",),
        ),
    )
    return Exercise(lab, CHAPTER, "archive", "A copy that is a copy", tasks, settle_s=0.5)


def _new_archive(lab: Lab) -> tuple[str, Tree]:
    volume = _new_volume(lab, "archive")
    command = ["sh", "-c", common.program("fill.sh"), "sh", *(secrets.token_hex(8) for _ in range(3))]
    with lab.hidden():
        common.output(lab, command, volumes=[f"{volume}:/data"])
    return volume, tree_of(lab, common.directory_of(lab, volume))


def _changed(lab: Lab, volume: str, original: Tree) -> str | None:
    same = not has_volume(volume)(lab) and tree_of(lab, common.directory_of(lab, volume)) == original
    return None if same else f"{volume} is not as it was"


def _differs(lab: Lab, volume: str, original: Tree) -> str | None:
    source, target = common.directory_of(lab, volume), common.directory_of(lab, COPY)
    if missing := difference(original, tree_of(lab, target), volume, COPY):
        return missing
    shared = sorted(inodes_of(lab, source) & inodes_of(lab, target))
    if shared:
        return f"{COPY} has the very files of {volume} (inode {shared[0][1]}): what happens to one happens to both"
    return None
