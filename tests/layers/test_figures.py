"""The figures, by what they show; and the live panel."""

from __future__ import annotations

from pathlib import Path

import archive_builder
import malicious_archives
import matplotlib
import pytest
from matplotlib.axes import Axes

from labhelpers import layers
from labhelpers.course.pulls import Phase, PulledLayer
from labhelpers.layers.builds import BuildCache, BuildRun, Built, Stages, Step
from labhelpers.layers.copy_on_write import CopyUp, CopyUpCost
from labhelpers.layers.digests import Blob, CorruptedPull, Verification
from labhelpers.layers.image_stack import ImageStack
from labhelpers.layers.leaks import Copy, Leak, Recovered, Secrets
from labhelpers.layers.live import live_pull, pull_html
from labhelpers.layers.overlay import Change, Changes, LayerEntry, Mounts, PathInLayers, WriteEffects
from labhelpers.layers.pulls import Pull
from labhelpers.layers.shared_layers import LayerDirectory, LayerUser, Sharing

matplotlib.use("agg")
MIB = 1024 * 1024
PULL = Pull(
    "reg/first:1",
    (
        PulledLayer("aaaaaaaaaaaa", "Already exists", 0, 0, ()),
        PulledLayer(
            "bbbbbbbbbbbb",
            "Pull complete",
            6 * MIB,
            6 * MIB,
            (Phase("waiting", 10, 30), Phase("download", 30, 90), Phase("extraction", 90, 200)),
        ),
        PulledLayer("cccccccccccc", "Downloading", 4 * MIB, MIB, (Phase("download", 20, 60),)),
    ),
    210,
    True,
)


def texts(ax: Axes) -> str:
    shown = [text.get_text() for text in ax.texts] + [ax.get_title(), ax.get_title(loc="left")]
    shown += [label.get_text() for label in ax.get_yticklabels()]
    return "\n".join(shown)


@pytest.fixture
def stack(tmp_path: Path) -> ImageStack:
    made = [
        archive_builder.layer({"a": 10, "d/x": 5, "keep": 1}),
        archive_builder.layer({"a": 20, ".wh.keep": b"", "d/.wh..wh..opq": b""}),
    ]
    return layers.archive(archive_builder.write(tmp_path, archive_builder.saved(made)))


def test_a_pull_has_a_bar_for_each_phase() -> None:
    ax = PULL.plot()
    assert [bar.get_width() for bar in ax.patches] == [20, 60, 110, 40]
    for text in ("already there", "6 MiB", "2 layers fetched, 1 already there", "layer 1  bbbbbbb"):
        assert text in texts(ax)
    assert PULL.max_parallel_downloads == 2


def test_the_live_panel_shows_what_was_seen_and_is_silent_outside_a_notebook() -> None:
    html = pull_html(PULL)
    assert "width:100%" in html
    assert "width:25%" in html
    assert "Already exists" in html
    assert "&lt;b&gt;" in pull_html(Pull("<b>", (), 0, False))
    assert live_pull()(PULL) is None


def test_the_stack_and_its_union(stack: ImageStack) -> None:
    ax = stack.plot()
    assert [bar.get_width() for bar in ax.patches] == [16, 20]
    assert "+0 files, 1 changed, 2 removed" in texts(ax)
    assert "RUN step 1" in texts(ax)
    union = stack.union.plot()
    assert {"/a", "/d/x", "/keep"} <= set(texts(union).split("\n"))
    assert texts(union).count("\u00d7") == 3  # two hidden files, and the note below


def test_overlay_figures() -> None:
    mounts = Mounts("web", ("/l0", "/l1", "/init"), "/up", "/work", "/merged")
    assert "The root of web: 4 directories" in texts(mounts.plot())
    nothing = LayerEntry("upper", "nothing", 0, "")
    before = PathInLayers(
        "/a", (LayerEntry("lower 0", "file", 4, "text"), nothing, LayerEntry("merged", "file", 4, "text"))
    )
    assert "4 B: text" in texts(before.plot())
    gone = (before.entries[0], LayerEntry("upper", "whiteout", 0, ""), LayerEntry("merged", "nothing", 0, ""))
    both = WriteEffects((before,), (PathInLayers("/a", gone),), {"/a": "deleted"})
    assert "\u00d7 whiteout" in texts(both.plot())
    assert both.image_is_unchanged
    changes = Changes(
        "web", (Change("/a", "deleted", "whiteout", 0), Change("/b", "added", "file", 9)), (), ()
    )
    assert "deleted: a whiteout" in texts(changes.plot())
    assert "added: a file, 9 B" in texts(changes.plot())


