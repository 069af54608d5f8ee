"""The exercises of the chapter on image layers: the engine's state proves them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Callable
from secrets import token_hex
from typing import TYPE_CHECKING

from labhelpers import state
from labhelpers.course.checks import all_of, are_running, file_contains, has_image, runs
from labhelpers.course.containers import container_named, file_in, running, store_value, stored_value
from labhelpers.course.exercises import Exercise, Task
from labhelpers.drawing import human_bytes
from labhelpers.lab.names import all_with_suffix, with_suffix
from labhelpers.layers import recipes
from labhelpers.layers.builds import build
from labhelpers.layers.contents import hashed_layers, id_of, layer_headers, texts_of, visible_files
from labhelpers.layers.overlay import changes

if TYPE_CHECKING:
    from labhelpers.lab import Lab

WASTEFUL, DIET, MAX_WASTE_BYTES = with_suffix("fat:1"), with_suffix("diet:1"), 64 * 1024
LEAKED_SECRET, TOKEN, FINDER = with_suffix("leaky:1"), "app/token.txt", with_suffix("finder")
ORDERED = all_with_suffix("ordered:1", "ordered:2")
MAIN, INSTALLED = "app/main.py", "app/installed"
WHITEOUT = with_suffix("one-whiteout")
OLD, CURRENT, BOARD = all_with_suffix("notice:1", "notice:latest", "notice-board")
SITE, MAX_SITE_BYTES = with_suffix("site:1"), 4 * 1024 * 1024
PYTHON = re.compile(r"(^|/)bin/python[0-9.]*$")
ANY_SHELL = "Any image with a shell will do; labhelpers/payload has a command that keeps running."


def folder(name: str) -> str:
    """The directory that an exercise starts from, in the state directory; existing files are kept.

    Args:
        name: `order` or `site`.
    """
    recipe = {"order": recipes.ORDER, "site": recipes.SITE}[name]
    path = state.path("work", f"02-{name}", "Dockerfile").parent
    path.mkdir(parents=True, exist_ok=True)
    for file, text in {"Dockerfile": recipe.dockerfile, **recipe.files}.items():
        if not (path / file).exists():
            (path / file).write_text(text, encoding="utf-8")
    return str(path)


def _set_up_image(lab: Lab, ref: str, create: Callable[[], object]) -> None:
    """Build the image that an exercise starts from, unless the engine has it, and store its ID.

    No command is shown: it would give away a part of the answer.
    """
    id = stored_value(lab, ref)
    if id and not has_image(id)(lab):
        return
    if has_image(ref)(lab):
        with lab.hidden():
            create()
    store_value(lab, ref, id_of(lab, ref))


# --- the same files, less waste


def diet(lab: Lab) -> Exercise:
    """An image with the same files as another one, and at most a given waste.

    Promises: a container of it sees what a container of the lab's image sees, no path more or less and with the same
    contents; and its layers hold next to nothing that is stored twice, overwritten or deleted.
    """
    base = lab.image("payload")
    _set_up_image(
        lab, WASTEFUL, lambda: build(lab, recipes.WASTEFUL, WASTEFUL, None, BASE=base, SALT=token_hex(8))
    )
    tasks = (
        Task(
            "there",
            f"There is an image {DIET}",
            has_image(DIET),
            f"Look at {WASTEFUL} first: layers.image_layers(lab, {WASTEFUL!r}). Then write a Dockerfile whose "
            "image ends with the same files. COPY --from takes files from another image, as a container sees them.",
        ),
        Task(
            "same",
            f"A container of it sees the same files as one of {WASTEFUL}",
            _same_files,
            _same_hint,
            ("there",),
        ),
        Task(
            "waste",
            f"At most {human_bytes(MAX_WASTE_BYTES)} of it are in files that are stored more than once, covered or "
            "deleted",
            _waste,
            _waste_hint,
            ("there",),
        ),
    )
    return Exercise(lab, "02", "diet", "The same files, less waste", tasks, settle_s=0.5)


def _same_files(lab: Lab) -> str | None:
    original, copy = visible_files(lab, stored_value(lab, WASTEFUL)), visible_files(lab, DIET)
    if missing := sorted(original.keys() - copy.keys()):
        return f"/{missing[0]} is missing" + (f", and {len(missing) - 1} more" if missing[1:] else "")
    if extra := sorted(copy.keys() - original.keys()):
        return f"/{extra[0]} is in {DIET} and not in {WASTEFUL}"
    different = sorted(path for path in original if original[path] != copy[path])
    return f"/{different[0]} is not the same in both" if different else None


def _same_hint(lab: Lab) -> str:
    if (_same_files(lab) or "").startswith("/data"):
        return f"/data holds random bytes: they cannot be made again, only taken from {WASTEFUL} itself."
    return (
        "Compare the two: layers.image_layers(lab, IMAGE).union lists what a container sees of "
        f"{DIET} and of {WASTEFUL}."
    )


def _waste(lab: Lab) -> str | None:
    stack = hashed_layers(lab, DIET)
    if stack.wasted_bytes > MAX_WASTE_BYTES:
        return f"{human_bytes(stack.wasted_bytes)} are in files that are stored more than once"
    hidden = stack.bytes - sum(file.bytes for file in stack.union.files)
    if hidden <= MAX_WASTE_BYTES:
        return None
    return f"{human_bytes(hidden)} are in files that no container of it sees"


def _waste_hint(lab: Lab) -> str:
    stack, original = hashed_layers(lab, DIET), hashed_layers(lab, stored_value(lab, WASTEFUL))
    if stack.wasted_bytes <= MAX_WASTE_BYTES:
        return "What one layer holds and a later one deletes stays in the image. Create and delete it in one step."
    on_top = len(stack.layers) > len(original.layers)
    more = f" A layer on top of {WASTEFUL} only adds: nothing below it gets smaller." if on_top else ""
    worst = stack.wasted_files[0]
    return f"The largest is {worst.path}, in {worst.count} layers: {human_bytes(worst.bytes)} together.{more}"


# --- the layer that holds the secret


def secret_layer(lab: Lab) -> Exercise:
    """Find the layer that still holds a deleted file, and the text of the file.

    Promises: two files with the diff ID and the secret of the lab's image. Its secret is random, and another image
    that gets its tag changes neither.
    """
    base = lab.image("payload")
    leaky = recipes.LEAKED_SECRET.with_files(token_txt=token_hex(8))
    _set_up_image(lab, LEAKED_SECRET, lambda: build(lab, leaky, LEAKED_SECRET, None, BASE=base))
    tasks = (
        runs(FINDER, ANY_SHELL),
        file_contains(
            FINDER,
            "/layer",
            f"the diff id of the layer of {LEAKED_SECRET} that holds /{TOKEN}",
            _judge_layer,
            _layer_hint,
        ),
        file_contains(
            FINDER,
            "/secret",
            "what that file says",
            lambda lab, text: None if text == _token(lab) else "/secret does not hold what the file says",
            f"`docker save` writes all layers, those that are covered too. layers.recover(lab, {LEAKED_SECRET!r}, "
            "PATH) searches each of them; a tar that you unpack by hand shows the same.",
        ),
    )
    return Exercise(lab, "02", "secret-layer", "The layer that holds the secret", tasks, containers=(FINDER,))


def _judge_layer(lab: Lab, text: str) -> str | None:
    stack = hashed_layers(lab, stored_value(lab, LEAKED_SECRET))
    if text == next(layer.diff_id for layer in stack.layers if TOKEN in layer.entries):
        return None
    if text == stored_value(lab, LEAKED_SECRET):
        return "/layer holds the image's id, which is no layer"
    if any(text == layer.diff_id for layer in stack.layers):
        return "/layer holds the diff id of another layer"
    return f"/layer holds “{text[:71]}”, which is no diff id of {LEAKED_SECRET}"


def _layer_hint(lab: Lab) -> str:
    layers = hashed_layers(lab, stored_value(lab, LEAKED_SECRET)).layers
    if file_in(lab, FINDER, "/layer") in {layer.diff_id for layer in layers}:
        return (
            "The layer that deletes a file holds a whiteout, not the file. Which instruction added it? Layers and "
            "instructions are listed in the same order, from the lowest."
        )
    return (
        f"layers.image_layers(lab, {LEAKED_SECRET!r}) lists the layers with their diff IDs and instructions; so do "
        "`docker history` and `docker image inspect`. A diff ID begins with sha256:."
    )


def _token(lab: Lab) -> str:
    files = (
        layer.file_results.get(TOKEN) for layer in hashed_layers(lab, stored_value(lab, LEAKED_SECRET)).layers
    )
    return str(next(file for file in files if file)[1])


# --- the order of a Dockerfile


def order(lab: Lab) -> Exercise:
    """Order a Dockerfile so that a change of the source rebuilds one step.

    Promises: two images of the same steps, of which one was built again: it holds main.py, and nothing else of the
    image does; the result of install.py is in a layer that both share. An image that is based on the other one, with
    the new file on top, has kept no cache, and an image of a single layer has not either.
    """
    folder("order")
    tasks = (
        Task(
            "both",
            f"There are two images, {ORDERED[0]} and {ORDERED[1]}",
            has_image(*ORDERED),
            "Build the folder twice, with two tags, and change main.py between the two builds.",
        ),
        Task(
            "work",
            "Each has /app/main.py, and /app/installed, which install.py makes",
            _has_work,
            "Every file of the folder is needed in the end; only when it is copied may change.",
            ("both",),
        ),
        Task(
            "changed",
            "Their main.py differ",
            _source_changed,
            "Change the line in main.py, then build again with the second tag.",
            ("work",),
        ),
        Task("one", "They differ in one layer only", _one_layer, _one_layer_hint, ("changed",)),
    )
    return Exercise(lab, "02", "order", "The order that keeps the cache", tasks)


def _has_work(lab: Lab) -> str | None:
    for ref in ORDERED:
        source, installed = texts_of(lab, ref, "/app/main.py", "/app/installed")
        if source is None or installed is None:
            return f"{ref} has no {'/app/main.py' if source is None else '/app/installed'}"
    return None


def _source_changed(lab: Lab) -> str | None:
    old, new = (texts_of(lab, ref, "/app/main.py", "/app/installed")[0] for ref in ORDERED)
    return f"main.py is the same in {ORDERED[0]} and {ORDERED[1]}" if old == new else None


def _only_in(lab: Lab, ref: str, other: str) -> list[str]:
    """The layers of an image that another does not have."""
    own, others = (list(lab.inspect_image(image)["RootFS"]["Layers"]) for image in (ref, other))
    return [layer for layer in own if layer not in others]


def _one_layer(lab: Lab) -> str | None:
    new, old = _only_in(lab, ORDERED[1], ORDERED[0]), _only_in(lab, ORDERED[0], ORDERED[1])
    if len(new) != 1:
        return f"{len(new)} layers of {ORDERED[1]} are not in {ORDERED[0]}"
    if not old:
        return f"{ORDERED[1]} stands on {ORDERED[0]}: that adds a layer, it does not run one step of a build again"
    if len(old) != 1:
        return f"{len(old)} layers of {ORDERED[0]} are not in {ORDERED[1]}"
    for ref, (changed,) in zip(ORDERED, (old, new), strict=True):
        layers = layer_headers(lab, ref).layers
        holders = [layer.diff_id for layer in layers if MAIN in layer.entries]
        if holders != [changed]:
            return f"{len(holders)} layers of {ref} hold main.py, and only the one that differs should"
        shared = [layer for layer in layers if layer.diff_id != changed]
        if not any(INSTALLED in layer.entries for layer in shared):
            return "the layer that differs holds /app/installed too: install.py runs again for every change"
        if not any(path.endswith(".opt-2.pyc") for layer in shared for path in layer.entries):
            return f"{ref} has /app/installed, and nothing that install.py has compiled"
    return None


def _one_layer_hint(lab: Lab) -> str:
    if not _only_in(lab, ORDERED[0], ORDERED[1]):
        return "Both come from one Dockerfile, in the folder, which is built twice. What differs is main.py alone."
    return (
        "A step is taken from the cache as long as its instruction, what it copies, and every step before it are "
        "the same. COPY . copies main.py too, so everything after it runs again: what can come before it?"
    )


# --- one whiteout


def one_whiteout(lab: Lab) -> Exercise:
    """A container whose upper directory has exactly one whiteout.

    Promises: the kernel's mark is in the upper directory once, whatever the cause: a file or a directory that was
    deleted or moved away. What the container created itself and deleted leaves none.
    """
    tasks = (
        runs(WHITEOUT, ANY_SHELL),
        Task("one", "Its upper layer has exactly one whiteout", _one_whiteout, _whiteout_hint, ("runs",)),
    )
    return Exercise(lab, "02", "one-whiteout", "Exactly one whiteout", tasks, 0.5, (WHITEOUT,))


def _whiteout_count(lab: Lab) -> int:
    container = running(lab, WHITEOUT)
    # the engine's own list is cheap; only if something is deleted does a helper read the upper directory
    if not any(row["Kind"] == 2 for row in lab.changes_of(container)):
        return 0
    return len(changes(lab, container).whiteouts)


def _one_whiteout(lab: Lab) -> str | None:
    count = _whiteout_count(lab)
    return None if count == 1 else f"its upper layer has {count or 'no'} whiteout{'s' if count > 1 else ''}"


def _whiteout_hint(lab: Lab) -> str:
    if _whiteout_count(lab):
        return (
            "Each deleted name is one whiteout, also a directory with all that is in it. `docker diff` lists them as "
            "D. Deleted files can be written again; a new container begins with an empty layer."
        )
    rows = lab.changes_of(running(lab, WHITEOUT))
    if any(row["Kind"] == 2 for row in rows):
        return "A directory that is deleted and created again is marked opaque: that is no whiteout."
    added = next((row["Path"] for row in rows if row["Kind"] == 1), None)
    if added:
        return (
            f"{added} is new: the image does not have it, so deleting it leaves nothing. What does it have?"
        )
    return "A whiteout is needed where the image still has what the container deletes."


# --- going back


def go_back(lab: Lab) -> Exercise:
    """Move a tag back to an older image, and run it.

    Promises: the tag `latest` is the image that the exercise began with under the older tag, not one built again or a
    third one with both tags; and a container of that very image runs.
    """
    base = lab.image("payload")

    def create() -> None:
        build(lab, recipes.NOTICE, OLD, None, BASE=base)
        build(lab, recipes.NOTICE_CHANGED, CURRENT, None, BASE=OLD)

    _set_up_image(lab, OLD, create)
    tasks = (
        Task(
            "name",
            f"{CURRENT} is the image that {OLD} is",
            all_of(has_image(OLD, CURRENT), _is_old),
            _is_old_hint,
        ),
        Task(
            "runs",
            f"A container {BOARD} runs, and is made from that image",
            all_of(are_running(BOARD), _runs_current),
            _board_hint,
            ("name",),
        ),
    )
    return Exercise(lab, "02", "go-back", "Back to the older image", tasks, containers=(BOARD,))


def _old_was_changed(lab: Lab) -> bool:
    return not has_image(OLD)(lab) and "closed" in (texts_of(lab, OLD, "/notice")[0] or "")


def _is_old(lab: Lab) -> str | None:
    old, current = id_of(lab, OLD), id_of(lab, CURRENT)
    if _old_was_changed(lab):
        return f"{OLD} is the changed image now"
    if old != stored_value(lab, OLD):
        return f"{OLD} is not the image any more that this exercise began with"
    return None if old == current else f"{CURRENT} is another image than {OLD}"


def _is_old_hint(lab: Lab) -> str:
    if _old_was_changed(lab):
        return (
            "The tag moved the wrong way. The older image may have no tag now: `docker images -a` and `docker "
            "history` still list its ID."
        )
    return "An image never changes; tags do. Nothing has to be built: `docker tag` gives an image a name."


def _runs_current(lab: Lab) -> str | None:
    same = running(lab, BOARD).attrs["Image"] == id_of(lab, CURRENT)
    return None if same else f"{BOARD} is made from another image than {CURRENT} is now"


def _board_hint(lab: Lab) -> str:
    if container_named(lab, BOARD) is None:
        return f"Start one from {CURRENT}: it has a command that keeps running."
    return "A container keeps the image that it was created from, wherever the tag moves later: make a new container."


# --- two stages


def small_site(lab: Lab) -> Exercise:
    """An image with a page, and without the tools that generated the page.

    Promises: a container of it has the page, byte for byte, and no Python in any directory of programs; and all
    layers together are small, so that nothing large was deleted in a later one.
    """
    folder("site")
    tasks = (
        Task(
            "there",
            f"There is an image {SITE}",
            has_image(SITE),
            "The folder has a Dockerfile that works; build it, and look at its size.",
        ),
        Task(
            "page",
            "Its /www/index.html is the page that page.py prints",
            _page,
            "Run page.py in the build, and store its output as /www/index.html.",
            ("there",),
        ),
        Task(
            "small",
            f"It has at most {human_bytes(MAX_SITE_BYTES)}, and no Python",
            _small,
            _small_hint,
            ("there",),
        ),
    )
    return Exercise(lab, "02", "small-site", "A page without its tools", tasks)


def _page(lab: Lab) -> str | None:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(recipes.PAGE, {})
    page = visible_files(lab, SITE).get("www/index.html")
    if page is None:
        return f"{SITE} has no /www/index.html"
    digest = hashlib.sha256(output.getvalue().encode()).hexdigest()
    return None if page[1] == digest else "/www/index.html is another page"


def _has_python(lab: Lab) -> bool:
    return any(PYTHON.search(path) for path in visible_files(lab, SITE))


def _small(lab: Lab) -> str | None:
    size = hashed_layers(lab, SITE).bytes
    if _has_python(lab):
        return f"it has Python in it: {human_bytes(size)}"
    return None if size <= MAX_SITE_BYTES else f"its layers hold {human_bytes(size)}"


def _small_hint(lab: Lab) -> str:
    if _has_python(lab):
        return (
            "What a RUN deletes stays in the layer below. A second FROM starts a new stage, from a small image such as "
            "labhelpers/payload; COPY --from takes one file out of the first stage."
        )
    return "Deleted files are still in lower layers. Which image is the last FROM?"
