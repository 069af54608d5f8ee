"""Which tests run on which engine; at the top level, so that it also applies to notebooks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# the checkout; the package under test may be an installed one
ROOT = Path(__file__).resolve().parent

# notebooks written by `./lab copy`
collect_ignore_glob = ["notebooks/[b-z]-*.ipynb"]

# independent of the engine: not repeated on engines B and C
LOCAL_TESTS = (
    "tests/browser/",
    "tests/engine/test_find.py",
    "tests/engine/test_private.py",
    "tests/engine/test_transports.py",
    "tests/engines/",
    "tests/faults/",
    "tests/commandline/test_jupyter.py",
)
# Tests that `./lab test --engine B|C|AB|all` skips unless a test is named, to limit the time of CI: B and C run the
# tests of `engine` and `lab`, and the notebooks, whose findings are compared.
ROOM_TESTS_REASON = "its room's tests run on A; here its notebook runs, and the findings are compared"
ENGINE_INDEPENDENT_REASON = "it does not depend on the engine and starts dozens of containers; A runs it"
# C is emulated: a container costs 5 s of CPU time there, and CI has 15 minutes on two cores
NESTED_GUEST_REASON = (
    "a guest takes three minutes to boot in a machine that is itself emulated; "
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
ENGINE_INDEPENDENT_TESTS = (
    *("tests/lab/test_magic.py", "tests/lab/test_names.py", "tests/lab/test_operations.py"),
    *("tests/lab/test_bad_input.py", "tests/lab/test_docker_py.py", "tests/course/test_checks.py"),
    *("tests/course/test_exercises.py", "tests/course/test_mysql.py", "tests/start/"),
)
EXCLUDED: dict[str, dict[str, str]] = {
    "A": {},
    "B": {
        **dict.fromkeys(CHAPTERS, ROOM_TESTS_REASON),
        **dict.fromkeys(ENGINE_INDEPENDENT_TESTS, ENGINE_INDEPENDENT_REASON),
    },
    "C": {
        **dict.fromkeys(CHAPTERS, ROOM_TESTS_REASON),
        **dict.fromkeys(ENGINE_INDEPENDENT_TESTS, ENGINE_INDEPENDENT_REASON),
        "notebooks/01_": NESTED_GUEST_REASON,
        **dict.fromkeys((f"notebooks/{number:02}_" for number in range(2, 10)), SLOW_ON_C_REASON),
        **dict.fromkeys(
            (
                *("tests/lab/test_lab.py", "tests/lab/test_labsocket.py", "tests/lab/test_lookups.py"),
                *("tests/course/test_containment.py", "tests/commandline/test_doctor.py"),
            ),
            SLOW_ON_C_REASON,
        ),
        **dict.fromkeys(("tests/engine/test_images.py", "tests/engine/test_registries.py"), SLOW_ON_C_REASON),
        "tests/engine/test_registry.py": "the images of C were pulled from a registry, which tests it",
    },
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need an engine (`-m engine`, also notebooks) or are independent of it (`-m local`).

    In the default selection of engine B or C, the tests in `EXCLUDED` are skipped with their reason.
    """
    excluded = EXCLUDED[os.environ.get("LABHELPERS_TEST_ENGINE", "A")]
    for item in items:
        if not item.path.is_relative_to(ROOT):
            continue  # a reader's own notebook
        name = item.path.relative_to(ROOT).as_posix()
        if name.startswith("notebooks/") or {"engine", "lab"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.engine)
        if name.startswith(LOCAL_TESTS):
            item.add_marker(pytest.mark.local)
        if "engine" in item.keywords:
            for start, reason in excluded.items():
                if name.startswith(start):
                    item.add_marker(
                        pytest.mark.skip(
                            reason=f"not among those of engine {os.environ['LABHELPERS_TEST_ENGINE']}: {reason}"
                        )
                    )
