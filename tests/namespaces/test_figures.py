"""The figures, by what they show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.text import Annotation

from labhelpers.drawing import CONTAINER, HOST, INK, VM, WHITE, alternative_text
from labhelpers.engine.host import Process
from labhelpers.namespaces.identity import NamespaceMatrix, Namespaces
from labhelpers.namespaces.joining import EnteredNamespaces, EnteredProcess, JoinedNamespace, Sharing
from labhelpers.namespaces.optional_namespaces import (
    CgroupPath,
    CgroupView,
    TimeNamespaceOffset,
    UnshareAttempt,
    UserNamespaces,
)
from labhelpers.namespaces.pid1 import (
    OrphanCount,
    SentSignal,
    SignalDispositions,
    Signals,
    Stop,
    Stops,
    Zombies,
)
from labhelpers.namespaces.trees import PidNamespace, ProcessTree
from labhelpers.namespaces.visibility import Attempt, Visibility

matplotlib.use("agg")
ROWS = (
    Namespaces("host", 7, {"pid": 4026500001, "net": 4026500002, "time": 4026500003}),
    Namespaces("web", 8, {"pid": 4026512345, "net": 4026512346, "time": 4026500003}),
    Namespaces("friend", 9, {"pid": 4026512347, "net": 4026512346, "time": 4026500003}),
)


def process(pid: int, parent: int, command: str, space: int, *inner: int) -> Process:
    nspid = (pid, *inner)
    return Process(pid, parent, nspid[-1], command, nspid, {"pid": space}, 0, "S", 1)


TREE = ProcessTree(
    (
        process(300, 1, "/usr/bin/containerd-shim-runc-v2 -namespace moby", 1),
        process(400, 300, "sh -c something", 2, 1),
        process(401, 400, "sleep 901", 2, 7),
        process(402, 400, "/bin/deep one", 3, 8, 1),
        process(403, 300, "sh", 2, 15),
    ),
    (PidNamespace(1, "host", 0, None), PidNamespace(2, "web", 1, 1), PidNamespace(3, "inside web", 2, 2)),
)


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts] + [ax.get_title(loc="left")]


def described(ax: Axes) -> str:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return alternative_text(figure)


def cells(ax: Axes, columns: int) -> list[list[str]]:
    """The colours of the cells: a list for each column."""
    faces = [to_hex(p.get_facecolor()).upper() for p in ax.patches if isinstance(p, FancyBboxPatch)]
    return [faces[column::columns] for column in range(columns)]


def test_in_a_column_one_colour_is_one_namespace() -> None:
    ax = NamespaceMatrix(ROWS).plot()
    assert cells(ax, 3) == [[HOST, CONTAINER, VM], [HOST, CONTAINER, CONTAINER], [HOST, HOST, HOST]]
    for text in ("host", "web", "friend", "pid", "pid: process ids; net: interfaces; time: clocks", "…12346"):
        assert text in texts(ax)


def test_one_process_has_not_the_colour_of_the_host() -> None:
    ax = ROWS[1].plot()
    assert {face for column in cells(ax, 3) for face in column} == {CONTAINER}
    assert "web (PID 8 on the host)" in texts(ax)[-1]


def test_what_was_asked_for_is_framed() -> None:
    ax = Sharing(NamespaceMatrix(ROWS), (JoinedNamespace("friend", "net", "web", ("net",)),), "").plot()
    framed = [p for p in ax.patches if to_hex(p.get_edgecolor()).upper() == INK]
    assert len(framed) == 1
    assert to_hex(framed[0].get_facecolor()).upper() == CONTAINER


def test_processes_that_entered() -> None:
    rows = (ROWS[0], replace(ROWS[1], name="first process"), replace(ROWS[1], name="nsenter"))
    entered = EnteredNamespaces(
        NamespaceMatrix(rows),
        (EnteredProcess("first process", 1, 0, True), EnteredProcess("nsenter", 9, 0, False)),
    )
    assert entered.all_equal
    ax = entered.plot()
    assert {"PID inside", "1", "9", "same cgroup", "yes", "no"} <= set(texts(ax))
    assert "nsenter has PID 9 inside, in another cgroup" in described(ax)


def test_the_tree_has_a_box_for_each_namespace_and_every_pid() -> None:
    ax = TREE.plot()
    shown = texts(ax)
    for process_ in TREE.processes:
        for pid in process_.nspid:
            assert str(pid) in shown
    assert "containerd-shim-runc-v2" in shown
    assert "PID,\ninside web" in shown
    boxes = {to_hex(p.get_edgecolor()).upper(): p for p in ax.patches if isinstance(p, FancyBboxPatch)}
    assert list(boxes) == [HOST, CONTAINER, VM]
    # each is inside the box of its parent namespace
    for outer, inner in ((HOST, CONTAINER), (CONTAINER, VM)):
        a, b = boxes[outer].get_bbox(), boxes[inner].get_bbox()
        assert a.x0 < b.x0 < b.x1 < a.x1
        assert a.y0 < b.y0 < b.y1 < a.y1


def test_a_process_that_was_put_in_is_in_the_box_although_its_parent_is_not() -> None:
    visible = {each.process.pid: each.parent_pid for each in TREE.visible_in("web")}
    assert visible == {400: 0, 401: 1, 402: 1, 403: 0}
    ax = TREE.plot()
    box = next(p.get_bbox() for p in ax.patches if to_hex(p.get_edgecolor()).upper() == CONTAINER)
    (last,) = [text.xy[1] for text in ax.texts if isinstance(text, Annotation) and text.get_text() == "403"]
    assert box.y0 < last < box.y1


def test_a_large_tree_is_cut_to_what_is_nested() -> None:
    many = tuple(process(1000 + n, 1, f"daemon{n}", 1) for n in range(60))
    shown = texts(ProcessTree(many + TREE.processes, TREE.namespaces).plot())
    assert "402" in shown
    assert not [text for text in shown if text.startswith("daemon")]


def test_each_view_shows_only_what_it_sees() -> None:
    ax = TREE.views.plot()
    shown = [" ".join(text.split()) for text in texts(ax)]
    assert "the host sees 5 of 5 processes" in shown
    assert "web sees 4 of 5 processes" in shown
    assert "inside web sees 1 of 5 processes" in shown
    # the deepest process has three numbers in three views, and is nowhere else
    assert [shown.count(str(pid)) for pid in (402, 8)] == [1, 1]
    assert shown.count("1") == 2
    outlines = [p for p in ax.patches if p.get_linestyle() in ("--", "dashed")]
    assert len(outlines) == (5 - 4) + (5 - 1)


def test_visibility() -> None:
    visible = {("a", "one"): "PID 1", ("a", "the host"): "PID 99"}
    ax = Visibility(
        "pid", ("one", "two", "the host"), ("a",), visible, (Attempt("two", "kill 99", False, "no"),)
    ).plot()
    shown = texts(ax)
    assert shown.count("not visible") == 1
    assert {"PID 1", "PID 99"} <= set(shown)
    assert "two$ kill 99 → no" in shown


def test_the_other_kinds() -> None:
    made = UnshareAttempt("--fewest", 65534, 0, True, 0, (0, 65534, 1), True, "")
    refused = UnshareAttempt("(no option)", 0, 2, False, None, (), False, "no")
    shown = texts(UserNamespaces(False, (refused, made), ()).plot())
    assert {"refused", "created", "65534 → 0", "Docker's list", "none"} <= set(shown)
    views = (CgroupPath("host", "/docker/abc", True, True), CgroupPath("private", "/", False, False))
    view = CgroupView(2, "private", views)
    assert {"/docker/abc", "/", "--cgroupns private (the default)"} <= set(texts(view.plot()))
    ax = TimeNamespaceOffset(True, 86400, 3600.0, 90000.0, "").plot()
    assert [bar.get_width() for bar in ax.patches if isinstance(bar, Rectangle)] == [1, 25]
    assert "this kernel has no time namespaces" in texts(
        TimeNamespaceOffset(False, 86400, 0, None, "").plot()
    )


def test_process_1() -> None:
    sent: list[Any] = [
        ("sleep", 1, "default", "TERM", "inside", False),
        ("x", 1, "waited for", "TERM", "inside", True),
    ]
    shown = texts(Signals(tuple(SentSignal(*each) for each in sent)).plot())
    assert {"no handler", "waits for it", "keeps running", "ended", "TERM from inside"} <= set(shown)
    ax = Stops(10, (Stop("sleep", "default", 10.2, 137), Stop("x", "caught", 0.1, 0))).plot()
    assert [bar.get_width() for bar in ax.patches if isinstance(bar, Rectangle)] == [10.2, 0.1]
    assert any("killed" in text for text in texts(ax))
    ax = Zombies(
        (OrphanCount("(no option)", "sleep", 5, 5), OrphanCount("--init", "init", 5, 0)), 9, ()
    ).plot()
    dots = [str(line.get_markerfacecolor()) for line in ax.lines]
    assert (dots.count(VM), dots.count(WHITE)) == (5, 5)
    assert "SIGTERM" in SignalDispositions((), (), ("SIGTERM",), False)._repr_html_()
