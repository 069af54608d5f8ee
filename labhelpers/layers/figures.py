"""Figures of the chapter on image layers: data on an Axes; they talk to no engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labhelpers.drawing import (
    CONTAINER,
    ENGINE,
    FAINT,
    HOST,
    INK,
    KERNEL,
    LIMIT,
    PAPER,
    VM,
    human_bytes,
    new_axes,
    resize,
)
from labhelpers.layers.archive_errors import printable_name
from labhelpers.layers.trees import WHITEOUT, parent
from labhelpers.state import ROOT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.layers.builds import BuildCache, Stages
    from labhelpers.layers.copy_on_write import CopyUpCost
    from labhelpers.layers.digests import CorruptedPull, Verification
    from labhelpers.layers.image_stack import ImageStack, Layer, Union
    from labhelpers.layers.leaks import Recovered, Secrets
    from labhelpers.layers.overlay import Changes, Mounts, PathInLayers, WriteEffects
    from labhelpers.layers.pulls import Pull
    from labhelpers.layers.shared_layers import Sharing

# one colour for one layer, from the lowest up; neighbours differ in lightness too
LAYERS = (CONTAINER, KERNEL, HOST, LIMIT, ENGINE, VM)
PHASE = {"waiting": PAPER, "download": ENGINE, "verification": LIMIT, "queued": "#DDDDDD", "extraction": VM}
# the most files that fit side by side with their names readable
MOST_FILES = 10
MOST_WORDS = 62


def _layer_colour(number: int) -> str:
    return LAYERS[number % len(LAYERS)]


def _cut(text: str, most: int = MOST_WORDS) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _box(
    ax: Axes,
    corner: tuple[float, float],
    width: float,
    height: float,
    face: str,
    said: str = "",
    *,
    ink: str = INK,
    edge: str = "white",
    size: float = 8.5,
) -> None:
    from matplotlib.patches import Rectangle

    x, y = corner
    ax.add_patch(Rectangle((x, y), width, height, fc=face, ec=edge, lw=1.2))
    if said:
        ax.text(x + width / 2, y + height / 2, said, ha="center", va="center", color=ink, fontsize=size)


def _on(face: str) -> str:
    """The ink that can be read on a colour."""
    return "white" if face in (CONTAINER, VM, HOST) else INK


def _bare(ax: Axes) -> None:
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


# --- pulling


def draw_pull(result: Pull, ax: Axes) -> Axes:
    """One row a layer, the lowest first; a bar for each phase of its pull, in milliseconds."""
    resize(ax, 8, 1.3 + 0.36 * len(result.layers))
    for row, layer in enumerate(result.layers):
        for phase in layer.phases:
            width = phase.end_ms - phase.start_ms
            bar = {"height": 0.62, "color": PHASE[phase.name], "edgecolor": "#CCCCCC", "linewidth": 0.4}
            ax.barh(row, width, left=phase.start_ms, label=phase.name, **bar)  # type: ignore[arg-type]
        said = "already there" if layer.already_exists else human_bytes(layer.bytes) if layer.bytes else ""
        end = layer.phases[-1].end_ms if layer.phases else 0
        ax.text(end, row, f"  {said}", va="center", fontsize=8.5, color="#555555" if end == 0 else INK)
    seen = [name for name in PHASE if any(p.name == name for one in result.layers for p in one.phases)]
    rows = len(result.layers)
    for place, name in enumerate(seen):
        colour = "#999999" if PHASE[name] in (PAPER, "#DDDDDD") else PHASE[name]
        words = {"queued": "in line: the layer below comes first"}.get(name, name)
        at = result.total_ms * (0, 0.14, 0.29, 0.47, 0.96)[place]
        ax.text(at, rows - 0.1, f"■ {words}", color=colour, fontsize=9, va="center")
    name = result.ref.rpartition("/")[2]
    layers = "layer" if result.downloaded_layers == 1 else "layers"
    ax.set_title(
        f"docker pull {name}: {result.downloaded_layers} {layers} fetched, {result.existing_layers} already there"
    )
    ax.set_yticks(range(rows), [f"layer {row}  {one.id[:7]}" for row, one in enumerate(result.layers)])
    ax.set(xlim=(0, result.total_ms * 1.15), ylim=(rows + 0.3, -0.6), xlabel="ms since the pull began")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return ax


# --- the stack and its union


def draw_image_stack(result: ImageStack, ax: Axes) -> Axes:
    """One bar a layer, the lowest at the bottom: bytes, what made it, and what it did to the files."""
    rows = len(result.layers)
    resize(ax, 8.5, 1.1 + 0.6 * max(rows, 1))
    most = max((layer.bytes for layer in result.layers), default=0) or 1
    for layer in result.layers:
        ax.barh(layer.number, layer.bytes, height=0.36, color=_layer_colour(layer.number))
        did = f"+{layer.files_added} files, {layer.files_changed} changed, {layer.files_removed} removed"
        said = f"  {human_bytes(layer.bytes)} · {did}"
        ax.text(layer.bytes, layer.number, said, va="center", fontsize=8.5, color=INK)
        ax.text(0, layer.number + 0.24, _cut(layer.instruction), va="bottom", fontsize=8.5, color="#555555")
    wasted = f"{human_bytes(result.wasted_bytes)} in files stored more than once"
    name = result.name.rpartition("/")[2]
    if result.other_platforms or result.missing_platforms:
        name += f" ({result.platform})"
    ax.set_title(f"{name}: efficiency {result.efficiency:.1%}, {wasted}")
    ax.set_yticks(range(rows), [f"layer {number}" for number in range(rows)])
    ax.set(xlim=(0, most * 1.5), ylim=(-0.4, rows - 0.1))
    ax.tick_params(axis="y", length=0)
    ax.set_xticks([])
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    return ax


def draw_union(result: Union, ax: Axes) -> Axes:
    """Columns are files, rows are layers: who holds what, and on top what is seen, in its layer's colour."""
    layers = result.stack.layers
    paths = _telling(result)
    top = len(layers) + 0.5
    resize(ax, 2.4 + 0.54 * max(len(paths), 6), 1.7 + 0.42 * (len(layers) + 1.5))
    origin = {file.path: file.layer for file in result.files}
    for x, path in enumerate(paths):
        for layer in layers:
            _union_cell(ax, x, layer, path.strip("/"))
        if path in origin:
            face = _layer_colour(origin[path])
            _box(ax, (x + 0.06, top + 0.08), 0.88, 0.84, face, str(origin[path]), ink=_on(face))
        else:
            _box(ax, (x + 0.06, top + 0.08), 0.88, 0.84, "white", "", edge=FAINT)
        ax.text(
            x + 0.5,
            top + 1.1,
            printable_name(path),
            rotation=40,
            ha="left",
            va="bottom",
            fontsize=8.5,
            color=INK,
        )
    for layer in layers:
        _box(ax, (-0.1, layer.number + 0.01), len(paths) + 0.2, 0.98, "none", edge="#DDDDDD")
        ax.text(-0.25, layer.number + 0.5, f"layer {layer.number}", ha="right", va="center", fontsize=9)
    ax.text(-0.25, top + 0.5, "merged", ha="right", va="center", fontsize=9, weight="bold")
    said = "number and colour: the layer that the file comes from  ·  \u00d7 whiteout, or hidden by an opaque directory"
    ax.text(0, -0.25, said, fontsize=8.5, color="#555555", va="top")
    ax.set(xlim=(-1.5, len(paths) + 2.2), ylim=(-0.6, top + 3.6))
    ax.axis("off")
    return ax


