"""Someone else's things: whatever they are called and labelled, the lab changes none of them."""

from __future__ import annotations

import subprocess
import sys
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labhelpers.engine import connect
from labhelpers.lab import Lab, clean, ours
from labhelpers.ours import TRIAL

from .conftest import Own

P = "labhelpers/payload"

# as confusing as names and labels can be without being the lab's own
names = st.sampled_from(
    ["mysql_container", "labhelpers", "labhelpers-05", "lab", "fault-web", "portainer", "cadvisor"]
)
labels = st.dictionaries(
    st.sampled_from(["labhelpers", "labhelpers.", "labhelpers.chapters", "LABHELPERS.CHAPTER", "x.labhelpers.chapter",
                     "labhelpers.kind", "labhelpers.keep", "chapter", "session"]),
    st.sampled_from(["", "05", "container", "labhelpers.chapter=05"]),
    max_size=3,
)  # fmt: skip
things = st.lists(
    st.tuples(st.sampled_from(["container", "network", "volume", "image"]), names, labels, st.booleans()),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def lab_image(_machine: Any) -> str:
    """An image that a lab built: containers of it inherit the lab's labels, and are not the lab's."""
    client = _machine.engine().client
    made = client.api.import_image_from_data(
        b"\0" * 1024, repository="from-a-lab", tag="1",
        changes=["LABEL labhelpers.chapter=02", "LABEL labhelpers.session=00000000", "LABEL labhelpers.kind=image",
                 "LABEL labhelpers.keep=yes"],
    )  # fmt: skip
    client.close()
    assert made
    return "from-a-lab:1"


def make(
    client: Any, what: list[tuple[str, str, dict[str, str], bool]], lab_image: str
) -> list[tuple[str, str]]:
    made = []
    for number, (kind, name, labels, inherits) in enumerate(what):
        unique = f"{name}-{number}-{uuid.uuid4().hex[:4]}"
        if kind == "container":
            image = lab_image if inherits else P
            made.append(
                (kind, client.api.create_container(image, ["true"], name=unique, labels=labels)["Id"])
            )
        elif kind == "network":
            made.append((kind, client.networks.create(unique, labels=labels, internal=inherits).id))
        elif kind == "volume":
            made.append((kind, client.volumes.create(unique, labels=labels).name))
        else:
            changes = [f"LABEL {key}={value!r}" for key, value in labels.items() if key.strip(".")]
            client.api.import_image_from_data(uuid.uuid4().bytes.ljust(1024, b"\0")[:0] + b"\0" * 1024,
                                              repository=unique.lower(), tag="1", changes=changes)  # fmt: skip
            made.append((kind, f"{unique.lower()}:1"))
    return made


def told(client: Any, kind: str, id: str) -> Any:
    return getattr(client.api, f"inspect_{kind}")(id)


def remove(client: Any, kind: str, id: str) -> None:
    getattr(client.api, f"remove_{kind}")(id)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(what=things)
def test_not_one_of_them_is_changed(own: Own, lab_image: str, what: list[Any]) -> None:
    client = own.client()
    made = make(client, what, lab_image)
    try:
        before = [told(client, kind, id) for kind, id in made]
        engine = connect(own.address)
        lab = Lab("05", engine=engine)
        lab.run(P, "true")
        lab.create_network(f"n-{lab.session}")
        lab.create_volume(f"v-{lab.session}")
        listed = {thing.id for thing in ours(engine)}
        assert not listed & {id for _, id in made}
        clean(engine)
        lab.close()
        assert ours(engine) == []
        assert [told(client, kind, id) for kind, id in made] == before
    finally:
        for kind, id in made:
            remove(client, kind, id)
        client.close()


def test_clean_takes_what_labs_made_but_not_an_engine_whose_tests_run(
    own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(own.reader))
    before = own.census()
    command = [sys.executable, "-m", "labhelpers", "clean", "--engine", own.address]
    with Lab("05", engine=connect(own.address)) as reader, Lab(TRIAL, engine=connect(own.address)) as tests:
        reader.run(P, "sleep 300", name="notebook")
        tests.run(P, "sleep 300", name="engine")
        done = subprocess.run(command, env=own.environment, capture_output=True, encoding="utf-8")
        assert done.stdout.splitlines() == [
            "removed container notebook",
            "container engine stays: `./lab test` is using it",
            "1 things of the lab removed",
        ]
        assert [one.name for one in tests.client.containers.list()] == ["engine"]
    own.back_to(before)


def test_what_came_without_the_lab_is_listed_and_goes_only_with_a_yes(
    own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(own.reader))
    before = own.census()
    with Lab("05", engine=connect(own.address)) as lab:
        lab.run(P, "sleep 300", name="ours")
        typed = ["docker", "--host", own.address]
        subprocess.run([*typed, "create", "--name", "typed", P, "true"], check=True, capture_output=True)
        subprocess.run([*typed, "volume", "create", "typed"], check=True, capture_output=True)
        made = lab.made_elsewhere()
        assert {(one.kind, one.name) for one in made.things} == {("container", "typed"), ("volume", "typed")}
        assert "container typed" in repr(made)
        lab.close()
        assert lab.client.containers.get("typed")
        assert made.remove() == ["removed container typed", "removed volume typed"]
    own.back_to(before)
