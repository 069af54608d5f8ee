"""Packet captures: tcpdump in a network namespace, limited in packets and in time."""

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
HEADER_BYTES = 24  # of a capture file, pcap-savefile(5)

CaptureResult = Callable[[Callable[[Mapping[str, Sequence[Packet]]], bool]], dict[str, list[Packet]]]
"""Waits until a condition on the packets holds, or until a timeout; returns the packets by label."""


@contextmanager
def capture(
    lab: Lab, namespaces: Mapping[str, str], pcap_filter: str, interface: str = "any"
) -> Iterator[CaptureResult]:
    """Capture packets while the block lasts; the function that it gives returns them.

    Each namespace gets a container with NET_RAW and the capabilities with which tcpdump drops its privileges once it
    listens. It ends by itself after `MAX_PACKETS` packets or `MAX_S` seconds.

    Args:
        namespaces: label → network mode of the namespace, such as `host` or `container:web`.
        pcap_filter: pcap-filter(7); it selects only packets of the lab.

    Raises:
        NotRunning: tcpdump did not start; its last lines are kept.
        TimedOut: tcpdump did not start to listen.
    """
    command = ["timeout", str(MAX_S), "tcpdump", "-i", interface, "-p", "-n", "-U", "--immediate-mode"]
    command += ["-c", str(MAX_PACKETS), "-s", str(SNAP_BYTES), "-w", FILE, pcap_filter]
    started: dict[str, Container] = {}

    def start(namespace: tuple[str, str]) -> None:
        label, network = namespace
        capabilities = {"cap_drop": ["ALL"], "cap_add": ["NET_RAW", *DROP_PRIVILEGES_CAPS]}
        started[label] = lab.run(lab.image("tools"), command, network=network, **capabilities)
        lab.wait_for(
            "tcpdump to listen, which needs the capability NET_RAW",
            lambda: "listening on" in lab.logs(started[label]),
            READY_S,
            while_running=started[label],
        )

    def end(container: Container) -> None:
        with suppress(LabError):
            lab.remove(container, force=True)

    def captured(is_complete: Callable[[Mapping[str, Sequence[Packet]]], bool]) -> dict[str, list[Packet]]:
        packets: dict[str, list[Packet]] = {}

        def has_all() -> bool:
            files = pool.map(lambda container: _packets(lab, container), started.values())
            packets.update(zip(started, files, strict=True))
            return is_complete(packets)

        time.sleep(SETTLE_S)  # tcpdump writes a packet shortly after it has passed
        with suppress(TimedOut):  # the caller checks what was captured
            lab.wait_for("the packets", has_all, TIMEOUT_S, every_s=SETTLE_S)
        return packets

    with lab.quiet(), ThreadPoolExecutor(4) as pool:
        try:
            list(pool.map(start, namespaces.items()))
            yield captured
        finally:
            list(pool.map(end, list(started.values())))


def _packets(lab: Lab, container: Container) -> list[Packet]:
    output = lab.exec(container, ["base64", "-w0", FILE]).stdout
    try:
        pcap = base64.b64decode(output)
    except ValueError:
        return []  # the container ended while base64 was writing
    return read(pcap) if len(pcap) >= HEADER_BYTES else []
