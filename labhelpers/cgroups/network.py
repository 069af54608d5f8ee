"""Network: no cgroup controller limits bandwidth; a token bucket on the veth does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.safety_limits import START_TIMEOUT_S
from labhelpers.course.arguments import experiment
from labhelpers.errors import ExperimentFailed
from labhelpers.lab import Output
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

RATE_MBIT_PER_S = 20
# the two packet controllers of version 1 tag packets (net_cls) and set their priority (net_prio)
PACKET_CONTROLLERS = ("net_cls", "net_prio")


@record
class Transfer:
    """A transfer between two containers."""

    qdisc: str = column("queueing discipline of the sender's interface: `default` or `token bucket`")
    rate_mbit_per_s: float | None = column("rate of the token bucket; none without a token bucket")
    mean_mbit_per_s: float = column("mean rate, as counted by the receiver")
    points: tuple[tuple[float, float], ...] = column(
        "(seconds, megabits per second) of each interval, as counted by the receiver", shown=False
    )


@record
class Bandwidth(Result):
    """Transfers between two containers, without a token bucket and with one."""

    controllers: tuple[str, ...] = column("cgroup controllers of the engine's kernel")
    rate_mbit_per_s: float = column("rate of the token bucket")
    commands: tuple[str, ...] = column("commands that were run in the sender's network namespace")
    qdisc: str = column("output of `tc qdisc show` with the token bucket")
    transfers: tuple[Transfer, ...] = rows("without a token bucket, then with it", of=Transfer)
    unavailable_reason: str = column("why there was no token bucket, or an empty string")

    @property
    def before(self) -> Transfer:
        """The transfer without a token bucket."""
        return self.transfers[0]

    @property
    def during(self) -> Transfer | None:
        """The transfer with the token bucket; None if the kernel has none."""
        return self.transfers[1] if len(self.transfers) > 1 else None

    @property
    def limiting_controllers(self) -> tuple[str, ...]:
        """The controllers that limit bandwidth: the network controllers except those that only tag packets."""
        return tuple(
            name for name in self.controllers if name.startswith("net") and name not in PACKET_CONTROLLERS
        )

    @property
    def within_rate(self) -> bool:
        """Whether the token bucket let through no more than its rate and a quarter; true if there was none."""
        return self.during is None or self.during.mean_mbit_per_s <= 1.25 * self.rate_mbit_per_s


@experiment
def bandwidth(lab: Lab, rate_mbit_per_s: int = RATE_MBIT_PER_S, seconds: int = 1) -> Bandwidth:
    """Send data from one container to another at full speed, then through a token bucket.

    Both are on a new network. A third container in the sender's network namespace, with the capability NET_ADMIN
    alone, sets up the token bucket.

    Args:
        rate_mbit_per_s: rate of the token bucket.
        seconds: duration of each transfer.

    Raises:
        ExperimentFailed: the transfer did not succeed.

    Source: tc-tbf(8); kernel, cgroup-v1/net_cls.rst and net_prio.rst; /proc/cgroups (cgroups(7)).
    """
    lines = lab.host.read("/proc/cgroups").splitlines()
    controllers = tuple(line.split()[0] for line in lines if not line.startswith("#"))
    command = f"tc qdisc add dev eth0 root tbf rate {rate_mbit_per_s}mbit burst 32kbit latency 400ms"
    with lab.quiet(essential=["docker exec"]), _pair(lab) as (sender, receiver, tool):
        address = lab.address_of(sender)
        transfers = [_transfer(lab, receiver, address, "default", None, seconds)]
        output = lab.exec(tool, command)
        qdisc, reason = "", ""
        if output.exit_code:
            reason = f"this kernel has no token bucket: {str(output).strip()}"
        else:
            qdisc = lab.exec(tool, "tc qdisc show dev eth0").stdout.strip()
            transfers.append(_transfer(lab, receiver, address, "token bucket", rate_mbit_per_s, seconds))
    return Bandwidth(controllers, rate_mbit_per_s, (command,), qdisc, tuple(transfers), reason)


@contextmanager
def _pair(lab: Lab) -> Iterator[tuple[Container, Container, Container]]:
    """A listening sender and a receiver on a new network, and a tool in the sender's network namespace."""
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


def _transfer(
    lab: Lab, receiver: Container, address: str, qdisc: str, rate_mbit_per_s: float | None, seconds: int
) -> Transfer:
    # -R: the client receives, so its report is what arrived
    command = f"timeout -s KILL 60 iperf3 -c {address} -R -t {seconds} -i 0.1 -J"
    output: Output = lab.exec(receiver, command)
    report = json.loads(output.stdout or "{}")
    if output.exit_code or not report.get("intervals"):
        raise ExperimentFailed(
            "the transfer between the two containers failed",
            hint="run the cell again; a firewall on the engine's machine may block it",
            engine_message=str(report.get("error", output))[-500:],
        )
    sums = [interval["sum"] for interval in report["intervals"]]
    points = tuple((each["end"], each["bits_per_second"] / 1e6) for each in sums)
    mean = report["end"]["sum_received"]["bits_per_second"] / 1e6
    return Transfer(qdisc, rate_mbit_per_s, mean, points)
