"""An engine of the fault tests' own, that may be stopped, killed and filled; and a census of it and its host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from netns import Machine, machine_without_engine

from labhelpers.engine import Engine, images

IMAGES = ("payload", "registry", "tools", "base")
DISK_MIB = 1024
# a notebook from the top, as short as one can be: the names that a killed one had must be free again
RUN_ALL_CELLS = """
from labhelpers.lab import Lab
lab = Lab("05")
web = lab.run("labhelpers/payload", "sleep 300", name="fault-web")
lab.create_network("fault-net"); lab.create_volume("fault-vol")
assert lab.exec(web, "true").exit_code == 0
lab.close()
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(180))


@dataclass(frozen=True)
class PrivateEngine:
    """An engine in a network of its own, and a reader's state directory for it."""

    machine: Machine
    reader: Path

    @property
    def address(self) -> str:
        return f"unix://{self.machine.home}/engine/docker.sock"

    @property
    def environment(self) -> dict[str, str]:
        """What a reader's process needs to work on this engine."""
        more = {
            "LABHELPERS_ENGINE": self.address,
            "DOCKER_HOST": self.address,
            "LABHELPERS_HOME": str(self.reader),
            "PYTHONUNBUFFERED": "1",
        }
        return {key: value for key, value in os.environ.items() if key != "DOCKER_CONTEXT"} | more

    def client(self) -> Any:
        return self.machine.engine().client

    def start(self) -> int:
        """Start the engine if it does not run; its pid."""
        return int(self.machine.python("private.start(print); print(json.dumps(private._pid()))"))

    def stop(self) -> None:
        self.machine.python("private.stop(lambda line: None)")

    def python(self, code: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a reader's code to its end."""
        return subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            **options,
        )

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """For the block, its disk has a quarter of a MiB left."""
        data = self.machine.home / "engine" / "data"
        filler = data / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(data).free - (1 << 18))
        try:
            yield
        finally:
            filler.unlink()

    def rerun(self) -> None:
        """The notebook from the top: it works."""
        done = self.python(RUN_ALL_CELLS)
        assert done.returncode == 0, done.stderr

    def sessions(self) -> list[str]:
        """What is noted of labs of that reader: one appears with a lab, and goes when all that it made is gone."""
        return sorted(path.name for path in self.reader.glob("sessions/*"))

    def census(self) -> dict[str, Any]:
        """All that is on the engine and on its host."""
        client = self.client()
        api = client.api
        links = json.loads(self.machine.run("ip", "-j", "link").stdout)
        seen = {
            "containers": sorted(row["Id"] for row in api.containers(all=True)),
            "networks": sorted(row["Name"] for row in api.networks()),
            "volumes": sorted(row["Name"] for row in api.volumes()["Volumes"] or []),
            "images": sorted((row["Id"], sorted(row["RepoTags"] or [])) for row in api.images()),
            "links": sorted(link["ifname"] for link in links),
            # the engine makes this one at the first use of its host's network, and keeps it
            "mounts": [point for point in self.machine.mounts() if not point.endswith("/netns/default")],
            "processes": len([line for line in self.machine.processes() if "shim" in line]),
            "reapers": [
                line for line in _command_lines() if "labhelpers.lab.reaper" in line and self.address in line
            ],
            "sessions": self.sessions(),
        }
        client.close()
        return seen

    def back_to(self, before: dict[str, Any], within_s: float = 40) -> None:
        """Wait until the census is what it was."""
        end = time.monotonic() + within_s
        # a census is twenty requests and a look at every process: not while the reaper is still at it
        while self.sessions() != before["sessions"] and time.monotonic() < end:
            time.sleep(0.2)
        wait_for(
            lambda: self.census() == before,
            max(end - time.monotonic(), 0),
            lambda: _changed_keys(before, self.census()),
            every_s=0.5,
        )


def _command_lines() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (
                (process / "environ").read_bytes().decode(errors="replace") if "labhelpers" in text else ""
            )
        except OSError:
            continue
        yield f"{text} {environment}"


def _changed_keys(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def wait_for(
    condition: Callable[[], object],
    within_s: float = 40,
    tell: Callable[[], object] = lambda: "",
    every_s: float = 0.1,
) -> None:
    """Wait for `condition`; fail with what `tell` says."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, tell()
        time.sleep(every_s)


@pytest.fixture(scope="module")
def _machine(engine: Engine) -> Iterator[Machine]:
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("an engine of the fault tests' own needs root on Linux")
    for name in IMAGES:
        images.ensure(engine, name)
    home = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
    # not at the engine's own directory: what is mounted below that is taken away when it stops
    with _small_disk(home), machine_without_engine(home) as machine:
        machine.python("private.start(lambda line: None)")
        names = [images.reference(name) for name in IMAGES]
        saved = engine.client.api.get(
            f"{engine.client.api.base_url}/images/get", params={"names": names}, stream=True
        )
        theirs = machine.engine().client
        list(theirs.api.load_image(saved.iter_content(1 << 20)))  # it works while it is listened to
        theirs.close()
        yield machine
    shutil.rmtree(home)


@contextmanager
def _small_disk(point: Path) -> Iterator[None]:
    """A disk of its own at `point`, that a test may fill."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", point], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


@pytest.fixture
def private_engine(_machine: Machine, tmp_path: Path) -> PrivateEngine:
    made = PrivateEngine(_machine, tmp_path / "reader")
    made.start()
    return made
