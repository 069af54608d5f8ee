"""The exercises of the chapter on volumes: the engine's state and the directories on its host prove them.

What the lab makes for an exercise has a name with a random end; what the reader makes has the name that the task says.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from labhelpers.course.exercises import Exercise, Task, container_named, not_running, output_of, running
from labhelpers.lab.names import all_with_suffix
from labhelpers.volumes import common
from labhelpers.volumes.ownership import host_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from docker.models.containers import Container

    from labhelpers.lab import Lab

CHAPTER = "07"
SHELF, COMMA, STAYS, SHOP, CLERK, COPY = all_with_suffix(
    "bookshelf", "bind-fix", "stays", "shop", "clerk", "archive-copy"
)
INSIDE = "/var/log"
STAYS_S = 10
PAGE = "index.html"
# (session, what for) → what the lab made for an exercise: a cell that is run again keeps it
_made: dict[tuple[str, str], Any] = {}


# --- looking


def _volume(lab: Lab, name: str) -> dict[str, Any] | None:
    """A volume as the engine lists it, however it was made; None where there is none."""
    return next((row for row in lab.list_volumes() if row["Name"] == name), None)


def _mount(lab: Lab, container: str, inside: str) -> dict[str, Any] | None:
    """What is mounted at `inside` of a container, in the engine's words."""
    mounts: list[dict[str, Any]] = running(lab, container).attrs["Mounts"]
    return next((mount for mount in mounts if mount["Destination"] == inside), None)


def _is_anonymous(name: str) -> bool:
    return len(name) == 64 and not set(name) - set("0123456789abcdef")


def _runs(name: str, hint: Callable[[Lab], str] | str) -> Task:
    return Task("runs", f"A container {name} runs", lambda lab: not_running(lab, name), hint)


def _other_mount(lab: Lab, container: str, inside: str) -> str | None:
    """Why nothing is mounted at `inside`, in the reader's words; None where something is."""
    if _mount(lab, container, inside):
        return None
    points = sorted(one["Destination"] for one in running(lab, container).attrs["Mounts"])
    other = f"; there is something at {', '.join(points)}" if points else ""
    return f"nothing is mounted at {inside} of {container}{other}"


def _in_memory(lab: Lab, volume: str) -> str | None:
    """Why a volume does not outlive its containers, to the reader; None where it does."""
    options = (_volume(lab, volume) or {}).get("Options") or {}
    return (
        f"the volume {volume} is memory (tmpfs): it is empty again after its last container"
        if (options.get("type") == "tmpfs")
        else None
    )


# --- 1: docker create volume


def bookshelf(lab: Lab) -> Exercise:
    """Repair `docker create volume bookshelf`.

    Promise: there is a volume of that name, and a file called `title` is in it, where the engine keeps the volume.
    """
    there = Task(
        "there",
        f"The engine has a volume called {SHELF}",
        lambda lab: None if _volume(lab, SHELF) else f"the engine has no volume called {SHELF}",
        _shelf_hint,
    )
    holds = Task(
        "holds",
        "A container has put a file called title into it",
        _holds_title,
        "Any container that has the volume mounted can write it: the volume's name, a colon, a path inside.",
        ("there",),
    )
    return Exercise(lab, CHAPTER, "bookshelf", "A volume, not an image", (there, holds), settle_s=0.3)


def _holds_title(lab: Lab) -> str | None:
    entry = lab.host.entries(common.directory_of(lab, SHELF), ["title"])["title"]
    if entry is None:
        return f"{SHELF} is there, and holds no file called title"
    return None if entry.kind == "file" else f"title in {SHELF} is no file, it is a {entry.kind}"


def _shelf_hint(lab: Lab) -> str:
    if container_named(lab, SHELF):
        return (
            f"{SHELF} is a container now: `docker create` makes one, of the image that its first word names. Volumes "
            "have commands of their own: see `docker volume --help`."
        )
    return (
        "`docker create` makes a container. It takes the word after it as the name of an image, here `volume`. In "
        "docker's commands, what you deal with comes first, and then what you do with it."
    )


# --- 2: a dot for a comma


def desk(lab: Lab) -> str:
    """A directory of the engine's host that a bind mount may have as its source; it goes with the notebook."""
    key = (lab.session, "desk")
    if key not in _made:
        with lab.hidden():
            _made[key] = f"desk-{secrets.token_hex(2)}"
            lab.create_volume(_made[key])
    return common.directory_of(lab, _made[key])


