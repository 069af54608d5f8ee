"""A kernel that is killed in the middle of an operation leaves nothing, and the notebook runs again from its top."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.manager import KernelManager

from labhelpers.lab import sessions
from labhelpers.state import ROOT

from .conftest import PrivateEngine, wait_for

BEGIN = """
from labhelpers.lab import Lab
lab = Lab("05")
P = "labhelpers/payload"
"""
OPERATIONS = {
    "run": "lab.run(P, 'sleep 300', name='fault-web')\nwhile True: lab.run(P, 'sleep 300')",
    "exec": "web = lab.run(P, 'sleep 300', name='fault-web')\nwhile True: lab.exec(web, 'true')",
    "stop and remove": "while True: lab.remove(lab.run(P, 'sleep 300', name='fault-web'), force=True)",
    "build": "lab.build({folder!r}, 'fault-image')",
    "pull": "ref = lab.registry.push(P)\nwhile True: lab.pull(ref); lab.client.images.remove(ref)",
    "network": "while True: lab.create_network('fault-net').remove()",
    "volume": "n = 0\nwhile True: n += 1; lab.create_volume(f'fault-vol-{{n}}')",
    "host": "web = lab.run(P, 'sleep 300', name='fault-web')\nwhile True: lab.host.memory(web)",
    "%docker": "while True: get_ipython().run_line_magic('docker', 'run -d ' + P + ' sleep 300')",
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_in_the_middle(private_engine: PrivateEngine, tmp_path: Path, operation: str) -> None:
    (tmp_path / "Dockerfile").write_text("FROM labhelpers/payload\nRUN sleep 30\n", encoding="utf-8")
    before = private_engine.census()
    kernel = KernelManager(kernel_name="python3")
    kernel.start_kernel(env=private_engine.environment)
    client = kernel.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        client.execute(BEGIN + OPERATIONS[operation].format(folder=str(tmp_path)))
        wait_for(private_engine.sessions)
        time.sleep(random.uniform(0.2, 1.2))
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)  # SIGKILL
    private_engine.back_to(before)
    private_engine.rerun()
    private_engine.back_to(before)


def test_a_real_notebook_that_is_killed_runs_again_from_its_top(private_engine: PrivateEngine) -> None:
    (notebook,) = ROOT.glob("notebooks/00_*.ipynb")
    code = f"""
from pathlib import Path
from labhelpers.commandline import runner
done = runner.execute(Path({str(notebook)!r}))
print(done.failed_cell, done.error)
"""
    before = private_engine.census()
    with subprocess.Popen(
        [sys.executable, "-c", code], env=private_engine.environment, stdout=subprocess.PIPE
    ) as process:
        docker = private_engine.client()
        wait_for(lambda: docker.api.containers(all=True))
        docker.close()
        time.sleep(random.uniform(0, 3))
        (kernel,) = [
            item for item in psutil.Process(process.pid).children() if "ipykernel_launcher" in item.cmdline()
        ]
        kernel.kill()
        assert b"the kernel died" in process.communicate(timeout=120)[0]
    # neither run returns before all that it made is gone; a process or two may still be ending
    assert made(private_engine) == {kind: before[kind] for kind in MADE}
    private_engine.back_to(before)
    docker = private_engine.client()
    created = docker.events(decode=True, filters={"type": "container", "event": "create"})
    done = private_engine.python(code)
    assert done.stdout.splitlines()[-1] == "None ", done.stdout + done.stderr
    assert made(private_engine) == {kind: before[kind] for kind in MADE}
    last = docker.api.create_container("labhelpers/payload", ["true"], name="fault-last")["Id"]
    seen = list(itertools.takewhile(lambda event: event["id"] != last, created))
    docker.api.remove_container(last)
    docker.close()
    strangers = [event["Actor"]["Attributes"] for event in seen if not is_of_a_session(event)]
    assert seen
    assert not strangers, "each container that the course starts belongs to a session"


MADE = ("containers", "networks", "volumes")


def made(own: PrivateEngine) -> dict[str, Any]:
    census = own.census()
    return {kind: census[kind] for kind in MADE}


def is_of_a_session(event: dict[str, Any]) -> bool:
    found = event["Actor"]["Attributes"]
    return sessions.CHAPTER in found and sessions.SESSION in found and found.get(sessions.KIND) == "container"


def test_a_kernel_that_is_shut_down_removes_its_things_itself(private_engine: PrivateEngine) -> None:
    before = private_engine.census()
    kernel = KernelManager(kernel_name="python3")
    kernel.start_kernel(env=private_engine.environment)
    client = kernel.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    client.execute_interactive(BEGIN + "_ = lab.run(P, 'sleep 300', name='fault-web')", timeout=60)
    assert private_engine.census() != before
    client.stop_channels()
    kernel.shutdown_kernel()
    private_engine.back_to(before)


def test_a_volume_that_is_to_be_kept_survives_its_notebook(private_engine: PrivateEngine) -> None:
    before = private_engine.census()
    done = private_engine.python(
        "from labhelpers.lab import Lab\nlab = Lab('08')\nlab.create_volume('fault-work', keep=True)\n"
        "lab.create_volume('fault-rest')\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert done.returncode == -9
    client = private_engine.client()
    wait_for(lambda: [volume.name for volume in client.volumes.list()] == ["fault-work"])
    assert (
        private_engine.python(
            "from labhelpers.lab import Lab; Lab('08').create_volume('fault-work', keep=True)"
        ).returncode
        == 0
    )
    client.volumes.get("fault-work").remove()
    client.close()
    private_engine.back_to(before)
