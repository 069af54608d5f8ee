"""Network: no control group limits bandwidth; a token bucket on the veth does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.safety_limits import START_TIMEOUT_S
from labhelpers.errors import LabError
from labhelpers.lab import Output
from labhelpers.results import Result, column, record, table

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

RATE_MBIT = 20
# version 1's two controllers for packets mark them (net_cls) and order them (net_prio); neither limits
PACKET_CONTROLLERS = ("net_cls", "net_prio")


@record
class Transfer:
    """One transfer from a container to another."""

    what: str = column("how the sender's end of its veth was: `as it is` or `token bucket`")
    points: tuple[tuple[float, float], ...] = column(
        "(seconds, megabits a second) of each interval, as the receiver counted"
    )
    mbit_s: float = column("on average, as the receiver counted")


@record
class Bandwidth(Result):
    """What limits a container's bandwidth, and what does not."""

    controllers: tuple[str, ...] = column("the control groups' controllers of the engine's kernel")
    asked_mbit_s: float = column("the rate of the token bucket")
    commands: tuple[str, ...] = column("what was run in the sender's network namespace, in order")
    qdisc: str = column("what the kernel says of the interface while the bucket was there")
    before: Transfer = column("a transfer without the bucket, and one with it", shown=False)
    during: Transfer | None = column("a transfer without the bucket, and one with it", shown=False)
    why_not: str = column("why there was no bucket; an empty string where there was")

    @property
    def limiting_controllers(self) -> tuple[str, ...]:
        """The controllers whose resource is bandwidth: those for packets, without those that only mark or order."""
        return tuple(
            one for one in self.controllers if one.startswith("net") and one not in PACKET_CONTROLLERS
        )

    @property
    def bucket_held(self) -> bool:
        """Whether no more came through than the bucket's rate and a quarter; so it is, too, where there was none."""
        return self.during is None or self.during.mbit_s <= 1.25 * self.asked_mbit_s

    def frame(self) -> pd.DataFrame:
        """One row a transfer: what, asked_mbit_s, measured_mbit_s."""
        rows: list[tuple[str, float | None, float]] = [(self.before.what, None, self.before.mbit_s)]
        if self.during:
            rows.append((self.during.what, self.asked_mbit_s, self.during.mbit_s))
        return table(rows, ["what", "asked_mbit_s", "measured_mbit_s"])


def bandwidth(lab: Lab, mbit_s: int = RATE_MBIT, seconds: int = 1) -> Bandwidth:
    """Send from one container to another as fast as it goes, and through a token bucket of `mbit_s`.

    Both are on a network of their own, made for this. The bucket is set by a third container that joins the sender's
    network namespace and has one capability, NET_ADMIN.

    Args:
        mbit_s: in megabits a second.
        seconds: of each transfer.

    Source: tc-tbf(8); kernel, cgroup-v1/net_cls.rst and net_prio.rst; /proc/cgroups (cgroups(7)).
    """
    rows = lab.host.read("/proc/cgroups").splitlines()
    controllers = tuple(row.split()[0] for row in rows if not row.startswith("#"))
    bucket = f"tc qdisc add dev eth0 root tbf rate {mbit_s}mbit burst 32kbit latency 400ms"
    with lab.quiet(essential=["docker exec"]), _pair(lab) as (sender, receiver, tool):
        address = lab.address_of(sender)
        before = _transfer(lab, receiver, address, "as it is", seconds)
        done = lab.exec(tool, bucket)
        if done.exit_code:
            why = f"this kernel has no token bucket: {str(done).strip()}"
            return Bandwidth(controllers, mbit_s, (bucket,), "", before, None, why)
        qdisc = lab.exec(tool, "tc qdisc show dev eth0").stdout.strip()
        during = _transfer(lab, receiver, address, "token bucket", seconds)
    return Bandwidth(controllers, mbit_s, (bucket,), qdisc, before, during, "")


@contextmanager
def _pair(lab: Lab) -> Iterator[tuple[Container, Container, Container]]:
    """A sender that waits, a receiver, and a tool in the sender's network namespace, on a network of their own."""
    tools, name = lab.image("tools"), f"cgroups-net-{lab.session}"
    bare: dict[str, Any] = {"cap_drop": ["ALL"], "memory": "128m", "pids_limit": 32}
    with ExitStack() as stack:
        stack.callback(lab.remove_network, lab.create_network(name))

        def start(command: str, network: str, **options: Any) -> Container:
            return stack.enter_context(lab.running(tools, command, network=network, **bare, **options))

        sender = start("timeout 300 iperf3 -s --forceflush", name)
        receiver = start("sleep 300", name)
        tool = start("sleep 300", f"container:{sender.id}", cap_add=["NET_ADMIN"])
        lab.wait_for(
            "iperf3 to listen",
            lambda: "listening" in lab.logs(sender),
            START_TIMEOUT_S,
            every_s=0.1,
            while_running=sender,
        )
        yield sender, receiver, tool


def _transfer(lab: Lab, receiver: Container, address: str, what: str, seconds: int) -> Transfer:
    # -R: the one who asks receives, so what it reports is what came through
    command = f"timeout -s KILL 60 iperf3 -c {address} -R -t {seconds} -i 0.1 -J"
    answer: Output = lab.exec(receiver, command)
    report = json.loads(answer.stdout or "{}")
    if answer.exit_code or not report.get("intervals"):
        raise LabError(
            "the transfer between the two containers failed",
            hint="run the cell again; a firewall on the engine's machine may stop it",
            engine_message=str(report.get("error", answer))[-500:],
        )
    points = [(one["sum"]["end"], one["sum"]["bits_per_second"] / 1e6) for one in report["intervals"]]
    return Transfer(what, tuple(points), report["end"]["sum_received"]["bits_per_second"] / 1e6)
