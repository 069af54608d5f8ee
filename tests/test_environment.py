"""environment.yml, pyproject.toml and requirements.lock say the same; and the lock names no registry."""

from __future__ import annotations

import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from labhelpers.state import ROOT

# conda-forge's names where they differ from PyPI's
CONDA_NAMES = {"docker-py": "docker"}

LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_and_pip_ask_for_the_same_packages() -> None:
    asked = {(r.name, str(r.specifier)) for r in map(Requirement, PROJECT["dependencies"])}
    lines: list[str] = []
    for line in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]:
        lines += line["pip"] if isinstance(line, dict) else [line]
    conda = {(CONDA_NAMES.get(r.name, r.name), str(r.specifier)) for r in map(Requirement, lines)}
    assert conda - asked == {("python", PROJECT["requires-python"]), ("pip", "")}
    assert asked - conda == set()


def test_the_lock_pins_what_the_project_asks_for() -> None:
    pinned: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", LOCK, re.M):
        pinned.setdefault(name.lower(), set()).add(version)
    for requirement in map(Requirement, PROJECT["dependencies"]):
        versions = pinned[requirement.name.lower()]
        assert all(Version(version) in requirement.specifier for version in versions), requirement


def test_the_lock_has_a_hash_for_every_package_and_no_address() -> None:
    assert "://" not in LOCK
    for block in re.split(r"\n(?=[a-z])", LOCK):
        assert "--hash=sha256:" in block, block.splitlines()[0]
