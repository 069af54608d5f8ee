"""Round trips and throughput on each network path between two programs.

Every path is measured several times, in random order, so that a short load does not affect one path only.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.engine import responses
from labhelpers.errors import BadInput, ExperimentFailed
from labhelpers.networks.engine_settings import network_settings
from labhelpers.networks.firewall import UNREACHABLE
from labhelpers.networks.maps import network_map
from labhelpers.networks.overlay import SwarmEngines
from labhelpers.networks.veth import veth_pair
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

PATHS = (
    "same container",
    "host",
    "default bridge",
    "user-defined bridge",
    "macvlan",
    "published port",
    "overlay",
)
BASELINE = "host"
"""Containers with `--network host` use the host's own loopback interface, the fastest path."""
IPERF, ECHO = 5201, 5202
PROBE_PROGRAM = (Path(__file__).parent / "inside" / "probe.py").read_text(encoding="utf-8")
ROUND_TRIPS = 400
MAX_ROUNDS = 50
WARM_UP_BYTES = 16 << 20
STREAM_S = 0.25
SERVE = f'iperf3 -s -D -p {IPERF} && exec python3 -c "$PROBE" serve 0.0.0.0 {ECHO}'


@record
class Sample(Result):
    """One measurement of one path."""

    path: str = column("a name of `PATHS`")
    round: int = column("number of the round; each round measures every path once")
    round_trips_us: tuple[float, ...] = column(
        "times of a small TCP message and its echo, sent one after the other", shown=False
    )
    one_stream_bits_per_s: float = column("throughput of one iperf3 stream at the receiver")
    four_streams_bits_per_s: float = column("total throughput of four iperf3 streams at the receiver")


@record
class PathCost(Result):
    """Round trips and throughput of one path."""

    path: str = column("a name of `PATHS`")
    median_us: float = column("median round trip")
    p10_us: float = column("10 % of the round trips are shorter")
    p90_us: float = column("90 % of the round trips are shorter")
    p99_us: float = column("99 % of the round trips are shorter")
    one_stream_gbit_per_s: float = column("median throughput of one stream")
    one_stream_min_gbit_per_s: float = column("slowest round of one stream")
    one_stream_max_gbit_per_s: float = column("fastest round of one stream")
    four_streams_gbit_per_s: float = column("median throughput of four streams")
    four_streams_min_gbit_per_s: float = column("slowest round of four streams")
    four_streams_max_gbit_per_s: float = column("fastest round of four streams")


