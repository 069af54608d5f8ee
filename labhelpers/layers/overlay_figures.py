"""Figures of layers on top of one another: the merged view, overlay mounts, the effects of writes, sharing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from labhelpers.drawing import (
    CANVAS_PX,
    CONTAINER,
    ENGINE,
    FAINT,
    HOST,
    INK,
    KERNEL,
    LIMIT,
    RULE,
    SMALL,
    TITLE,
    VM,
    WHITE,
    box,
    canvas,
    cut,
    describe,
    human_bytes,
    ink_on,
    label,
    label_ends,
    line_height,
    note,
    set_height,
    text_width,
    tint,
    wrap,
)
from labhelpers.layers.archive_errors import printable_name
from labhelpers.layers.trees import WHITEOUT, parent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.layers.copy_on_write import CopyUpCost
    from labhelpers.layers.image_stack import Layer, Union
    from labhelpers.layers.overlay import Changes, Mounts, PathInLayers, WriteEffects
    from labhelpers.layers.shared_layers import Sharing

# one colour for each layer, from the lowest; neighbours differ in lightness too
LAYERS = (CONTAINER, KERNEL, HOST, LIMIT, ENGINE, VM)
# the most files that fit next to each other with readable names
MAX_FILES = 10
ROW_PX, GAP_PX = 34, 10


def layer_colour(number: int) -> str:
    """The colour of a layer by its number."""
    return LAYERS[number % len(LAYERS)]


def fit_title(text: str) -> str:
    """`text`, cut to the width of a figure."""
    return cut(text, CANVAS_PX, TITLE, bold=True)


def fit(text: str, width: float, max_lines: int = 4, *, mono: bool = False) -> str:
    """`text` in at most `max_lines` lines, each cut to `width` px."""
    lines = wrap(text, width, SMALL, mono=mono).split("\n")
    return "\n".join(cut(line, width, SMALL, mono=mono) for line in lines[-max_lines:])


def draw_union(result: Union, ax: Axes) -> Axes:
    """Columns are files, rows are layers: which layers hold a file, and at the top the layer that is visible."""
    layers = result.stack.layers
    paths = _most_informative(result)
    origin = {file.path: file.layer for file in result.files}
    left, width = 80.0, (CANVAS_PX - 80) / max(len(paths), 6)
    names = [fit(printable_name(path), width - 6) for path in paths]
    head = max((name.count("\n") + 1 for name in names), default=1) * line_height(SMALL) + 6
    merged_y, layers_y = head, head + ROW_PX + GAP_PX
    bottom = layers_y + ROW_PX * len(layers)
    name = result.stack.name.rpartition("/")[2]
    canvas(
        ax, bottom + 28, fit_title(f"Files of {printable_name(name)} in each layer, and in the merged view")
    )
    label(ax, left - 10, merged_y + ROW_PX / 2, "merged", bold=True, align="right")
    wide = width * len(paths) + 4
    for layer in layers:
        y = bottom - ROW_PX * (layer.number + 1)
        box(ax, (left - 2, y), (wide, ROW_PX - 2), WHITE, edge=RULE)
        label(ax, left - 10, y + ROW_PX / 2, f"layer {layer.number}", align="right")
    for column, (path, name) in enumerate(zip(paths, names, strict=True)):
        x, size = left + width * column + 4, (width - 8, ROW_PX - 10)
        label(ax, x + size[0] / 2, head - 6, name, size=SMALL, align="center", valign="bottom")
        source = origin.get(path)
        face = WHITE if source is None else layer_colour(source)
        text = "" if source is None else str(source)
        box(ax, (x, merged_y + 4), size, face, edge=RULE if source is None else None, text=text)
        for layer in layers:
            _union_cell(ax, (x, bottom - ROW_PX * (layer.number + 1) + 4), size, layer, path.strip("/"))
    number = "number and colour: the layer that the file comes from"
    note(ax, left, bottom + 14, f"{number}  ·  \u00d7 whiteout, or hidden by an opaque directory")
    visible = (f"{path} from layer {origin[path]}" if path in origin else f"{path} hidden" for path in paths)
    describe(ax, *map(printable_name, visible) if paths else ["no files"])
    return ax


def _union_cell(
    ax: Axes, corner: tuple[float, float], size: tuple[float, float], layer: Layer, path: str
) -> None:
    face = layer_colour(layer.number)
    if path in layer.entries:
        box(ax, corner, size, face, text=str(layer.number))
    elif _is_hidden_by(layer, path):
        box(ax, corner, size, WHITE, edge=face, text="\u00d7")


def _is_hidden_by(layer: Layer, path: str) -> bool:
    above = path
    while above:
        directory, slash, name = above.rpartition("/")
        if f"{directory}{slash}{WHITEOUT}{name}" in layer.entries or directory in layer.opaque:
            return True
        above = directory
    return False


def _most_informative(result: Union) -> list[str]:
    """The paths to show: those that several layers contain or hide, then the largest."""
    layers = result.stack.layers
    files: dict[str, int] = {}
    for layer in layers:
        for path, entry in layer.entries.items():
            if entry.kind not in ("directory", "") and not path.rpartition("/")[2].startswith(WHITEOUT):
                files[path] = max(files.get(path, 0), entry.bytes)
    # a set of the hidden paths avoids a test of every layer for every file
    hiding = {path for layer in layers for path in layer.opaque}
    hiding |= {
        path.replace(WHITEOUT, "", 1)
        for layer in layers
        for path in layer.entries
        if path.split("/")[-1].startswith(WHITEOUT)
    }
    count = {path: sum(path in layer.entries for layer in layers) for path in files}
    changed = [path for path in files if count[path] > 1 or _is_below_any(path, hiding)]
    changed = sorted(changed, key=lambda path: -files[path])[: MAX_FILES - 3]
    rest = sorted(set(files) - set(changed), key=lambda path: -files[path])[: MAX_FILES - len(changed)]
    return [f"/{path}" for path in sorted([*changed, *rest])]


def _is_below_any(path: str, directories: set[str]) -> bool:
    while path:
        if path in directories:
            return True
        path = parent(path)
    return False


# --- overlay


def draw_boxes(ax: Axes, title: str, entries: Sequence[tuple[str, str, str]], *, gap: bool = False) -> None:
    """Boxes on top of one another, each with a text at its right.

    Args:
        entries: text of the box, its colour, and the text at its right; from the top.
        gap: leave a gap below the first box.
    """
    width = max((text_width(text, SMALL) for text, _, _ in entries), default=0) + 24
    canvas(ax, ROW_PX * max(len(entries), 1) + (GAP_PX if gap else 0), fit_title(title))
    for number, (text, face, description) in enumerate(entries):
        y = ROW_PX * number + (GAP_PX if gap and number else 0)
        box(ax, (0, y), (width, ROW_PX - 4), face, edge=RULE if face == WHITE else None, text=text)
        description = cut(description, CANVAS_PX - width - 12, SMALL)
        label(ax, width + 12, y + ROW_PX / 2 - 2, description, size=SMALL)


def draw_mounts(result: Mounts, ax: Axes) -> Axes:
    """The directories on top of one another, with the purpose of each."""
    count = len(result.image_layers)
    entries = [
        ("merged", HOST, "what the container sees as /"),
        ("upper", CONTAINER, "writable: the container's own layer (work is its scratch directory)"),
        (f"lower {count}", RULE, "read-only: the engine's mount points for /etc/hosts and the like"),
        *((f"lower {n}", FAINT, "read-only: a layer of the image") for n in reversed(range(count))),
    ]
    title = f"The root of {result.container}: {len(entries) - 1} directories, mounted as one"
    draw_boxes(ax, title, entries, gap=True)
    describe(ax, *(f"{name}: {text}" for name, _, text in entries))
    return ax


def draw_path_in_layers(result: PathInLayers, ax: Axes) -> Axes:
    """One box for each directory, from the merged view to the lowest: its entry at the path."""
    entries = []
    for entry in reversed(result.entries):
        used = HOST if entry.layer == "merged" else CONTAINER
        face = {"nothing": WHITE, "whiteout": VM}.get(entry.kind, used)
        text = " | ".join(entry.text.strip().splitlines())
        content = f"{human_bytes(entry.bytes)}: {text}" if entry.kind == "file" else ""
        entries.append((f"{entry.layer}: {entry.kind}", face, content))
    draw_boxes(ax, f"{result.path}, in every directory", entries, gap=True)
    describe(ax, *(f"{name} {text}".strip() for name, _, text in entries))
    return ax


def draw_changes(result: Changes, ax: Axes) -> Axes:
    """One row for each path of upper, with its change."""
    colours = {"added": HOST, "changed": KERNEL, "deleted": VM, "replaced": LIMIT, "copied": RULE}
    names = {"deleted": "deleted: a whiteout", "replaced": "replaced: an opaque directory"}
    entries = []
    for change in result.paths:
        size = f", {human_bytes(change.bytes)}" if change.kind == "file" else ""
        text = names.get(change.change, f"{change.change}: a {change.kind}{size}")
        entries.append((text, colours[change.change], change.path))
    draw_boxes(ax, "In upper: all that the container has changed", entries)
    describe(ax, *[f"{path} {text}" for text, _, path in entries] or ["nothing"])
    return ax


def draw_write_effects(result: WriteEffects, ax: Axes) -> Axes:
    """The container's layer above the image's layers, on the left before and on the right after the writes."""
    layers = [entry.layer for entry in result.before[0].entries]
    middle = 116.0
    width = (CANVAS_PX - middle - 8) / 2
    top = 96.0
    canvas(
        ax,
        top + ROW_PX * len(layers) + 2 * GAP_PX + 26,
        "A container's layers, before and after it has written",
    )
    columns = width / len(result.before)
    for left, title, paths in ((4.0, "before", result.before), (4 + width + middle, "after", result.after)):
        label(ax, left + width / 2, 10, title, bold=True, align="center")
        for number, path in enumerate(paths):
            x = left + columns * number
            directory, _, name = path.path.rpartition("/")
            name = "\n".join(cut(part, columns - 6, SMALL, mono=True) for part in (f"{directory}/", name))
            label(ax, x + columns / 2, 44, name, size=SMALL, mono=True, align="center")
            if title == "after":
                note(ax, x + columns / 2, 80, result.operations[path.path], align="center")
        for number, layer in enumerate(layers):
            edge = {"upper": CONTAINER, "merged": HOST}.get(layer, FAINT)
            box(ax, (left, _layer_y(number, layers, top)), (width, ROW_PX - 4), WHITE, edge=edge)
        for number, path in enumerate(paths):
            for row, entry in enumerate(path.entries):
                corner = (left + columns * number + 5, _layer_y(row, layers, top) + 4)
                visible = entry.layer == path.source
                _entry_cell(ax, corner, (columns - 10, ROW_PX - 12), entry.kind, entry.layer, visible)
    for number, layer in enumerate(layers):
        engine = " (engine)" if number == len(layers) - 3 else ""
        text = {"upper": "upper, writable", "merged": "merged"}.get(layer, f"{layer}{engine}")
        y = _layer_y(number, layers, top) + ROW_PX / 2 - 2
        label(ax, 4 + width + middle / 2, y, text, size=SMALL, align="center")
    note(
        ax,
        4,
        _layer_y(0, layers, top) + ROW_PX + 12,
        "filled: contains the file  ·  bold edge: visible in the container",
    )
    describe(
        ax,
        *(
            f"{path.path} {result.operations[path.path]}: upper holds {path.at('upper').kind}, "
            f"merged shows {path.at('merged').kind}"
            for path in result.after
        ),
        "the image's layers are as they were"
        if result.image_is_unchanged
        else "the image's layers have changed",
    )
    return ax


def _layer_y(number: int, layers: Sequence[str], top: float) -> float:
    """The upper edge of a row, with a gap below the container's layer and below the merged view."""
    gaps = (number < len(layers) - 1) + (number < len(layers) - 2)
    return top + ROW_PX * (len(layers) - 1 - number) + GAP_PX * gaps