def _union_cell(ax: Axes, x: int, layer: Layer, path: str) -> None:
    face = _layer_colour(layer.number)
    if path in layer.entries:
        _box(ax, (x + 0.06, layer.number + 0.08), 0.88, 0.84, face, str(layer.number), ink=_on(face))
    elif _hidden_by(layer, path):
        _box(ax, (x + 0.06, layer.number + 0.08), 0.88, 0.84, "white", "\u00d7", edge=face, ink=face)


def _hidden_by(layer: Layer, path: str) -> bool:
    above = path
    while above:
        folder, slash, name = above.rpartition("/")
        if f"{folder}{slash}{WHITEOUT}{name}" in layer.entries or folder in layer.opaque:
            return True
        above = folder
    return False


def _telling(result: Union) -> list[str]:
    """The paths that tell most: those that several layers have or hide, then the largest."""
    layers = result.stack.layers
    files: dict[str, int] = {}
    for layer in layers:
        for path, entry in layer.entries.items():
            if entry.kind not in ("directory", "") and not path.rpartition("/")[2].startswith(WHITEOUT):
                files[path] = max(files.get(path, 0), entry.bytes)
    # what only one layer has and none hides is told apart without asking every layer about every file
    hiding = {path for layer in layers for path in layer.opaque}
    hiding |= {
        p.replace(WHITEOUT, "", 1)
        for layer in layers
        for p in layer.entries
        if p.split("/")[-1][:4] == WHITEOUT
    }
    count = {path: sum(path in layer.entries for layer in layers) for path in files}
    told = [path for path in files if count[path] > 1 or _is_in(path, hiding)]
    told = sorted(told, key=lambda path: -files[path])[: MOST_FILES - 3]
    rest = sorted(set(files) - set(told), key=lambda path: -files[path])[: MOST_FILES - len(told)]
    return [f"/{path}" for path in sorted([*told, *rest])]


