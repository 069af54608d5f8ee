"""Looking at packets on their way: tcpdump in the network namespace where they pass, bounded in count and time."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from labhelpers.errors import LabError
from labhelpers.networks.packets import Packet, read

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

MOST_PACKETS, MOST_S, SNAP_BYTES = 200, 60, 256
READY_S, SETTLE_S = 60.0, 0.3
BECOME_NOBODY = ("SETUID", "SETGID", "CHOWN")
FILE = "/tmp/packets"


@contextmanager
def capturing(
    lab: Lab, places: Mapping[str, str], what: str, interface: str = "any"
) -> Iterator[Callable[[], dict[str, list[Packet]]]]:
    """Watch packets while the block lasts; what it gives, called in the block, says what was seen so far.

    Each place has a container of its own with NET_RAW, and what tcpdump needs to become a user without rights once
    it listens; it ends by itself after
    `MOST_PACKETS` packets or `MOST_S` seconds.

    Args:
        places: label → network mode whose namespace is looked at: `host`, `container:web`.
        what: a filter, as pcap-filter(7) has it; it names what the lab sent, so that nobody else's is read.

    Raises:
        LabError: tcpdump did not start there; its words are kept.
    """
    command = ["timeout", str(MOST_S), "tcpdump", "-i", interface, "-p", "-n", "-U", "--immediate-mode"]
    command += ["-c", str(MOST_PACKETS), "-s", str(SNAP_BYTES), "-w", FILE, what]
    started: dict[str, Container] = {}
    try:
        with lab.quiet():
            for label, network in places.items():
                started[label] = lab.run(
                    lab.image("tools"),
                    command,
                    network=network,
                    cap_drop=["ALL"],
                    cap_add=["NET_RAW", *BECOME_NOBODY],
                )
        for container in started.values():
            _wait_until_it_listens(container)

        def seen() -> dict[str, list[Packet]]:
            time.sleep(SETTLE_S)  # what has passed is written a moment later
            return {label: _packets(lab, container) for label, container in started.items()}

        yield seen
    finally:
        with lab.quiet(), suppress(LabError):
            for container in started.values():
                lab.remove(container, force=True)


def _wait_until_it_listens(container: Container) -> None:
    end = time.monotonic() + READY_S
    said = ""
    while time.monotonic() < end:
        said = container.logs().decode(errors="replace")
        if "listening on" in said:
            return
        container.reload()
        if container.status == "exited":
            break
        time.sleep(0.05)
    raise LabError(
        "packets could not be looked at there",
        hint="its words say why; some engines refuse NET_RAW",
        engine_words=said,
    )


def _packets(lab: Lab, container: Container) -> list[Packet]:
    with lab.quiet():
        said = lab.exec(container, ["base64", "-w0", FILE])
    return read(base64.b64decode(said.stdout)) if said.exit_code == 0 else []