def test_the_cost_of_copying_up() -> None:
    ax = CopyUpCost((CopyUp(1000, 4096, 1, 0.1), CopyUp(10 * MIB, 10 * MIB, 20, 0.1))).plot()
    lines = {str(line.get_label()): list(line.get_ydata()) for line in ax.lines}  # type: ignore[arg-type]
    assert lines["first_write_ms"] == [1, 20]
    assert lines["second_write_ms"] == [0.1, 0.1]
    assert "the container's layer grows by 10 MiB" in texts(ax)


def test_a_shared_layer_is_one_box_as_wide_as_those_who_share_it() -> None:
    base, own = LayerDirectory("base", 40 * MIB), LayerDirectory("own", 6 * MIB)
    users = [
        LayerUser(name, one, (LayerDirectory(f"up{n}", 4096),))
        for n, (name, one) in enumerate([("a", (base,)), ("b", (base, own))])
    ]
    result = Sharing(tuple(users))
    ax = result.plot()
    widths = sorted(round(box.get_width(), 1) for box in ax.patches)  # type: ignore[attr-defined]
    column = widths[0] + 8  # with the gap to the next
    assert widths == [column - 8, column - 8, column - 8, 2 * column - 8]
    assert "40 MiB, shared by 2" in texts(ax)
    assert (result.stored_bytes, result.sum_bytes) == (46 * MIB + 8192, 86 * MIB + 8192)


def test_builds() -> None:
    def built(order: str, when: str, cached: bool) -> BuildRun:
        return BuildRun(
            order, when, (Step("FROM x", False, 0), Step("RUN slow", cached, 0.0 if cached else 3.0))
        )

    orders, times = ("dependencies first", "source first"), ("first build", "one line changed")
    builds = [
        built(order, when, (order, when) == (orders[0], times[1])) for order in orders for when in times
    ]
    cache = BuildCache(tuple(builds))
    assert cache.saved_s == 3
    assert "A changed line costs 3.0 s less" in texts(cache.plot())
    assert "1 steps from the cache, 0 ran" in texts(cache.plot())
    stages = Stages((Built("one stage", 200 * MIB, 3, "", True), Built("two stages", 2 * MIB, 2, "", False)))
    assert [bar.get_width() for bar in stages.plot().patches] == [200 * MIB, 2 * MIB]
    assert stages.ratio == 100


def test_secrets() -> None:
    secrets = Secrets(
        "s3cr3t", {"deleted": "a", "other stage": "b"}, (Leak("deleted", "layer 1: /token.txt"),)
    )
    shown = texts(secrets.plot())
    assert "layer 1: /token.txt" in shown
    assert "s3cr3t" not in shown
    assert list(secrets.frame()["location"]) == ["layer 1: /token.txt", "nowhere"]
    recovered = Recovered("/t", (Copy(1, "COPY t", "file", "abc"), Copy(3, "RUN rm", "whiteout", "")), False)
    for text in ("file: abc", "whiteout", "a container does not see it"):
        assert text in texts(recovered.plot())


def test_digests() -> None:
    right, wrong = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    result = Verification("x", (Blob("manifest", right, right, 9, 9), Blob("layer", right, wrong, 9, 9)))
    assert not result.all_match
    shown = texts(result.plot()).split("\n")
    assert (shown.count("="), shown.count("≠")) == (1, 1)
    refused = CorruptedPull("x", right, 7, 2, 3, f"verification failed for digest {right}", True)
    assert refused.refused
    assert {"00000010", "00000011"} <= set(texts(refused.plot()).split("\n"))
    assert not CorruptedPull("x", right, 7, 2, 3, None, True).refused


@pytest.mark.parametrize("name", ["no layers", "a name that is no UTF-8", "a layer of no bytes"])
def test_odd_archives_are_drawn(tmp_path: Path, name: str) -> None:
    stack = layers.archive(archive_builder.write(tmp_path, malicious_archives.ARCHIVES[name][0]))
    for result in (stack, stack.union):
        result.plot().figure.canvas.draw()


def test_an_instruction_with_half_a_character_is_drawn(tmp_path: Path) -> None:
    made = archive_builder.docker_archive(
        [malicious_archives.X], config=lambda one: {**one, "history": [{"created_by": "\ud800"}]}
    )
    layers.archive(archive_builder.write(tmp_path, made)).plot().figure.canvas.draw()