def comma(lab: Lab) -> Exercise:
    """Repair `--mount type=bind.source=…`.

    Promise: what the container writes at /var/log is in the directory on the engine's host. A mount that the container
    cannot write to, or another one on top of it, is none of that.
    """
    source = desk(lab)

    def bound(lab: Lab) -> str | None:
        mount = _mount(lab, COMMA, INSIDE)
        if mount is None:
            return _other_mount(lab, COMMA, INSIDE)
        if mount["Type"] != "bind":
            return f"{INSIDE} is a {mount['Type']}, and not a bind mount"
        if lab.host.real_path(mount["Source"]) != lab.host.real_path(source):
            return f"{INSIDE} is another directory than $desk"
        return None if mount["RW"] else f"{INSIDE} is mounted read-only: {COMMA} cannot write there"

    def arrived(lab: Lab) -> str | None:
        there = lab.host.entries(source, ["hello"])["hello"]
        if there is None:
            return "$desk has no file called hello, seen from the engine's host"
        if there.kind != "file":
            return f"hello in $desk is no file, it is a {there.kind}"
        seen = lab.host.entries(INSIDE, ["hello"], running(lab, COMMA))["hello"]
        same = seen is not None and seen.inode == there.inode
        return None if same else f"hello in $desk is another file than {INSIDE}/hello of {COMMA}"

    tasks = (
        _runs(
            COMMA,
            "The engine took `bind.source=…` for the name of a type. How are the fields of --mount told apart?",
        ),
        Task(
            "bound",
            f"Its {INSIDE} is the directory $desk of the engine's host, as a bind mount",
            bound,
            "Three fields: the type, the source, the target. A name without a slash in front is a volume's.",
            ("runs",),
        ),
        Task(
            "arrived",
            "It has written a file called hello there, and the engine's host has it",
            arrived,
            f"`docker exec` runs one more process in {COMMA}. Let it write {INSIDE}/hello.",
            ("bound",),
        ),
    )
    return Exercise(lab, CHAPTER, "comma", "A dot where a comma belongs", tasks, 0.5, (COMMA,))


# --- 3: it exits at once


def stays(lab: Lab) -> Exercise:
    """Keep the book's container running.

    Promise: its first process stays. It is the process of the container's first start, and it has lasted for
    `STAYS_S` seconds: a command that ends a little later, or a restart policy that hides its end, is no answer.
    """

    def volume(lab: Lab) -> str | None:
        mount = _mount(lab, STAYS, INSIDE)
        if mount is None:
            return _other_mount(lab, STAYS, INSIDE)
        if mount["Type"] != "volume" or _is_anonymous(str(mount.get("Name") or "0" * 64)):
            return f"what is mounted at {INSIDE} is no volume with a name"
        return _in_memory(lab, str(mount["Name"]))

    def once(lab: Lab) -> str | None:
        attrs = running(lab, STAYS).attrs
        if attrs["RestartCount"]:
            return f"it has ended {attrs['RestartCount']} times, and was started again each time"
        if not str(attrs["State"]["FinishedAt"]).startswith("0001-"):
            return (
                "it has ended before, and was started again by hand: make it anew, so that it stays by itself"
            )
        return None

    def lasts(lab: Lab) -> str | None:
        host = lab.host
        pid = host.process(running(lab, STAYS)).pid
        # both in clock ticks since the start of the host's kernel: 100 a second (proc(5), /proc/PID/stat, starttime)
        begun = int(host.read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]) / 100
        age = float(host.read("/proc/uptime").split()[0]) - begun
        return None if age >= STAYS_S else f"it has run for {age:.0f} s so far: wait until it is {STAYS_S} s"

    tasks = (
        _runs(STAYS, _stays_hint),
        Task(
            "volume",
            f"It has a volume with a name at {INSIDE}",
            volume,
            f"-v takes a name, a colon, and {INSIDE}.",
            ("runs",),
        ),
        Task(
            "once",
            "It was never started again: its first process is still the first one",
            once,
            "A restart policy starts it again and again, and each time it ends. Why does it end?",
            ("runs",),
        ),
        Task(
            "lasts",
            f"It has run for {STAYS_S} seconds",
            lasts,
            "Nothing is left to do but to wait. Will its command still be busy then?",
            ("runs", "once"),
        ),
    )
    return Exercise(lab, CHAPTER, "stays", "A container that stays", tasks, 0.5, (STAYS,))