def _is_in(path: str, folders: set[str]) -> bool:
    while path:
        if path in folders:
            return True
        path = parent(path)
    return False


# --- overlay


def draw_mounts(result: Mounts, ax: Axes) -> Axes:
    """The directories as they lie on one another, with what each is for."""
    rows = [(f"lower {n}", "read-only: a layer of the image", FAINT) for n in range(len(result.image_layers))]
    rows.append(
        (f"lower {len(rows)}", "read-only: the engine's places for /etc/hosts and the like", "#DDDDDD")
    )
    rows.append(("upper", "writable: the container's own layer (work beside it is scratch)", CONTAINER))
    rows.append(("merged", "what the container sees as /", HOST))
    resize(ax, 8, 0.6 + 0.42 * len(rows))
    for row, (name, said, face) in enumerate(rows):
        y = row + (0.35 if name == "merged" else 0)
        _box(ax, (0, y), 1.5, 0.9, face, name, ink=_on(face))
        ax.text(1.65, y + 0.45, said, va="center", fontsize=9, color=INK)
    ax.set_title(f"The root of {result.container}: {len(rows) - 1} directories, mounted as one")
    ax.set(xlim=(0, 8), ylim=(-0.1, len(rows) + 0.5))
    ax.axis("off")
    return ax


def draw_path_in_layers(result: PathInLayers, ax: Axes) -> Axes:
    """One box a directory, from the lowest to the merged view: what it holds at the path."""
    resize(ax, 8, 0.8 + 0.42 * len(result.entries))
    for row, one in enumerate(result.entries):
        y = row + (0.35 if one.layer == "merged" else 0)
        face = {"nothing": "white", "whiteout": VM}.get(
            one.kind, HOST if one.layer == "merged" else CONTAINER
        )
        _box(ax, (1.3, y + 0.06), 1.5, 0.84, face, one.kind, ink=_on(face), edge=FAINT)
        ax.text(1.2, y + 0.48, one.layer, ha="right", va="center", fontsize=9)
        text = " | ".join(one.text.strip().splitlines())
        said = f"{human_bytes(one.bytes)}: {_cut(text, 48)}" if one.kind == "file" else ""
        ax.text(2.95, y + 0.48, said, va="center", fontsize=8.5, color="#555555")
    ax.set_title(f"{result.path}, in every directory")
    ax.set(xlim=(0, 8), ylim=(-0.1, len(result.entries) + 0.5))
    ax.axis("off")
    return ax


def draw_changes(result: Changes, ax: Axes) -> Axes:
    """One row a path of upper, with what it is."""
    colours = {"added": HOST, "changed": KERNEL, "deleted": VM, "replaced": LIMIT, "copied": FAINT}
    words = {"deleted": "deleted: a whiteout", "replaced": "replaced: an opaque directory"}
    rows = len(result.paths)
    resize(ax, 8, 0.9 + 0.3 * rows)
    for row, change in enumerate(result.paths):
        _box(ax, (0, row + 0.08), 0.25, 0.84, colours[change.change])
        ax.text(0.4, row + 0.5, change.path, va="center", fontsize=9, family="monospace")
        size = f", {human_bytes(change.bytes)}" if change.kind == "file" else ""
        said = words.get(change.change, f"{change.change}: a {change.kind}{size}")
        ax.text(4.3, row + 0.5, said, va="center", fontsize=9, color="#555555")
    ax.set_title("In upper: all that the container has changed")
    ax.set(xlim=(0, 8), ylim=(max(rows, 1) + 0.1, -0.1))
    ax.axis("off")
    return ax


