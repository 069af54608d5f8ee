"""Looking at packets on their way: tcpdump in the network namespace where they pass, bounded in count and time."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from labhelpers.errors import LabError, TimedOut
from labhelpers.networks.packets import Packet, read

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

MAX_PACKETS, MAX_S, SNAP_BYTES = 500, 60, 256
READY_S, TIMEOUT_S, SETTLE_S = 60.0, 20.0, 0.2
DROP_PRIVILEGES_CAPS = ("SETUID", "SETGID", "CHOWN")
FILE = "/tmp/packets"
HEADER_BYTES = 24  # of the file: until then nothing is written

CaptureResult = Callable[[Callable[[Mapping[str, Sequence[Packet]]], bool]], dict[str, list[Packet]]]
"""Given what must be seen, waits for it a while, and gives the packets by place."""


@contextmanager
def capture(
    lab: Lab, places: Mapping[str, str], what: str, interface: str = "any"
) -> Iterator[CaptureResult]:
    """Watch packets while the block lasts; what it gives, called in the block, says what was seen.

    Each place has a container of its own with NET_RAW, and what tcpdump needs to become a user without rights once
    it listens; it ends by itself after `MAX_PACKETS` packets or `MAX_S` seconds.

    Args:
        places: label → network mode whose namespace is looked at: `host`, `container:web`.
        what: a filter, as pcap-filter(7) has it; it names what the lab sent, so that nobody else's is read.

    Raises:
        NotRunning: tcpdump did not start there; its last lines are kept.
        TimedOut: it did not begin to listen.
    """
    command = ["timeout", str(MAX_S), "tcpdump", "-i", interface, "-p", "-n", "-U", "--immediate-mode"]
    command += ["-c", str(MAX_PACKETS), "-s", str(SNAP_BYTES), "-w", FILE, what]
    started: dict[str, Container] = {}

    def start(place: tuple[str, str]) -> None:
        label, network = place
        rights = {"cap_drop": ["ALL"], "cap_add": ["NET_RAW", *DROP_PRIVILEGES_CAPS]}
        started[label] = lab.run(lab.image("tools"), command, network=network, **rights)
        lab.wait_for(
            "tcpdump to listen, which needs the capability NET_RAW",
            lambda: "listening on" in lab.logs(started[label]),
            READY_S,
            while_running=started[label],
        )

    def end(container: Container) -> None:
        with suppress(LabError):
            lab.remove(container, force=True)

    def seen(enough: Callable[[Mapping[str, Sequence[Packet]]], bool]) -> dict[str, list[Packet]]:
        found: dict[str, list[Packet]] = {}

        def is_enough() -> bool:
            found.update(
                zip(started, pool.map(lambda one: _packets(lab, one), started.values()), strict=True)
            )
            return enough(found)

        time.sleep(SETTLE_S)  # what has passed is written a moment later
        with suppress(TimedOut):  # the caller judges what was captured
            lab.wait_for("the packets", is_enough, TIMEOUT_S, every_s=SETTLE_S)
        return found

    with lab.quiet(), ThreadPoolExecutor(4) as pool:
        try:
            list(pool.map(start, places.items()))
            yield seen
        finally:
            list(pool.map(end, list(started.values())))


def _packets(lab: Lab, container: Container) -> list[Packet]:
    output = lab.exec(container, ["base64", "-w0", FILE]).stdout
    try:
        written = base64.b64decode(output)
    except ValueError:
        return []  # base64 was stopped in the middle
    return read(written) if len(written) >= HEADER_BYTES else []
