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
from labhelpers.namespaces.others import UserNamespaces
from labhelpers.namespaces.trees import ProcessTree


@pytest.fixture(scope="session")
def there(engine: Engine) -> Iterator[Lab]:
    with Lab("test", engine=engine) as lab, lab.quiet():
        yield lab


@pytest.fixture(scope="session")
def nested(there: Lab) -> Container:
    return namespaces.start_nested(there, name=f"nested-{there.session}")


@pytest.fixture(scope="session")
def tree(there: Lab, nested: Container) -> ProcessTree:
    return namespaces.tree(there, nested)


@pytest.fixture(scope="session")
def looker(there: Lab) -> Container:
    """Where lsns and nsenter look at the host from: independent of the view of the host."""
    return there.run(
        there.image("tools"),
        "sleep 9004",
        pid="host",
        cap_drop=["ALL"],
        cap_add=["SYS_PTRACE", "SYS_ADMIN", "SYS_CHROOT"],
        security_opt=["apparmor=unconfined"],
    )


@pytest.fixture(scope="session")
def lsns(looker: Container) -> Callable[[str], list[dict[str, Any]]]:
    def ask(options: str) -> list[dict[str, Any]]:
        for _ in range(10):  # lsns gives up where a process ends while it looks
            done = execute(looker.client.api, str(looker.id), shlex.split(f"lsns -J {options}"))
            if done.exit_code == 0:
                rows: list[dict[str, Any]] = json.loads(done.stdout)["namespaces"]
                return rows
        raise AssertionError((options, done))

    return ask


@pytest.fixture(scope="session")
def left(there: Lab) -> Callable[[], set[str]]:
    """The containers of the lab."""
    return lambda: {
        str(one.id)
        for one in there.client.containers.list(
            all=True, filters={"label": f"labhelpers.session={there.session}"}, ignore_removed=True
        )
    }


@pytest.fixture(scope="session")
def user(there: Lab) -> UserNamespaces:
    return namespaces.user(there)