def draw_write_effects(result: WriteEffects, ax: Axes) -> Axes:
    """The container's layer over the image's layers, left before and right after it has written."""
    places = [one.layer for one in result.before[0].entries]
    width = len(result.before)
    resize(ax, 9.6, 1.9 + 0.38 * len(places))
    top = float(len(places))
    for left, title, files in ((0.0, "before", result.before), (width + 1.4, "after", result.after)):
        ax.text(left + width / 2, top + 2.9, title, ha="center", weight="bold", fontsize=11)
        for x, file in enumerate(files):
            did = "" if title == "before" else result.operations[file.path]
            folder, _, name = file.path.rpartition("/")
            said = f"{folder}/\n{name}"
            ax.text(left + x + 0.5, top + 1.5, said, ha="center", fontsize=8.5, family="monospace")
            ax.text(left + x + 0.5, top + 0.8, did, ha="center", fontsize=8.5, color="#555555")
            for y, one in enumerate(file.entries):
                _place_cell(ax, left + x, _height(y, places), one.kind, one.layer, file)
        for y, place in enumerate(places):
            face = CONTAINER if place == "upper" else HOST if place == "merged" else FAINT
            _box(ax, (left - 0.04, _height(y, places)), width + 0.08, 0.94, "none", edge=face)
    for y, place in enumerate(places):
        last = y == len(places) - 3
        said = {"upper": "upper, writable", "merged": "merged"}.get(
            place, f"{place}{' (engine)' if last else ''}"
        )
        ax.text(width + 0.7, _height(y, places) + 0.47, said, ha="center", va="center", fontsize=8.5)
    ax.text(
        0, -0.3, "filled: holds the file  ·  bold edge: the one that is seen", fontsize=8.5, color="#555555"
    )
    ax.set(xlim=(-0.2, 2 * width + 1.6), ylim=(-0.5, top + 3.4))
    ax.axis("off")
    return ax


def _height(row: int, places: Sequence[str]) -> float:
    """A little air below the container's layer, and below the merged view."""
    return row + 0.25 * (row >= len(places) - 2) + 0.25 * (row == len(places) - 1)


def _place_cell(ax: Axes, x: float, y: float, kind: str, place: str, file: PathInLayers) -> None:
    if kind == "nothing":
        return
    seen = place == file.source
    face = VM if kind == "whiteout" else {"merged": HOST, "upper": CONTAINER}.get(place, "#B9C6D2")
    said = "\u00d7 whiteout" if kind == "whiteout" else kind
    edge = INK if seen and place != "merged" else "white"
    _box(ax, (x + 0.07, y + 0.09), 0.86, 0.76, face, said, ink=_on(face), edge=edge)


def draw_copy_up_cost(result: CopyUpCost, ax: Axes) -> Axes:
    """Time of the first and of the second write against the size of the file, both axes logarithmic."""
    resize(ax, 7.5, 3.4)
    middle = result.medians()
    sizes = [write.file_bytes for write in middle]
    for name, colour, said, offset in (
        ("first_write_ms", VM, "first byte: the whole file is copied up", -60),
        ("second_write_ms", CONTAINER, "second byte: the copy is there", 14),
    ):
        ax.plot(
            [w.file_bytes for w in result.writes],
            [getattr(w, name) for w in result.writes],
            "o",
            color=colour,
        )
        line = [getattr(write, name) for write in middle]
        ax.plot(sizes, line, "-", color=colour, lw=1.4, label=name)
        end = (sizes[-1], line[-1])
        ax.annotate(said, end, (0, offset), textcoords="offset points", ha="right", color=colour)
    ax.set(xscale="log", yscale="log", xlabel="size of the file in the image", ylabel="ms for one byte")
    ax.set_xticks(sizes, [human_bytes(size) for size in sizes])
    ax.minorticks_off()
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * 3)
    grown = human_bytes(middle[-1].layer_growth_bytes)
    ax.set_title(f"One byte appended to {human_bytes(sizes[-1])}: the container's layer grows by {grown}")
    return ax


# --- sharing


def draw_sharing(result: Sharing, ax: Axes) -> Axes:
    """Columns are containers; a layer is one box, as wide as those who share it."""
    width = len(result.users)
    depth = max(len(user.layers) for user in result.users)
    resize(ax, max(7.5, 2 + 1.1 * width), 1.5 + 0.4 * (depth + 1))
    drawn: set[str] = set()
    for user in result.users:
        for level, one in enumerate(user.layers):
            if one.id not in drawn:
                drawn.add(one.id)
                _shared_box(ax, result.users_of(one.id), level, one.bytes)
    for x, user in enumerate(result.users):
        own = human_bytes(sum(one.bytes for one in user.container_layers))
        _box(ax, (x + 0.05, depth + 0.3), 0.9, 0.84, CONTAINER, f"+ {own}", ink="white")
        ax.text(x + 0.5, depth + 1.25, f"container of\n{user.image}", ha="center", va="bottom", fontsize=8.5)
    ax.text(-0.1, depth + 0.72, "container\nlayers", ha="right", va="center", fontsize=9)
    ax.text(-0.1, depth / 2, "image\nlayers,\nread-only", ha="right", va="center", fontsize=9)
    stored, copies = human_bytes(result.stored_bytes), human_bytes(result.sum_bytes)
    ax.set_title(f"On the disk: {stored}. As copies it would be {copies}")
    ax.set(xlim=(-0.8, width), ylim=(-0.1, depth + 2.2))
    ax.axis("off")
    return ax


