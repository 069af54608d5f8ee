"""A network of its own for a private engine, so that its bridges and firewall rules are nobody else's.

The engine's socket is a path, so the tests talk to it from outside; only the commands that start and stop it
run inside.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labhelpers.engine import Engine
from labhelpers.engine.endpoint import EngineEndpoint

ENGINE_VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "LABHELPERS_ENGINE")
"""The variables that lead to an engine."""
PRELUDE = "import json; from labhelpers import state; from labhelpers.engine import connect, machine_changes, private\n"


@dataclass(frozen=True)
class Machine:
    """A network namespace with a state directory: a bare machine as far as an engine can tell."""

    holder: int
    home: Path

    def command(self, *arguments: str) -> list[str]:
        """`arguments` as a command line that runs on this machine."""
        return ["nsenter", f"--net=/proc/{self.holder}/ns/net", *arguments]

    def environment(self, home: Path | None = None) -> dict[str, str]:
        """The environment of a command there: its own state directory, nobody's DOCKER_HOST."""
        clean = {key: value for key, value in os.environ.items() if key not in ENGINE_VARIABLES}
        return clean | {"LABHELPERS_HOME": str(home or self.home)}

    def run(self, *arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment(home),
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )

    def lab(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a verb of the lab there."""
        return self.run(sys.executable, "-m", "labhelpers", *arguments)

    def python(self, source: str, home: Path | None = None) -> Any:
        """Run Python there, with `private` and `connect` at hand, and give back the JSON of its last line."""
        done = self.run(sys.executable, "-c", PRELUDE + source, home=home)
        assert done.returncode == 0, done.stderr
        last = (done.stdout.strip().splitlines() or ["null"])[-1]
        return json.loads(last)

    def engine(self, home: Path | None = None) -> Engine:
        """A client for the engine there."""
        import docker

        address = f"unix://{home or self.home}/engine/docker.sock"
        client = docker.DockerClient(base_url=address, timeout=60)
        return Engine(EngineEndpoint(address, "test"), "private", client)

    def census(self) -> dict[str, Any]:
        """What an engine changes on a machine, with what iptables-save says of tables that hold nothing left out."""
        seen: dict[str, Any] = self.python("print(json.dumps(machine_changes.snapshot()))")
        for tool, text in seen["firewall"].items():
            seen["firewall"][tool] = sorted(
                line.strip()
                for line in text.splitlines()
                if line.startswith(("-A", ":")) and " ACCEPT" not in line
            )
        return seen

    def processes(self) -> list[str]:
        """Command lines that name this state directory."""
        found = []
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                message = line.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if f"{self.home}/" in message and "pytest" not in message:
                found.append(message)
        return found

    def mounts(self) -> list[str]:
        """Mount points below this state directory."""
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        return [line.split()[4] for line in lines if line.split()[4].startswith(f"{self.home}/")]


@contextmanager
def machine_without_engine(home: Path) -> Iterator[Machine]:
    """A network namespace with only loopback, for as long as the block lasts."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up; echo up; exec sleep 3600"],
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    machine = Machine(holder.pid, home)
    try:
        yield machine
    finally:
        machine.python("private.stop(lambda line: None)")
        holder.kill()
        holder.wait()
        holder.stdout.close()
