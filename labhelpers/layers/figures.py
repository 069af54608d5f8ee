"""Figures of the chapter on image layers: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from labhelpers.drawing import (
    CANVAS_PX,
    CONTAINER,
    ENGINE,
    FAINT,
    HOST,
    LIMIT,
    PAPER,
    RULE,
    SMALL,
    TITLE,
    VM,
    bar,
    box,
    canvas,
    cut,
    describe,
    grid,
    human_bytes,
    key,
    label,
    listed,
    note,
    rows,
    tint,
)
from labhelpers.layers.overlay_figures import ROW_PX, draw_boxes, fit, fit_title, layer_colour
from labhelpers.layers.overlay_figures import draw_changes as draw_changes
from labhelpers.layers.overlay_figures import draw_copy_up_cost as draw_copy_up_cost
from labhelpers.layers.overlay_figures import draw_mounts as draw_mounts
from labhelpers.layers.overlay_figures import draw_path_in_layers as draw_path_in_layers
from labhelpers.layers.overlay_figures import draw_sharing as draw_sharing
from labhelpers.layers.overlay_figures import draw_union as draw_union
from labhelpers.layers.overlay_figures import draw_write_effects as draw_write_effects

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.lab import Lab
    from labhelpers.layers.builds import BuildCache, Stages
    from labhelpers.layers.digests import CorruptedPull, Verification
    from labhelpers.layers.image_stack import ImageStack
    from labhelpers.layers.leaks import Recovered, Secrets
    from labhelpers.layers.pulls import Pull
    from labhelpers.results import Result

PHASES = {
    "waiting": ("waiting", tint(ENGINE)),
    "download": ("download", ENGINE),
    "verification": ("verification", LIMIT),
    "queued": ("queued: the layer below comes first", tint(VM)),
    "extraction": ("extraction", VM),
}

# --- pulling


def draw_pull(result: Pull, ax: Axes) -> Axes:
    """One row for each layer, the lowest at the top; a bar for each phase of its pull, in milliseconds."""
    name = result.ref.rpartition("/")[2]
    layers = "layer" if result.downloaded_layers == 1 else "layers"
    rows(
        ax,
        [f"layer {row}  {layer.id[:7]}" for row, layer in enumerate(result.layers)] or ["no layers"],
        title=fit_title(
            f"docker pull {name}: {result.downloaded_layers} {layers} fetched, {result.existing_layers} already there"
        ),
        end=result.total_ms * 1.15 or 1,
        xlabel="ms since the pull began",
        keyed=True,
    )
    present = {phase.name for layer in result.layers for phase in layer.phases}
    key(ax, [(colour, text) for name, (text, colour) in PHASES.items() if name in present])
    facts = []
    for row, layer in enumerate(result.layers):
        for phase in layer.phases:
            bar(ax, row, phase.start_ms, phase.end_ms, PHASES[phase.name][1])
        if layer.already_exists:
            note(ax, 0, row, "already there", shift=(8, 0))
            facts.append(f"layer {row}: already there")
        else:
            size = human_bytes(layer.bytes) if layer.bytes else ""
            label(ax, layer.end_ms or 0, row, size, size=SMALL, shift=(8, 0))
            facts.append(f"layer {row}: {size or 'fetched'}, complete after {layer.end_ms or 0:.0f} ms")
    describe(ax, *facts)
    return ax


# --- the layers of an image


def draw_image_stack(result: ImageStack, ax: Axes) -> Axes:
    """One bar for each layer, the lowest at the bottom: size, instruction, and changes to the files."""
    top = len(result.layers) - 1
    name = result.name.rpartition("/")[2]
    if result.other_platforms or result.missing_platforms:
        name += f" ({result.platform})"
    wasted = f"{human_bytes(result.wasted_bytes)} in files stored more than once"
    rows(
        ax,
        [f"layer {layer.number}" for layer in reversed(result.layers)] or ["no layers"],
        title=fit_title(f"{name}: efficiency {result.efficiency:.1%}, {wasted}"),
        end=1.6 * max([layer.bytes for layer in result.layers], default=0) or 1,
        row_px=58,
    )
    facts = []
    for layer in result.layers:
        row = top - layer.number
        bar(ax, row, 0, layer.bytes, layer_colour(layer.number), height=0.36)
        files = f"+{layer.files_added} files, {layer.files_changed} changed, {layer.files_removed} removed"
        text = f"{human_bytes(layer.bytes)} · {files}"
        label(ax, layer.bytes, row, text, size=SMALL, shift=(8, 0))
        note(ax, 0, row, cut(layer.instruction, 620, SMALL), valign="bottom", shift=(0, 12))
        facts.append(f"layer {layer.number}: {text}")
    describe(ax, *facts or ["no layers"])
    return ax


# --- builds


def draw_build_cache(result: BuildCache, ax: Axes) -> Axes:
    """One row for each build, its steps in sequence; a step from the cache takes no time."""
    longest = max(build.duration_s for build in result.builds)
    rows(
        ax,
        [f"{build.order}\n{build.when}" for build in result.builds],
        title=f"A changed line costs {result.saved_s:.1f} s less where dependencies come first",
        end=longest * 1.6 or 1,
        xlabel="seconds",
        row_px=52,
        keyed=True,
    )
    key(ax, [(VM, "RUN"), (ENGINE, "other instructions"), (FAINT, "from the cache")])
    facts = []
    for row, build in enumerate(result.builds):
        start = 0.0
        for step in build.steps:
            face = FAINT if step.cached else VM if step.instruction.startswith("RUN") else ENGINE
            bar(ax, row, start, start + step.duration_s, face, step.instruction.split()[0], height=0.5)
            start += step.duration_s
        cached = sum(step.cached for step in build.steps)
        text = f"{build.duration_s:.1f} s, {cached} steps from the cache, {len(build.executed)} ran"
        label(ax, start, row, text, size=SMALL, shift=(8, 0))
        facts.append(f"{build.order}, {build.when}: {text}")
    describe(ax, *facts)
    return ax


def draw_stages(result: Stages, ax: Axes) -> Axes:
    """One bar for each image."""
    rows(
        ax,
        [image.name for image in result.images],
        title="The same page, in an image of one stage and of two",
        end=1.5 * max(image.bytes for image in result.images),
    )
    facts = []
    for row, (image, colour) in enumerate(zip(result.images, (VM, HOST), strict=True)):
        bar(ax, row, 0, image.bytes, colour)
        text = (
            f"{human_bytes(image.bytes)}, {'Python still in it' if image.has_python else 'no Python in it'}"
        )
        label(ax, image.bytes, row, text, shift=(8, 0))
        facts.append(f"{image.name}: {text}")
    describe(ax, *facts)
    return ax


def draw_secrets(result: Secrets, ax: Axes) -> Axes:
    """Rows are ways to use a secret, columns are locations, coloured where the secret can be read."""
    heads = {"layer": "in a layer", "history": "in the history", "settings": "in the settings"}
    cells, facts = [], []
    for image in result.refs:
        row = []
        for kind in heads:
            leaks = [location for location in result.locations(image) if location.startswith(kind)]
            row.append((fit(leaks[0], 200, 3), tint(VM)) if leaks else ("no", PAPER))
        cells.append(row)
        facts.append(f"{image}: {listed(result.locations(image) or ['nowhere'])}")
    title = "Where anyone who has the image can read the secret"
    grid(ax, list(heads.values()), list(result.refs), cells, title=title)
    describe(ax, *facts)
    return ax


def draw_recovered(result: Recovered, ax: Axes) -> Axes:
    """One row for each layer that has the path, the lowest at the bottom."""
    entries = []
    for copy in reversed(result.copies):
        text = f": {cut(copy.text.strip(), 260, SMALL)}" if copy.text else ""
        face = VM if copy.kind == "whiteout" else CONTAINER
        entries.append((f"layer {copy.layer}", face, f"{copy.kind}{text}  ·  {copy.instruction}"))
    visible = "a container sees it" if result.visible else "a container does not see it"
    draw_boxes(ax, f"{result.path}: {visible}", entries)
    describe(ax, *[f"{layer}: {text}" for layer, _, text in entries] or ["no layer has it"])
    return ax


# --- content addresses


def draw_verification(result: Verification, ax: Axes) -> Axes:
    """One row for each blob: the digest in its name, and the digest of the received bytes."""
    left, width, middle = 84.0, 270.0, 40.0
    right = left + width + middle
    name = result.ref.rpartition("/")[2]
    canvas(ax, 26 + ROW_PX * len(result.blobs), fit_title(f"The digests of {name}, recomputed"))
    label(ax, left + width / 2, 10, "its name", align="center")
    label(ax, right + width / 2, 10, "SHA-256 of what the registry sent", align="center")
    for row, blob in enumerate(result.blobs):
        y = 26 + ROW_PX * row
        centre = y + ROW_PX / 2 - 2
        label(ax, left - 8, centre, blob.kind, align="right")
        for x, digest, face in (
            (left, blob.digest, RULE),
            (right, blob.recomputed, HOST if blob.matches else VM),
        ):
            box(ax, (x, y), (width, ROW_PX - 4), face, text=digest[7:23] + "…", mono=True)
        label(ax, left + width + middle / 2, centre, "=" if blob.matches else "≠", size=TITLE, align="center")
        label(ax, right + width + 12, centre, human_bytes(blob.bytes), size=SMALL)
    wrong = [blob.kind for blob in result.blobs if not blob.matches]
    matching = f"{len(result.blobs) - len(wrong)} of {len(result.blobs)} blobs have the digest that they are named for"
    describe(ax, matching, f"not: {listed(wrong)}" if wrong else "")
    return ax


def draw_corrupted_pull(result: CorruptedPull, ax: Axes) -> Axes:
    """The byte before and after the change, and the message of the engine."""
    title = f"Byte {result.offset:,} of layer {result.digest[7:19]}…, one bit changed"
    canvas(ax, 72, title)
    for x, value, text, face in (
        (0, result.before, "pushed", HOST),
        (176, result.after, "in the registry, changed", VM),
    ):
        label(ax, x + 80, 8, text, size=SMALL, align="center")
        box(ax, (x, 24), (160, 36), face, text=f"{value:08b}", mono=True)
    message = (result.engine_message or "the engine took it").split(" sha256:")[0]
    label(ax, 356, 42, fit(f"docker pull: {message}", CANVAS_PX - 356, 3), size=SMALL)
    describe(ax, f"{result.before:08b} became {result.after:08b}", f"docker pull: {message}")
    return ax


def assets(lab: Lab) -> Iterator[Result]:
    """A pull, the merged view of the pulled image, and the writes of a container of it."""
    from labhelpers import layers

    example = layers.example_images(lab)
    yield layers.pull(lab, example.first, lambda pull: None)
    yield layers.image_layers(lab, example.first).union
    container = lab.run(example.first)
    yield layers.write_effects(
        lab,
        container,
        keep="/data/large",
        change="/app/settings",
        delete="/www/index.html",
        add="/app/new",
    )