def _shared_box(ax: Axes, users: Sequence[int], level: int, size: int) -> None:
    from itertools import groupby

    face = LAYERS[1 + level % (len(LAYERS) - 1)]
    # those who share a layer may not stand side by side
    runs = [
        [place for _, place in run] for _, run in groupby(enumerate(users), lambda pair: pair[1] - pair[0])
    ]
    for run in runs:
        said = human_bytes(size) + (f", shared by {len(users)}" if len(run) > 1 else "")
        _box(ax, (run[0] + 0.05, level + 0.05), len(run) - 0.1, 0.9, face, said, ink=_on(face))


# --- builds


def draw_build_cache(result: BuildCache, ax: Axes) -> Axes:
    """One row a build, its steps one after the other: what ran is coloured, what the cache gave has no width."""
    resize(ax, 8.5, 3)
    longest = max(build.duration_s for build in result.builds)
    for row, build in enumerate(result.builds):
        left = 0.0
        for step in build.steps:
            face = FAINT if step.cached else VM if step.instruction.startswith("RUN") else ENGINE
            ax.barh(row, step.duration_s, left=left, height=0.5, color=face, edgecolor="white", linewidth=0.6)
            if step.duration_s > longest * 0.12:
                ax.text(
                    left + step.duration_s / 2, row, step.instruction.split()[0], ha="center", va="center"
                )
            left += step.duration_s
        cached = sum(step.cached for step in build.steps)
        said = f"  {build.duration_s:.1f} s, {cached} steps from the cache, {len(build.executed)} ran"
        ax.text(left, row, said, va="center", fontsize=8.5, color=INK)
    names = [f"{build.order}\n{build.when}" for build in result.builds]
    ax.set_yticks(range(len(names)), names)
    ax.set_title(f"A changed line costs {result.saved_s:.1f} s less where dependencies come first")
    ax.set(xlim=(0, longest * 1.6), ylim=(len(names) - 0.4, -0.6), xlabel="seconds")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return ax


def draw_stages(result: Stages, ax: Axes) -> Axes:
    """One bar an image."""
    resize(ax, 8.5, 2.2)
    most = max(result.single_stage.bytes, result.multi_stage.bytes)
    for row, (one, colour) in enumerate(((result.single_stage, VM), (result.multi_stage, HOST))):
        ax.barh(row, one.bytes, height=0.5, color=colour)
        tool = "Python still in it" if one.has_python else "no Python in it"
        said = f"  {one.name}: {human_bytes(one.bytes)}, {tool}"
        ax.text(one.bytes, row, said, va="center", fontsize=9)
    ax.set_title("The same page, in an image of one stage and of two")
    ax.set(xlim=(0, most * 1.6), ylim=(1.5, -0.5))
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
    _bare(ax)
    return ax


def draw_secrets(result: Secrets, ax: Axes) -> Axes:
    """Rows are ways to use a secret, columns are places: filled where everybody can read it."""
    columns = ("layer", "history", "settings")
    resize(ax, 8.5, 1.2 + 0.55 * len(result.refs))
    for row, way in enumerate(result.refs):
        ax.text(-0.1, row + 0.5, way, ha="right", va="center", fontsize=9.5)
        for x, column in enumerate(columns):
            found = [place for place in result.locations(way) if place.startswith(column)]
            said = _cut(found[0].partition(": ")[2] or column, 26) if found else "no"
            where = found[0].partition(":")[0] if found else ""
            face = VM if found else PAPER
            text = f"{where}: {said}" if where.startswith("layer ") else said
            _box(ax, (x * 2, row + 0.08), 1.95, 0.84, face, text, ink=_on(face))
    for x, column in enumerate(columns):
        head = {"layer": "in a layer", "history": "in the history", "settings": "in the settings"}[column]
        ax.text(x * 2 + 1, -0.1, head, ha="center", va="bottom", fontsize=9.5)
    ax.set_title("Where the secret can be read, by who has the image")
    ax.set(xlim=(-1.3, 6), ylim=(len(result.refs) + 0.1, -0.6))
    ax.axis("off")
    return ax


