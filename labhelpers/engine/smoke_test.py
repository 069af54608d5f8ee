"""A smoke test of an engine: a container with one static program of about 170 bytes that prints a line and exits.

It verifies that the engine can import an image and create, start and remove a container, without a pull. The program
is assembled here, byte by byte: an ELF header (elf(5)), one program header, and two
system calls, write(2) and exit(2).
"""

from __future__ import annotations

import io
import struct
import tarfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from docker.errors import APIError, DockerException
from requests.exceptions import RequestException, Timeout

from labhelpers.engine.find import Engine
from labhelpers.engine.removal import remove_container
from labhelpers.engine.run_once import run_once
from labhelpers.errors import DISK_FULL, EngineRefused, EngineUnreachable
from labhelpers.results import Result, column, record

EXPECTED_OUTPUT = b"a container ran here\n"
Labels = Callable[[str], dict[str, str]]
"""Returns the labels for a type of object: container, image."""

EM_X86_64, EM_AARCH64 = 62, 183
LOAD_AT = 0x400000
HEADERS = 64 + 56
REMOVAL_TIMEOUT_S = 10
SMOKE_TEST_LABEL = "labhelpers.doctor"


@record
class FirstRun(Result):
    """The first container, from the import of its image to its removal."""

    output: str = column("output of the container")
    run_ms: float = column("wall time to import, create, start, wait and read")


def program(machine: str) -> bytes:
    """A static Linux program that prints `EXPECTED_OUTPUT` and exits with status 0.

    Args:
        machine: the architecture as in `docker info`: `x86_64` or `aarch64`.

    Raises:
        EngineRefused: there is no program for that architecture.
    """
    if machine in ("x86_64", "amd64"):
        code = b"\xb8\x01\0\0\0\xbf\x01\0\0\0"  # write, to descriptor 1,
        code += (
            b"\x48\x8d\x35"
            + struct.pack("<i", 16)
            + b"\xba"
            + struct.pack("<i", len(EXPECTED_OUTPUT))
            + b"\x0f\x05"
        )
        code += b"\xb8\x3c\0\0\0\x31\xff\x0f\x05"  # exit, with 0
        return _elf(EM_X86_64, code + EXPECTED_OUTPUT)
    if machine in ("aarch64", "arm64"):
        instructions = [
            0xD2800020,
            0x100000E1,
            0xD2800002 | len(EXPECTED_OUTPUT) << 5,
            0xD2800808,
            0xD4000001,
        ]
        instructions += [0xD2800000, 0xD2800BA8, 0xD4000001]
        return _elf(EM_AARCH64, struct.pack("<8I", *instructions) + EXPECTED_OUTPUT)
    raise EngineRefused(
        f"the course has no test program for the engine's processor ({machine})",
        hint="the course runs on x86_64 and aarch64 engines",
    )


def _elf(machine: int, code: bytes) -> bytes:
    size = HEADERS + len(code)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, LOAD_AT + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, LOAD_AT, LOAD_AT, size, size, 0x1000)
    return identity + header + segment + code


def first_run(engine: Engine, labels: Labels = lambda kind: {}) -> FirstRun:
    """Import the image, run it, read its output, and remove image and container, also after a failure.

    Args:
        labels: the labels with which the image and the container are found if they are left behind.

    Raises:
        EngineRefused: one of these steps failed, or the container printed something else.
        EngineUnreachable: the engine did not respond within the timeout of its client.
    """
    api, name = engine.client.api, f"labhelpers-doctor-{uuid.uuid4().hex[:8]}"
    began = time.monotonic()
    late = False
    try:
        _import(api, name, _archive(program(engine.info["Architecture"])), labels("image"))
        container_labels = {**labels("container"), SMOKE_TEST_LABEL: name}
        body = {
            "Image": name,
            "Cmd": ["/hello"],
            "Labels": container_labels,
            "HostConfig": {"NetworkMode": "none"},
        }
        result = run_once(api, body, limit_s=api.timeout)
    except Timeout as error:
        late = True
        raise EngineUnreachable(
            f"the engine is slow: a step of the test container took more than {api.timeout} s",
            hint="check the load of its machine (`top`) or restart the engine, then try again",
            engine_message=str(error),
        ) from error
    except (APIError, DockerException, RequestException) as error:
        message = str(getattr(error, "explanation", None) or error)
        raise EngineRefused(
            "the engine responds but could not run a test container",
            hint=DISK_FULL
            if "no space left" in message
            else "run `docker run --rm hello-world` yourself and fix what it reports; on a virtual server the "
            "provider may forbid containers",
            engine_message=message,
        ) from error
    finally:
        _remove(engine, name, REMOVAL_TIMEOUT_S if late else 0)
    output = result.stdout.decode(errors="replace").strip()
    if result.exit_code != 0 or output != EXPECTED_OUTPUT.decode().strip():
        raise EngineRefused(
            f"the test container exited with code {result.exit_code} and printed {output!r}",
            hint="check the engine's log and its seccomp configuration",
            engine_message=result.stderr.decode(errors="replace").strip() or None,
        )
    return FirstRun(output, (time.monotonic() - began) * 1000)


def _import(api: Any, name: str, archive: bytes, labels: dict[str, str]) -> None:
    """The SDK's `import_image_from_data`, which has no timeout, with the client's timeout."""
    changes = [f"LABEL {key}={value}" for key, value in labels.items()]
    params = {"repo": name, "tag": "latest", "fromSrc": "-", "changes": changes}
    headers = {"Content-Type": "application/tar"}
    api._result(api._post(api._url("/images/create"), data=archive, params=params, headers=headers))


def _remove(engine: Engine, name: str, wait_s: float) -> None:
    """Remove the container and its image; after a timeout, wait for an import that is still in progress."""
    api = engine.client.api
    end = time.monotonic() + wait_s
    while True:
        # `./lab clean` finds by label what cannot be removed now
        with suppress(APIError, RequestException):
            for row in api.containers(all=True, filters={"label": f"{SMOKE_TEST_LABEL}={name}"}):
                remove_container(api, row["Id"], v=True)
            api.remove_image(name, force=True)
            return  # without the image, no more container can be created
        if time.monotonic() > end:
            return
        time.sleep(1)


def _archive(binary: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("hello")
        entry.size, entry.mode = len(binary), 0o755
        archive.addfile(entry, io.BytesIO(binary))
    return out.getvalue()