@record
class Paths(Result):
    """Round trips and throughput of each network path between two programs."""

    samples: tuple[Sample, ...] = rows("in the order of measurement", of=Sample)
    skipped: tuple[tuple[str, str], ...] = column(
        "(path, reason) of the paths that are unavailable on this engine", shown=False
    )

    def __repr__(self) -> str:
        return f"{len(self.samples)} measurements of {len(self.names)} paths"

    @property
    def names(self) -> tuple[str, ...]:
        """The measured paths, in the order of `PATHS`."""
        measured = {sample.path for sample in self.samples}
        return tuple(name for name in PATHS if name in measured)

    @property
    def incomplete_reason(self) -> str | None:
        """Why a path within one engine was not measured; None if all were."""
        return next((reason for name, reason in self.skipped if name != "overlay"), None)

    def round_trips_us(self, path: str) -> list[float]:
        """Every round trip on one path, sorted."""
        return sorted(
            time for sample in self.samples if sample.path == path for time in sample.round_trips_us
        )

    def percentile_us(self, path: str, percent: int) -> float:
        """A percentile of the round trips on one path; nan for a path that was not measured."""
        times = self.round_trips_us(path)
        return times[min(len(times) * percent // 100, len(times) - 1)] if times else math.nan

    def streams(self, path: str, count: int) -> list[float]:
        """Throughput of one stream or of four streams on one path, in bits per second, by round."""
        name = "one_stream_bits_per_s" if count == 1 else "four_streams_bits_per_s"
        return [getattr(sample, name) for sample in self.samples if sample.path == path]

    def cost(self, path: str) -> PathCost:
        """Percentiles and throughput of one path, over all rounds."""
        spreads = []
        for count in (1, 4):
            rates = [bits / 1e9 for bits in self.streams(path, count)]
            spreads += [statistics.median(rates), min(rates), max(rates)]
        return PathCost(path, *(self.percentile_us(path, percent) for percent in (50, 10, 90, 99)), *spreads)

    @property
    def ranking(self) -> tuple[str, ...]:
        """The paths from the shortest median round trip to the longest."""
        return tuple(sorted(self.names, key=lambda name: self.percentile_us(name, 50)))

    def _records(self) -> tuple[type, Sequence[object]]:
        """The table has one row for each path."""
        return PathCost, [self.cost(name) for name in self.names]


Measure = Callable[..., dict[str, Any]]
"""Measures one path: options of the client in `probe.py` → its results."""


@experiment
def paths(
    lab: Lab, engines: SwarmEngines | None = None, *, rounds: int = 3, seed: int | None = None
) -> Paths:
    """Measure every path that is available on this engine.

    Args:
        engines: the engines of the overlay network; without them, the overlay is skipped.
        rounds: measurements of each path, after one warm-up round.
        seed: of the random order; None for a different order each time.

    Raises:
        BadInput: the number of rounds is out of range.
        ExperimentFailed: a measurement failed; its output is kept.
    """
    if isinstance(rounds, bool) or not 1 <= rounds <= MAX_ROUNDS:
        raise BadInput(f"{rounds!r} rounds are not possible", hint=f"use 1 to {MAX_ROUNDS}")
    order = random.Random(seed)
    skipped: list[tuple[str, str]] = []
    samples = []
    with lab.quiet(essential=["docker network create"]), ExitStack() as stack:
        measures = stack.enter_context(_within_engine(lab, skipped))
        if engines:
            measures["overlay"] = stack.enter_context(_overlay(engines))
        else:
            reason = engines.unavailable_reason if engines is not None else None
            skipped.append(("overlay", reason or "there are no two engines here"))
        warm_up = {
            name: measure(round_trips=20, one_bytes=WARM_UP_BYTES, four_bytes=WARM_UP_BYTES)
            for name, measure in measures.items()
        }
        for number in range(rounds):
            names = list(measures)
            order.shuffle(names)
            samples += [_sample(name, number, measures[name], warm_up[name]) for name in names]
    return Paths(tuple(samples), tuple(skipped))


def _sample(name: str, number: int, measure: Measure, warm_up: Mapping[str, float]) -> Sample:
    sizes = {
        f"{streams}_bytes": max(int(warm_up[f"{streams}_bits_per_s"] / 8 * STREAM_S), 1 << 20)
        for streams in ("one", "four")
    }
    result = measure(round_trips=ROUND_TRIPS, **sizes)
    return Sample(
        name, number, tuple(result["round_trips_us"]), result["one_bits_per_s"], result["four_bits_per_s"]
    )


@contextmanager
def _within_engine(lab: Lab, skipped: list[tuple[str, str]]) -> Iterator[dict[str, Measure]]:
    """Start a client and a server for every path within one engine; unavailable paths are added to `skipped`."""
    suffix = lab.session[:4]
    started: list[Container] = []
    neighbour, own, mac = (f"{name}-{suffix}" for name in ("neighbour", "paths", "mac"))
    image = lab.image("tools")

    def start(kind: str, name: str, options: Mapping[str, Any]) -> Container:
        command = ["sh", "-c", SERVE] if kind == "server" else ["sleep", "600"]
        environment = {"PROBE": PROBE_PROGRAM} if kind == "server" else {}
        container = lab.run(
            image, command, name=f"{name}-{suffix}", environment=environment, init=True, **options
        )
        started.append(container)
        return container

    def remove_all() -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda container: lab.remove(container, force=True), started))

    with ExitStack() as stack:
        pair = veth_pair(lab, neighbour)
        stack.callback(lab.remove, neighbour, force=True)
        stack.callback(lab.remove_network, lab.create_network(own))
        macvlan = lab.create_network(
            mac,
            driver="macvlan",
            subnet=pair.subnet,
            gateway=pair.host_address,
            options={"parent": pair.host_interface},
        )
        stack.callback(lab.remove_network, macvlan)
        stack.callback(remove_all)
        host_ports = _server_on_host(lab, started, suffix)
        wanted: list[tuple[str, str, dict[str, Any]]] = [
            ("server", "plain", {"ports": {f"{IPERF}/tcp": None, f"{ECHO}/tcp": None}}),
            ("server", "own", {"network": own}),
            ("server", "mac", {"network": mac}),
            ("client", "from-plain", {}),
            ("client", "from-own", {"network": own}),
            ("client", "from-mac", {"network": mac}),
            ("client", "from-host", {"network": "host"}),
        ]
        with ThreadPoolExecutor(4) as pool:
            containers = pool.map(start, *zip(*wanted, strict=True))
            on_plain, on_own, on_mac, from_plain, from_own, from_mac, from_host = containers
        attrs = lab.inspect(on_plain)
        iperf, echo = (responses.bindings(attrs, f"{port}/tcp")[0][1] for port in (IPERF, ECHO))
        ports = (IPERF, ECHO)
        measures = {
            "same container": _measure_from(lab, on_plain, "127.0.0.1", ports),
            "host": _measure_from(lab, from_host, "127.0.0.1", host_ports),
            "default bridge": _measure_from(lab, from_plain, lab.address_of(on_plain), ports),
            "user-defined bridge": _measure_from(lab, from_own, lab.address_of(on_own), ports),
            "macvlan": _measure_from(lab, from_mac, lab.address_of(on_mac), ports),
            "published port": _measure_from(lab, from_host, "127.0.0.1", (iperf, echo)),
        }
        settings, published = network_settings(lab), network_map(lab, [str(on_plain.name)]).published
        reasons = {
            "default bridge": settings.icc("bridge"),
            "user-defined bridge": settings.icc(own),
            "published port": None if all(port.rules or port.proxy for port in published) else UNREACHABLE,
        }
        for name, reason in reasons.items():
            if reason:
                skipped.append((name, reason))
                del measures[name]
        yield measures


