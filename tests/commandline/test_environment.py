"""environment.yml, pyproject.toml and requirements.lock say the same; and the lock names no registry."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from labhelpers.commandline import bootstrap
from labhelpers.state import ROOT

# conda-forge's names where they differ from PyPI's
CONDA_NAMES = {"docker-py": "docker"}

LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ASKED = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]


def test_conda_and_pip_ask_for_the_same_packages() -> None:
    asked = {(r.name, str(r.specifier)) for r in map(Requirement, ASKED)}
    lines: list[str] = []
    for line in yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]:
        lines += line["pip"] if isinstance(line, dict) else [line]
    conda = {(CONDA_NAMES.get(r.name, r.name), str(r.specifier)) for r in map(Requirement, lines)}
    assert conda - asked == {("python", PROJECT["requires-python"]), ("pip", "")}
    assert asked - conda == set()


def test_the_lock_pins_what_the_project_asks_for() -> None:
    pinned: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", LOCK, re.M):
        pinned.setdefault(name.lower(), set()).add(version)
    for requirement in map(Requirement, ASKED):
        versions = pinned[requirement.name.lower()]
        assert all(Version(version) in requirement.specifier for version in versions), requirement


def test_the_lock_has_a_hash_for_every_package_and_no_address() -> None:
    assert "://" not in LOCK
    for block in re.split(r"\n(?=[a-z])", LOCK):
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_the_wheel_holds_what_the_course_works_with(tmp_path: Path) -> None:
    build = subprocess.run(
        [sys.executable, "-m", "uv", "build", "--wheel", "--out-dir", tmp_path, ROOT],
        env={**os.environ, **bootstrap._index(Path(sys.executable))},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if build.returncode and re.search(
        r"hatchling.*(not found|could not)|[Ff]ailed to fetch|dns error", build.stderr
    ):
        pytest.skip("no package index here has hatchling, which builds the wheel")
    assert build.returncode == 0, build.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, pattern in (("images", "**/*"), ("notebooks", "*.ipynb"), ("assets", "**/*.png")):
        kept = {
            f"labhelpers/bundle/{file.relative_to(ROOT).as_posix()}"
            for file in (ROOT / folder).glob(pattern)
            if file.is_file() and "checkpoint" not in str(file) and "__pycache__" not in str(file)
        }
        assert kept
        assert kept <= names
    metadata = zipfile.ZipFile(wheel).read("labhelpers-0.1.0.dist-info/METADATA").decode()
    assert "Requires-Dist: pytest>=8.2; extra == 'test'" in metadata
    # what is installed finds its notebooks and images, wherever it is called
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    code = "from labhelpers.commandline import runner; from labhelpers.engine import images; "
    code += "print(len(runner.notebooks(()))); print(*images.catalogue())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path / "empty",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "LABHELPERS_HOME": str(tmp_path / "home")},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    count, catalogue = done.stdout.splitlines()
    assert int(count) == len(list((ROOT / "notebooks").glob("[0-9]*.ipynb")))
    assert {"base", "tools", "vm"} <= set(catalogue.split())
    assert list((tmp_path / "empty").iterdir()) == []