def _stays_hint(lab: Lab) -> str:
    container = container_named(lab, STAYS)
    if container is None:
        return "The book's line begins `docker run -d`. What is missing in it?"
    state = container.attrs["State"]
    if state["ExitCode"] == 0:
        return (
            "Exit code 0: nothing went wrong. Its command is a shell, and a shell that reads from nothing has come to "
            "the end of its input. Give it a terminal and keep its input open, or give it a command that takes long."
        )
    return f"It ended with exit code {state['ExitCode']}. `docker logs {STAYS}` may say why."


# --- 4: the page that vanished


def shop(lab: Lab) -> Exercise:
    """A volume at /www, and the image's page still there.

    Promise: the container serves the image's own page to a client, out of a volume that outlives it, and nothing that
    the image has in /www is lost or changed.
    """
    image = lab.image("payload")
    key = (lab.session, "shop")
    if key not in _made:
        with lab.hidden(), lab.running(image, common.KEEP_RUNNING, network="none") as original:
            _made[key] = (original.attrs["Image"], _files(lab, "/www", original))
    image_id, files = _made[key]

    def right_image(lab: Lab) -> str | None:
        # by what was there first: the name of an image can be given to another one
        return (
            None if running(lab, SHOP).attrs["Image"] == image_id else f"it runs another image than {image}"
        )

    def mounted(lab: Lab) -> str | None:
        mount = _mount(lab, SHOP, "/www")
        if mount is None:
            return _other_mount(lab, SHOP, "/www")
        if mount["Type"] != "volume":
            return f"/www is a {mount['Type']} mount, and not a volume"
        if _is_anonymous(str(mount.get("Name") or "0" * 64)):
            return "the volume at /www has no name that you could find again"
        return _in_memory(lab, str(mount["Name"]))

    def page(lab: Lab) -> str | None:
        mount = _mount(lab, SHOP, "/www") or {}
        # where the volume is, and not what something mounted on top of it shows
        seen = _files(lab, common.directory_of(lab, str(mount.get("Name"))))
        for path, text in files.items():
            if path not in seen:
                return f"{SHOP} sees no {path} in /www: it sees {', '.join(sorted(seen)) or 'nothing'}"
            if seen[path] != text:
                return f"{path} in /www is not the image's: its contents differ"
        return None

    def served(lab: Lab) -> str | None:
        container = running(lab, SHOP)
        ports = _listens(lab, container)
        if not ports:
            return f"nothing in {SHOP} listens on a port: its page is served to nobody"
        for port in ports:
            # busybox's own limit, -T, ends in a segmentation fault in Debian's static build
            words = ["timeout", "10", "wget", "-q", "-O", "-", f"http://127.0.0.1:{port}/"]
            if output_of(lab, SHOP, words) == files[PAGE].strip():
                return None
        return f"{SHOP} listens on {', '.join(map(str, ports))}, and does not send the image's page"

    tasks = (
        _runs(SHOP, f"{image} has a small web server: httpd -f -h /www"),
        Task("image", f"It runs {image}", right_image, f"The page is in {image}.", ("runs",)),
        Task(
            "mounted",
            "Its /www is a volume with a name",
            mounted,
            "A directory of the host hides what the image has. Which kind of mount is filled from the image?",
            ("runs",),
        ),
        Task(
            "page",
            f"The image's {PAGE} is there, as it was in the image",
            page,
            _page_hint,
            ("image", "mounted"),
        ),
        Task(
            "served",
            "It serves that page",
            served,
            "Its command must be the web server, and /www what it serves. `docker inspect` shows its command.",
            ("page",),
        ),
    )
    return Exercise(lab, CHAPTER, "shop", "The page that vanished", tasks, 0.5, (SHOP,))


def _files(lab: Lab, path: str, where: Container | None = None) -> dict[str, str]:
    """Path below a directory → text, of every file there, as the host or a container sees it."""
    names = [entry.path for entry in lab.host.directory(path, where, recursive=True) if entry.kind == "file"]
    root = f"/proc/{lab.host.process(where).pid}/root" if where is not None else ""
    texts = lab.host.read_many(f"{root}{path}/{name}" for name in names)
    return {name: texts[f"{root}{path}/{name}"] or "" for name in names}


