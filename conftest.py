"""Which tests run on which engine; here, and not in tests/, so that it holds for notebooks as well."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# of this checkout; the package under test may be an installed one
ROOT = Path(__file__).resolve().parent

# what `./lab copy` wrote for another learner
collect_ignore_glob = ["notebooks/[b-z]-*.ipynb"]

# about this machine, not about an engine: on engines B and C they would say the same again
LOCAL_TESTS = (
    "tests/browser/",
    "tests/engine/test_find.py",
    "tests/engine/test_private.py",
    "tests/engine/test_transports.py",
    "tests/engines/",
    "tests/faults/",
    "tests/commandline/test_jupyter.py",
)
# What `./lab test --engine B|C|AB|all` leaves out where no test is asked for by name, so that CI keeps to its time:
# B and C run the tests of the engine's own room, and the notebooks, whose findings are compared.
ROOM_TESTS_REASON = "its room's tests run on A; here its notebook runs, and the findings are compared"
ENGINE_INDEPENDENT_REASON = (
    "it asks for nothing in which engines differ, and starts dozens of containers; A runs it"
)
# C is a translated machine: a container costs 5 s of a processor there, and CI has 15 minutes of two
NESTED_GUEST_REASON = (
    "a guest takes three minutes to boot in a machine that is itself translated; "
    "`./lab test --engine C NOTEBOOK`"
)
SLOW_ON_C_REASON = "on C it takes two to ten minutes; `./lab test --engine C FILE` runs it"
CHAPTERS = tuple(
    f"tests/{room}/"
    for room in (
        *("vm", "layers", "namespaces", "cgroups", "networks"),
        *("services", "volumes", "persistence", "monitoring"),
    )
)
EXCLUDED_NOTEBOOKS = (
    *("tests/lab/test_magic.py", "tests/lab/test_names.py", "tests/lab/test_operations.py"),
    *("tests/course/test_exercises.py", "tests/course/test_mysql.py", "tests/start/"),
)
EXCLUDED: dict[str, dict[str, str]] = {
    "A": {},
    "B": {
        **dict.fromkeys(CHAPTERS, ROOM_TESTS_REASON),
        **dict.fromkeys(EXCLUDED_NOTEBOOKS, ENGINE_INDEPENDENT_REASON),
    },
    "C": {
        **dict.fromkeys(CHAPTERS, ROOM_TESTS_REASON),
        **dict.fromkeys(EXCLUDED_NOTEBOOKS, ENGINE_INDEPENDENT_REASON),
        "notebooks/01_": NESTED_GUEST_REASON,
        **dict.fromkeys((f"notebooks/{number:02}_" for number in range(2, 10)), SLOW_ON_C_REASON),
        **dict.fromkeys(
            ("tests/lab/test_lab.py", "tests/lab/test_labsocket.py", "tests/course/test_containment.py"),
            SLOW_ON_C_REASON,
        ),
        **dict.fromkeys(("tests/engine/test_images.py", "tests/engine/test_registries.py"), SLOW_ON_C_REASON),
        "tests/engine/test_registry.py": "the images of C came from a registry: that is the proof there",
    },
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs an engine (`-m engine`, notebooks too) and what is about this machine alone (`-m local`).

    Where engine B or C runs its own selection, what `EXCLUDED` names is skipped, with its reason.
    """
    left_out = EXCLUDED[os.environ.get("LABHELPERS_TEST_ENGINE", "A")]
    for item in items:
        if not item.path.is_relative_to(ROOT):
            continue  # a reader's own notebook, run from here
        name = item.path.relative_to(ROOT).as_posix()
        if name.startswith("notebooks/") or {"engine", "lab"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.engine)
        if name.startswith(LOCAL_TESTS):
            item.add_marker(pytest.mark.local)
        if "engine" in item.keywords:
            for start, reason in left_out.items():
                if name.startswith(start):
                    item.add_marker(
                        pytest.mark.skip(
                            reason=f"not among those of engine {os.environ['LABHELPERS_TEST_ENGINE']}: {reason}"
                        )
                    )