def _server_on_host(lab: Lab, started: list[Container], suffix: str) -> tuple[int, int]:
    """Start a server in the host's network namespace, on two free ports of 127.0.0.1; the ports."""
    free = lab.run_once(lab.image("tools"), ["python3", "-c", PROBE_PROGRAM, "free"], network="host")
    try:
        iperf, echo = (int(port) for port in free.stdout.split())
    except ValueError:
        raise ExperimentFailed(
            "no two free ports were found on the engine's host",
            hint="run the cell again",
            engine_message=str(free),
        ) from None
    command = f'iperf3 -s -D -B 127.0.0.1 -p {iperf} && exec python3 -c "$PROBE" serve 127.0.0.1 {echo}'
    started.append(
        lab.run(
            lab.image("tools"),
            ["sh", "-c", command],
            name=f"on-host-{suffix}",
            network="host",
            environment={"PROBE": PROBE_PROGRAM},
            init=True,
        )
    )
    return iperf, echo


@contextmanager
def _overlay(engines: SwarmEngines) -> Iterator[Measure]:
    """A client on engine 1 and a server on engine 2.

    Their programs are those of the engines' image, run in the network namespaces of two containers.
    """
    source, target = "paths-client", "paths-server"
    if not engines.docker(1, "ps", "-q", "--filter", f"name=^{source}$"):
        engines.start(1, source)
        engines.start(2, target)
    address = engines.address_of(2, target)
    enter_source, enter_target = engines.nsenter_command(1, source), engines.nsenter_command(2, target)
    serve = f'iperf3 -s -D -p {IPERF} && (python3 -c "$0" serve 0.0.0.0 {ECHO} >/dev/null 2>&1 &)'
    engines.run_in(2, [*enter_target, "sh", "-c", serve, PROBE_PROGRAM])

    def measure(**options: Any) -> dict[str, Any]:
        client = _client(address, (IPERF, ECHO), options)
        return _parse(engines.run_in(1, [*enter_source, *client], check=False))

    try:
        yield measure
    finally:
        engines.docker(1, "rm", "-f", source, check=False)
        engines.docker(2, "rm", "-f", target, check=False)


def _measure_from(lab: Lab, container: Container, address: str, ports: tuple[int, int]) -> Measure:
    def measure(**options: Any) -> dict[str, Any]:
        return _parse(str(lab.exec(container, _client(address, ports, options))))

    return measure


def _client(address: str, ports: tuple[int, int], options: Mapping[str, Any]) -> list[str]:
    """The command of a client of `probe.py`."""
    iperf, echo = ports
    arguments = json.dumps({"address": address, "iperf": iperf, "echo": echo, **options})
    return ["python3", "-c", PROBE_PROGRAM, "measure", arguments]


def _parse(output: str) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise ExperimentFailed(
            "a path could not be measured",
            hint="run the cell again; the message below shows what failed",
            engine_message=output[-600:],
        ) from None
    return result