def _listens(lab: Lab, container: Container) -> list[int]:
    """The TCP ports on which something in a container listens (proc(5), /proc/PID/net/tcp)."""
    pid = lab.host.process(container).pid
    texts = lab.host.read_many([f"/proc/{pid}/net/tcp", f"/proc/{pid}/net/tcp6"]).values()
    rows = [line.split() for text in texts for line in (text or "").splitlines()[1:]]
    return sorted({int(row[1].rpartition(":")[2], 16) for row in rows if len(row) > 3 and row[3] == "0A"})


def _page_hint(lab: Lab) -> str:
    mount = _mount(lab, SHOP, "/www") or {}
    if lab.host.entries(str(mount.get("Source")), [PAGE])[PAGE]:
        return "A page of that name is there, and not the image's. Take a new volume: an empty one is filled."
    if lab.host.directory(str(mount.get("Source"))):
        return "The volume had files before, so nothing was copied into it. Only an empty one is filled."
    return "The volume is empty: something kept the engine from filling it, or it was emptied later. Take a new one."


# --- 5: the clerk's ledger


def ledger(lab: Lab) -> Exercise:
    """A process that is not root writes into a volume that belongs to root.

    Promise: the container's user can write into the volume and has done so, and a user of another number cannot.
    Both are tried, with an empty file that is removed again.
    """
    key = (lab.session, "ledger")
    if key not in _made:
        _made[key] = (f"ledger-{secrets.token_hex(2)}", 5000 + secrets.randbelow(1000))
        with lab.hidden():
            lab.create_volume(_made[key][0])
    name, user = _made[key]
    directory = common.directory_of(lab, name)

    def number(lab: Lab) -> int:
        """The user's number on the engine's host."""
        pid = lab.host.process(running(lab, CLERK)).pid
        return host_id(lab.host.read(f"/proc/{pid}/uid_map"), user)

    def right_user(lab: Lab) -> str | None:
        mount = _mount(lab, CLERK, "/ledger")
        if mount is None or mount.get("Name") != name:
            return _other_mount(lab, CLERK, "/ledger") or f"/ledger is not the volume {name}"
        runs_as = lab.host.process(running(lab, CLERK)).user
        return (
            None
            if runs_as == number(lab)
            else f"its first process belongs to user {runs_as}, as the host counts"
        )

    def wrote(lab: Lab) -> str | None:
        entry = lab.host.entries(directory, ["entries"])["entries"]
        if entry is None:
            return "there is no file /ledger/entries"
        if entry.kind != "file":
            return f"/ledger/entries is no file, it is a {entry.kind}"
        if entry.user != number(lab):
            return f"/ledger/entries belongs to user {entry.user}, as the host counts"
        said = _cannot_write(lab, f"{user}:{_group(lab)}")
        return f"user {user} cannot write into the volume: {said}" if said else None

    def closed(lab: Lab) -> str | None:
        above, _, last = directory.rpartition("/")
        top = lab.host.entries(above, [last])[last]
        if top and top.mode & 0o002:
            return f"everybody may write into it: its mode is {top.mode:04o}"
        other = user + 1000
        # `--group-add` counts for every user of `docker exec`
        if not running(lab, CLERK).attrs["HostConfig"].get("GroupAdd") and not _cannot_write(
            lab, f"{other}:{other}"
        ):
            return f"user {other} may write into it, too"
        entry = lab.host.entries(directory, ["entries"])["entries"]
        return (
            f"everybody may write to /ledger/entries: its mode is {entry.mode:04o}"
            if (entry and entry.mode & 0o002)
            else None
        )

    tasks = (
        _runs(CLERK, "It needs a command that stays. `docker run` has an option for the user."),
        Task(
            "user",
            f"Its user is {user}, and the volume {name} is its /ledger",
            right_user,
            "`docker run` has an option for the user: a number will do, it needs no name.",
            ("runs",),
        ),
        Task("wrote", "That user has written /ledger/entries, and can go on", wrote, _ledger_hint, ("user",)),
        Task(
            "closed",
            "Nobody else may write into the volume",
            closed,
            "Mode 777 opens it to every user of every container that mounts it. Change its owner, and not its mode.",
            ("user",),
        ),
    )
    return Exercise(lab, CHAPTER, "ledger", "The clerk's ledger", tasks, 0.5, (CLERK,))