def draw_recovered(result: Recovered, ax: Axes) -> Axes:
    """One row a layer that has the path, the lowest at the bottom."""
    resize(ax, 9, 0.9 + 0.45 * max(len(result.copies), 1))
    for row, copy in enumerate(result.copies):
        face = VM if copy.kind == "whiteout" else CONTAINER
        _box(ax, (0, row + 0.06), 1.3, 0.88, face, f"layer {copy.layer}", ink="white")
        text = f": {_cut(copy.text.strip(), 40)}" if copy.text else ""
        ax.text(1.45, row + 0.5, f"{copy.kind}{text}", va="center", fontsize=9)
        ax.text(5.2, row + 0.5, _cut(copy.instruction, 44), va="center", fontsize=8.5, color="#555555")
    seen = "a container sees it" if result.visible else "a container does not see it"
    ax.set_title(f"{result.path}: {seen}")
    ax.set(xlim=(0, 9), ylim=(-0.1, max(len(result.copies), 1) + 0.1))
    ax.axis("off")
    return ax


# --- content addresses


def draw_verification(result: Verification, ax: Axes) -> Axes:
    """One row a blob: the name that it is asked for, and the digest of what came."""
    resize(ax, 8.5, 1.2 + 0.36 * len(result.blobs))
    for row, blob in enumerate(result.blobs):
        face = HOST if blob.matches else VM
        ax.text(1.0, row + 0.5, blob.kind, ha="right", va="center", fontsize=9)
        for x, digest, colour in ((1.15, blob.digest, FAINT), (4.35, blob.recomputed, face)):
            _box(ax, (x, row + 0.1), 2.6, 0.8, colour, digest[7:23] + "…", ink=_on(colour))
        ax.text(4.05, row + 0.5, "=" if blob.matches else "≠", ha="center", va="center", fontsize=11)
        ax.text(7.1, row + 0.5, human_bytes(blob.bytes), va="center", fontsize=8.5)
    ax.text(2.45, -0.15, "its name", ha="center", fontsize=9)
    ax.text(5.65, -0.15, "SHA-256 of what the registry sent", ha="center", fontsize=9)
    ax.set(xlim=(0, 8.2), ylim=(len(result.blobs) + 0.1, -0.7))
    ax.axis("off")
    return ax


def draw_corrupted_pull(result: CorruptedPull, ax: Axes) -> Axes:
    """The byte before and after, and the engine's words."""
    resize(ax, 9, 2.2)
    for x, value, said in ((0.0, result.before, "pushed"), (2.2, result.after, "in the registry, changed")):
        ax.text(x + 0.9, 1.25, said, ha="center", fontsize=9)
        _box(ax, (x, 0.5), 1.8, 0.6, HOST if x == 0 else VM, f"{value:08b}", ink="white")
    words = (result.engine_message or "the engine took it").split(" sha256:")[0]
    ax.text(4.4, 0.8, f"docker pull: {_cut(words, 64)}", va="center", fontsize=9)
    ax.set_title(f"Byte {result.offset:,} of layer {result.digest[7:19]}…, one bit changed")
    ax.set(xlim=(0, 9), ylim=(0.3, 1.6))
    ax.axis("off")
    return ax


# --- the course's own pictures


def main() -> None:
    """Draw part3-2, part3-3 and part3-4 from what is measured on the engine, into `assets/layers/`."""
    import matplotlib.pyplot as plt

    from labhelpers import layers
    from labhelpers.lab import Lab

    folder = ROOT / "assets" / "layers"
    folder.mkdir(parents=True, exist_ok=True)
    with Lab("02") as lab, lab.quiet():
        example = layers.example_images(lab)
        pulled = layers.pull(lab, example.first)
        union = layers.image_layers(lab, example.first).union
        container = lab.run(example.first)
        written = layers.write_effects(
            lab,
            container,
            keep="/data/large",
            change="/app/settings",
            delete="/www/index.html",
            add="/app/new",
        )
    for name, result in (("part3-2", pulled), ("part3-3", union), ("part3-4", written)):
        result.plot(new_axes())
        plt.savefig(folder / f"{name}.png", dpi=130)


if __name__ == "__main__":
    main()
