"""One lab and one measurement of each kind for all tests of the room: starting containers is slow on some engines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from docker.models.containers import Container

from labhelpers import namespaces
from labhelpers.engine import Engine
from labhelpers.engine.streams import execute
from labhelpers.lab import Lab
from labhelpers.namespaces.optional_namespaces import UserNamespaces
from labhelpers.namespaces.trees import ProcessTree


@pytest.fixture(scope="session")
def shared_lab(engine: Engine) -> Iterator[Lab]:
    with Lab("test", engine=engine) as lab, lab.quiet():
        yield lab


@pytest.fixture(scope="session")
def nested(shared_lab: Lab) -> Container:
    return namespaces.start_nested(shared_lab, name=f"nested-{shared_lab.session}")


@pytest.fixture(scope="session")
def tree(shared_lab: Lab, nested: Container) -> ProcessTree:
    return namespaces.process_tree(shared_lab, nested)


@pytest.fixture(scope="session")
def observer(shared_lab: Lab) -> Container:
    """Where lsns and nsenter look at the host from: independent of the view of the host."""
    return shared_lab.run(
        shared_lab.image("tools"),
        "sleep 9004",
        pid="host",
        cap_drop=["ALL"],
        cap_add=["SYS_PTRACE", "SYS_ADMIN", "SYS_CHROOT"],
        security_opt=["apparmor=unconfined"],
    )


@pytest.fixture(scope="session")
def lsns(observer: Container) -> Callable[[str], list[dict[str, Any]]]:
    def ask(options: str) -> list[dict[str, Any]]:
        for _ in range(10):  # lsns gives up where a process ends while it looks
            done = execute(observer.client.api, str(observer.id), shlex.split(f"lsns -J {options}"))
            if done.exit_code == 0:
                rows: list[dict[str, Any]] = json.loads(done.stdout)["namespaces"]
                return rows
        raise AssertionError((options, done))

    return ask


@pytest.fixture(scope="session")
def leftover_containers(shared_lab: Lab) -> Callable[[], set[str]]:
    """The containers of the lab."""
    return lambda: {
        str(one.id)
        for one in shared_lab.client.containers.list(
            all=True, filters={"label": f"labhelpers.session={shared_lab.session}"}, ignore_removed=True
        )
    }


@pytest.fixture(scope="session")
def user(shared_lab: Lab) -> UserNamespaces:
    return namespaces.user(shared_lab)