def _group(lab: Lab) -> int:
    """The group of the clerk's first process, as its container counts."""
    pid = lab.host.process(running(lab, CLERK)).pid
    status, numbers = (lab.host.read(f"/proc/{pid}/{name}") for name in ("status", "gid_map"))
    host = next(int(line.split()[2]) for line in status.splitlines() if line.startswith("Gid:"))
    inside = (line.split() for line in numbers.splitlines())
    return next((int(a) + host - int(b) for a, b, n in inside if 0 <= host - int(b) < int(n)), host)


def _cannot_write(lab: Lab, user: str) -> str | None:
    """Why a user cannot write /ledger/entries or make a file beside it, in the kernel's words; None if he can.

    Nothing stays of it: the file is opened and not written to, the other one is removed.
    """
    probe = f"/ledger/.check-{secrets.token_hex(4)}"
    script = f"[ ! -e /ledger/entries ] || : >>/ledger/entries && : >{probe} && rm {probe}"
    with lab.hidden():
        done = lab.exec(running(lab, CLERK), ["sh", "-c", script], user=user)
    if done.exit_code == 0:
        return None
    words = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
    return words[-1].rpartition(": ")[2]


def _ledger_hint(lab: Lab) -> str:
    name, _ = _made[lab.session, "ledger"]
    if lab.host.entries(common.directory_of(lab, name), ["entries"])["entries"]:
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
    key = (lab.session, "archive")
    if key not in _made:
        _made[key] = f"archive-{secrets.token_hex(2)}"
        command = ["sh", "-c", common.program("fill.sh"), "sh", *(secrets.token_hex(8) for _ in range(3))]
        with lab.hidden():
            lab.create_volume(_made[key])
            common.output(lab, command, volumes=[f"{_made[key]}:/data"])
        _made[lab.session, "original"] = _tree(lab, _made[key])
    name, original = _made[key], _made[lab.session, "original"]

    def kept(lab: Lab) -> str | None:
        if _volume(lab, name) is None or _tree(lab, name) != original:
            return f"{name} is not as it was"
        return None

    def same(lab: Lab) -> str | None:
        copy = _tree(lab, COPY)
        for path in sorted({*original, *copy}):
            if path not in copy:
                return f"{COPY} has no {path}"
            if path not in original:
                return f"{COPY} has {path}, which {name} does not have"
            for what, (mine, theirs) in zip(
                ("kind", "owner", "group", "mode", "contents"),
                zip(original[path], copy[path], strict=True),
                strict=True,
            ):
                if mine != theirs:
                    return f"{path} has another {what} in {COPY} than in {name}"
        if shared := sorted(_inodes(lab, name) & _inodes(lab, COPY)):
            return f"{COPY} has the very files of {name} (inode {shared[0][1]}): what happens to one happens to both"
        return _in_memory(lab, COPY)

    tasks = (
        Task(
            "there",
            f"There is a volume {COPY}",
            lambda lab: None if _volume(lab, COPY) else f"the engine has no volume called {COPY}",
            "It may be made before, or by -v of the container that does the copying.",
        ),
        Task(
            "kept", f"The volume {name} is as it was", kept, "Mount it read-only: then nothing can go wrong."
        ),
        Task(
            "same",
            f"{COPY} holds the same: names, contents, owners, modes, links",
            same,
            "One container may mount both. tar keeps owners, modes and links; so does cp with the right option. Mind "
            "where the path begins.",
            ("there",),
        ),
    )
    return Exercise(lab, CHAPTER, "archive", "A copy that is a copy", tasks, settle_s=0.5)


def _inodes(lab: Lab, volume: str) -> set[tuple[str, int]]:
    """(path, inode) of the files of a volume."""
    entries = lab.host.directory(common.directory_of(lab, volume), recursive=True)
    return {(entry.path, entry.inode) for entry in entries if entry.kind == "file"}


def _tree(lab: Lab, volume: str) -> dict[str, tuple[Any, ...]]:
    """path → kind, owner, group, mode, contents (of a link: where it points)."""
    directory = common.directory_of(lab, volume)
    entries = lab.host.directory(directory, recursive=True)
    files = [f"{directory}/{entry.path}" for entry in entries if entry.kind == "file"]
    texts = lab.host.read_many(files)
    return {
        entry.path: (
            entry.kind,
            entry.user,
            entry.group,
            entry.mode,
            entry.target or texts.get(f"{directory}/{entry.path}"),
        )
        for entry in entries
    }