def _entry_cell(
    ax: Axes, corner: tuple[float, float], size: tuple[float, float], kind: str, layer: str, visible: bool
) -> None:
    if kind == "nothing":
        return
    face = VM if kind == "whiteout" else {"merged": HOST, "upper": CONTAINER}.get(layer, tint(CONTAINER))
    text = "\u00d7 whiteout" if kind == "whiteout" else kind
    box(ax, corner, size, face, edge=INK if visible and layer != "merged" else None)
    centre = (corner[0] + size[0] / 2, corner[1] + size[1] / 2)
    label(ax, *centre, text, ink_on(face), size=SMALL, align="center")


def draw_copy_up_cost(result: CopyUpCost, ax: Axes) -> Axes:
    """Time of the first and of the second write against the size of the file, both axes logarithmic."""
    set_height(ax, 380)
    medians = result.medians()
    sizes = [write.file_bytes for write in medians]
    times = [time for write in result.writes for time in (write.first_write_ms, write.second_write_ms)]
    room = max((sizes[-1] / sizes[0]) ** 0.3, 2)  # for the labels at the ends of the lines
    ax.set(xscale="log", yscale="log", xlabel="size of the file in the image", ylabel="ms for one byte")
    ax.set(xlim=(sizes[0] / room**0.15, sizes[-1] * room), ylim=(min(times) / 2, max(times) * 3))
    ends = []
    for name, colour, text in (
        ("first_write_ms", VM, "first byte:\nthe whole file\nis copied up"),
        ("second_write_ms", CONTAINER, "second byte:\nthe copy is there"),
    ):
        points = [getattr(write, name) for write in result.writes]
        ax.plot([write.file_bytes for write in result.writes], points, "o", color=colour)
        line = [getattr(write, name) for write in medians]
        ax.plot(sizes, line, "-", color=colour, lw=1.4, label=name)
        ends.append((float(sizes[-1]), float(line[-1]), text, colour))
    ax.set_xticks(sizes, [human_bytes(size) for size in sizes])
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.minorticks_off()
    growth = human_bytes(medians[-1].layer_growth_bytes)
    ax.set_title(f"One byte appended to {human_bytes(sizes[-1])}: the container's layer grows by {growth}")
    label_ends(ax, [(x * room**0.08, y, text, colour) for x, y, text, colour in ends])
    describe(
        ax,
        *(
            f"{human_bytes(write.file_bytes)}: {write.first_write_ms:.3g} ms, then {write.second_write_ms:.3g} ms"
            for write in medians
        ),
    )
    return ax


