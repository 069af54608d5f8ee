"""Which tests run on which engine; here, and not in tests/, so that it holds for notebooks as well."""

from __future__ import annotations

import os

import pytest

from labhelpers.state import ROOT

# about this machine, not about an engine: on engines B and C they would say the same again
LOCAL = (
    "tests/browser/",
    "tests/engine/test_find.py",
    "tests/engine/test_private.py",
    "tests/engines/",
    "tests/faults/",
    "tests/test_jupyter.py",
)
# engine C is a translated machine: a container takes some 8 s there, and what is slow is run on A and B alone
NOT_ON_C = {
    "notebooks/01_": "one guest takes three minutes to boot in a machine that is itself translated",
    "tests/vm/": "one guest takes three minutes to boot in a machine that is itself translated",
    "tests/test_command.py": "it starts some hundred containers, one after the other; A and B run it",
    "tests/layers/": "its builds take about a minute each; the findings of its notebook are compared",
    "tests/engine/test_images.py": "it builds a dozen images, one step after the other; A and B run it",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs an engine (`-m engine`, notebooks among it) and what is about this machine alone (`-m local`).

    Where the tests run on engine C, those of `NOT_ON_C` are skipped, with their reason.
    """
    here = os.environ.get("LABHELPERS_TRIAL", "A")
    for item in items:
        name = item.path.relative_to(ROOT).as_posix()
        if name.startswith("notebooks/") or {"engine", "lab"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.engine)
        if name.startswith(LOCAL):
            item.add_marker(pytest.mark.local)
        if here == "C" and "engine" in item.keywords:
            for start, reason in NOT_ON_C.items():
                if name.startswith(start):
                    item.add_marker(pytest.mark.skip(reason=f"not on engine C: {reason}"))
