"""Whatever a reader passes to `Lab`: it works, or it is a `LabError`. No other exception reaches a cell."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labhelpers.errors import LabError
from labhelpers.lab import Lab
from labhelpers.lab.operations import Run

NUMBERS = (True, False, 0, -1, 1, 2**31, 2**63, 2**64, 0.5, -0.1, math.nan, math.inf, 1e300, 3j)
TEXTS = (
    "",
    " ",
    "\n",
    "\x00",
    "a b",
    "../x",
    "-x",
    "--",
    "/",
    "%",
    "a:b:c",
    "\u00e9" * 300,
    "\ud800",
    "x" * 5000,
)
LISTS: tuple[Any, ...] = (
    b"x",
    (),
    [],
    {},
    [None],
    [""],
    ["\x00"],
    {"": ""},
    {None: None},
    {"a": None},
    {1: 2},
    {"80": "x"},
)
ODD: tuple[Any, ...] = (None, *NUMBERS, *TEXTS, *LISTS, object())

# side by side, each process has one of its own
STEADY = f"steady-{os.getpid()}"
OPTIONS = (
    *(field.name for field in dataclasses.fields(Run) if field.name not in ("image", "command")),
    *("detach", "no_such_option"),
)
CALLS: dict[str, Callable[[Lab, Any], object]] = {
    "run": lambda lab, bad: lab.run(bad),
    "run a command": lambda lab, bad: lab.run("labhelpers/none:1", bad),
    "run_once": lambda lab, bad: lab.run_once(lab.image("payload"), ["true"], limit_s=bad),
    "exec": lambda lab, bad: lab.exec(STEADY, bad),
    "exec in": lambda lab, bad: lab.exec(bad, ["true"]),
    "stop": lambda lab, bad: lab.stop(bad),
    "stop timeout": lambda lab, bad: lab.stop("nobody", timeout_s=bad),
    "remove": lambda lab, bad: lab.remove(bad),
    "start": lambda lab, bad: lab.start(bad),
    "restart": lambda lab, bad: lab.restart(bad),
    "kill": lambda lab, bad: lab.kill(bad),
    "kill signal": lambda lab, bad: lab.kill("nobody", bad),
    "pause": lambda lab, bad: lab.pause(bad),
    "unpause": lambda lab, bad: lab.unpause(bad),
    "wait": lambda lab, bad: lab.wait(bad, limit_s=1),
    "wait limit": lambda lab, bad: lab.wait("nobody", limit_s=bad),
    "build": lambda lab, bad: lab.build(bad, "lab-bad:1"),
    "commit": lambda lab, bad: lab.commit(STEADY, bad),
    "commit from": lambda lab, bad: lab.commit(bad, "lab-bad:1"),
    "tag": lambda lab, bad: lab.tag(bad, "lab-bad:1"),
    "tag as": lambda lab, bad: lab.tag(lab.image("payload"), bad),
    "create_network": lambda lab, bad: lab.create_network(bad),
    "network subnet": lambda lab, bad: lab.create_network("lab-bad", subnet=bad),
    "network option": lambda lab, bad: lab.create_network("lab-bad", options=bad),
    "create_volume": lambda lab, bad: lab.create_volume(bad),
    "volume option": lambda lab, bad: lab.create_volume("lab-bad", driver_opts=bad),
    "connect": lambda lab, bad: lab.connect(bad, bad),
    "remove_network": lambda lab, bad: lab.remove_network(bad),
    "remove_volume": lambda lab, bad: lab.remove_volume(bad),
    "remove_image": lambda lab, bad: lab.remove_image(bad),
    "inspect": lambda lab, bad: lab.inspect(bad),
    "inspect_image": lambda lab, bad: lab.inspect_image(bad),
    "history_of": lambda lab, bad: lab.history_of(bad),
    "inspect_network": lambda lab, bad: lab.inspect_network(bad),
    "inspect_volume": lambda lab, bad: lab.inspect_volume(bad),
    "changes_of": lambda lab, bad: lab.changes_of(bad),
    "list_containers": lambda lab, bad: lab.list_containers(filters=bad),
    "logs": lambda lab, bad: lab.logs(bad),
    "logs tail": lambda lab, bad: lab.logs(STEADY, tail=bad),
    "is_running": lambda lab, bad: lab.is_running(bad),
    "address_of": lambda lab, bad: lab.address_of(bad),
    "address on": lambda lab, bad: lab.address_of(STEADY, bad),
    "directory_of": lambda lab, bad: lab.directory_of(bad),
    "last_lines": lambda lab, bad: lab.last_lines(STEADY, bad),
    "image": lambda lab, bad: lab.image(bad),
    "forward_port": lambda lab, bad: lab.forward_port(STEADY, bad),
    "forward_port of": lambda lab, bad: lab.forward_port(bad, 80),
    "cgroup": lambda lab, bad: lab.host.cgroup(bad),
}


@pytest.fixture(scope="module")
def steady(shared_lab: Lab) -> Lab:
    """A quiet lab in which one container runs."""
    shared_lab.run(shared_lab.image("payload"), ["sleep", "600"], name=STEADY, network="none")
    return shared_lab


@pytest.fixture(autouse=True)
def _what_worked_is_removed(steady: Lab) -> Iterator[None]:
    yield
    made = {"label": f"labhelpers.session={steady.session}"}
    for each in steady.list_containers(stopped=True, filters=made):
        if f"/{STEADY}" not in each["Names"]:
            steady.remove(each["Id"], force=True)


@pytest.mark.parametrize("name", CALLS)
def test_an_odd_argument_works_or_is_a_lab_error(steady: Lab, name: str) -> None:
    for odd in ODD:
        with suppress(LabError):
            CALLS[name](steady, odd)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_odd_option_of_run_works_or_is_a_lab_error(steady: Lab, option: str) -> None:
    # an image that is not there: the options go through the lab, the SDK and the engine's parser, and nothing starts
    for odd in ODD:
        with suppress(LabError):
            steady.run("labhelpers/none:1", ["true"], **{option: odd})


@given(
    st.dictionaries(
        st.sampled_from(OPTIONS), st.text() | st.integers() | st.floats() | st.booleans(), max_size=3
    )
)
@settings(max_examples=25)
def test_any_mixture_of_options_works_or_is_a_lab_error(steady: Lab, options: dict[str, Any]) -> None:
    with suppress(LabError):
        steady.run(steady.image("payload"), ["true"], **options)