# --- sharing


def draw_sharing(result: Sharing, ax: Axes) -> Axes:
    """Columns are containers; a layer is one box, as wide as the containers that share it."""
    depth = max(len(user.layers) for user in result.users)
    left = 96.0
    width = (CANVAS_PX - left) / len(result.users)
    head = 2 * line_height(SMALL) + 8
    layers_y = head + ROW_PX + GAP_PX
    stored, copies = human_bytes(result.stored_bytes), human_bytes(result.sum_bytes)
    canvas(ax, layers_y + ROW_PX * depth, f"On the disk: {stored}. As copies it would be {copies}")
    drawn: set[str] = set()
    for user in result.users:
        for level, layer in enumerate(user.layers):
            if layer.id in drawn:
                continue
            drawn.add(layer.id)
            users = result.users_of(layer.id)
            face = LAYERS[1 + level % (len(LAYERS) - 1)]
            # the containers that share a layer may not be next to each other
            for _, group in groupby(enumerate(users), lambda pair: pair[1] - pair[0]):
                run = [number for _, number in group]
                text = human_bytes(layer.bytes) + (f", shared by {len(users)}" if len(run) > 1 else "")
                corner = (left + width * run[0] + 4, layers_y + ROW_PX * (depth - 1 - level))
                box(ax, corner, (width * len(run) - 8, ROW_PX - 4), face, text=text)
    for number, user in enumerate(result.users):
        x = left + width * number
        own = human_bytes(sum(layer.bytes for layer in user.container_layers))
        box(ax, (x + 4, head), (width - 8, ROW_PX - 4), CONTAINER, text=f"+ {own}")
        name = f"container of\n{cut(user.image, width - 8, SMALL)}"
        label(ax, x + width / 2, head - 6, name, size=SMALL, align="center", valign="bottom")
    label(ax, left - 8, head + ROW_PX / 2, "container\nlayers", align="right")
    label(ax, left - 8, layers_y + ROW_PX * depth / 2, "image\nlayers,\nread-only", align="right")
    shared = sum(len(result.users_of(id)) > 1 for id in drawn)
    containers = f"{len(result.users)} containers share {shared} of {len(drawn)} image layers"
    describe(ax, containers, f"the containers' own layers take {human_bytes(result.containers_bytes)}")
    return ax
