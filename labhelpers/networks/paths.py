"""What a way costs: round trips and throughput on each of the ways between two programs.

Every way is measured several times, in an order that is drawn at random, so that a machine which is busy for a
moment does not harm one way alone.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.engine import responses
from labhelpers.errors import BadInput, LabError
from labhelpers.networks.engine_settings import network_settings
from labhelpers.networks.firewall import UNPUBLISHED
from labhelpers.networks.maps import network_map
from labhelpers.networks.overlay import OVERLAY, SwarmEngines
from labhelpers.networks.veth import veth_pair
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd
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
"""A program in a container with `--network host` talks over the host's own loopback: nothing can be faster."""
IPERF, ECHO = 5201, 5202
SCRIPT = (Path(__file__).parent / "inside" / "probe.py").read_text(encoding="utf-8")
ROUND_TRIPS = 400
MAX_ROUNDS = 50
WARM_BYTES = 16 << 20
STREAM_S = 0.25
SERVE = f'iperf3 -s -D -p {IPERF} && exec python3 -c "$PROBE" serve 0.0.0.0 {ECHO}'


@record
class Sample(Result):
    """One measurement of one way."""

    path: str = column("its name, out of `PATHS`")
    round: int = column("its number; in each round every way is measured once")
    round_trips_us: tuple[float, ...] = column(
        "of one small message each over TCP and its echo, one after the other"
    )
    one_stream_bits_per_s: float = column("what iperf3 carried, as the receiver counted it")
    four_streams_bits_per_s: float = column("what iperf3 carried, as the receiver counted it")


@record
class Paths(Result):
    """What the ways between two programs cost, on one engine, in one run."""

    samples: tuple[Sample, ...] = rows("in the order in which they were taken", of=Sample)
    left_out: tuple[tuple[str, str], ...] = column(
        "(way, why) of those that this engine cannot have", shown=False
    )

    def __repr__(self) -> str:
        return f"{len(self.samples)} measurements of {len(self.names)} ways"

    @property
    def names(self) -> tuple[str, ...]:
        """The ways that were measured, in the order of `PATHS`."""
        there = {sample.path for sample in self.samples}
        return tuple(name for name in PATHS if name in there)

    @property
    def incomplete(self) -> str | None:
        """Why a way on one engine was not measured; None where all were."""
        return next((reason for name, reason in self.left_out if name != "overlay"), None)

    def round_trips_us(self, path: str) -> list[float]:
        """Every round trip on one way, sorted."""
        return sorted(one for s in self.samples if s.path == path for one in s.round_trips_us)

    def percentile_us(self, path: str, percent: int) -> float:
        """The round trip that `percent` of a hundred do not exceed; not a number (nan) for a way not measured."""
        found = self.round_trips_us(path)
        if not found:
            return math.nan
        return found[min(len(found) * percent // 100, len(found) - 1)]

    def streams(self, path: str, count: int) -> list[float]:
        """What one stream (or four) carried on one way, in bits per second, round by round."""
        name = "one_stream_bits_per_s" if count == 1 else "four_streams_bits_per_s"
        return [getattr(s, name) for s in self.samples if s.path == path]

    @property
    def ranking(self) -> tuple[str, ...]:
        """The ways from the shortest median round trip to the longest."""
        return tuple(sorted(self.names, key=lambda name: self.percentile_us(name, 50)))

    def frame(self) -> pd.DataFrame:
        """One row a way: round trips in µs, throughput in Gbit/s (median, least to most)."""
        columns = ["way", "median µs", "10 %", "90 %", "99 %", "1 stream Gbit/s", "4 streams Gbit/s"]
        rows = [
            (
                name,
                *(round(self.percentile_us(name, p), 1) for p in (50, 10, 90, 99)),
                *(_spread(self.streams(name, count)) for count in (1, 4)),
            )
            for name in self.names
        ]
        return table(rows, columns)


def _spread(bits: Sequence[float]) -> str:
    middle, least, most = (f"{one / 1e9:.2g}" for one in (statistics.median(bits), min(bits), max(bits)))
    return f"{middle} ({least} to {most})"


Measure = Callable[..., dict[str, Any]]
"""Measures one way: keyword arguments of `probe.py`'s client → what it found."""


def paths(
    lab: Lab, engines: SwarmEngines | None = None, *, rounds: int = 3, seed: int | None = None
) -> Paths:
    """Measure every way that this engine has.

    Args:
        engines: the two engines of the overlay; without them the overlay is left out.
        rounds: how often each way is measured; one more round before them warms up and is not counted.
        seed: of the random order; None for another one each time.

    Raises:
        BadInput: a number of rounds that cannot be meant.
        LabError: a measurement failed; its words are kept.
    """
    if isinstance(rounds, bool) or not 1 <= rounds <= MAX_ROUNDS:
        raise BadInput(f"{rounds!r} rounds are not possible", hint=f"give 1 to {MAX_ROUNDS}")
    order = random.Random(seed)
    left_out: list[tuple[str, str]] = []
    samples = []
    with lab.quiet(essential=["docker network create"]), ExitStack() as stack:
        ways = stack.enter_context(_connection_pairs(lab, left_out))
        if engines:
            ways["overlay"] = stack.enter_context(_overlay(engines))
        else:
            why = engines.why_not if engines is not None else None
            left_out.append(("overlay", why or "there are no two engines here"))
        rates = {
            name: ask(round_trips=20, one_bytes=WARM_BYTES, four_bytes=WARM_BYTES)
            for name, ask in ways.items()
        }
        for number in range(rounds):
            names = list(ways)
            order.shuffle(names)
            for name in names:
                sizes = {
                    key: max(int(rates[name][rate] / 8 * STREAM_S), 1 << 20)
                    for key, rate in (("one_bytes", "one_bits_per_s"), ("four_bytes", "four_bits_per_s"))
                }
                found = ways[name](round_trips=ROUND_TRIPS, **sizes)
                samples.append(
                    Sample(
                        name,
                        number,
                        tuple(found["round_trips_us"]),
                        found["one_bits_per_s"],
                        found["four_bits_per_s"],
                    )
                )
    return Paths(tuple(samples), tuple(left_out))


@contextmanager
def _connection_pairs(lab: Lab, left_out: list[tuple[str, str]]) -> Iterator[dict[str, Measure]]:
    """A client and a server for every way on one engine; what it cannot have is added to `left_out`."""
    mark = lab.session[:4]
    made: list[Container] = []
    far = f"neighbour-{mark}"
    image = lab.image("tools")

    def start(one: tuple[str, str, dict[str, Any]]) -> Container:
        kind, name, options = one
        words = {"command": ["sh", "-c", SERVE], "environment": {"PROBE": SCRIPT}} if kind == "server" else {}
        options = {"command": ["sleep", "600"], "init": True, **words, **options}
        container = lab.run(image, name=f"{name}-{mark}", **options)
        made.append(container)
        return container

    def end() -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda one: lab.remove(one, force=True), made))

    with ExitStack() as stack:
        laid = veth_pair(lab, far)
        stack.callback(lab.remove, far, force=True)
        for name, options in (
            (f"paths-{mark}", {}),
            (
                f"mac-{mark}",
                {
                    "driver": "macvlan",
                    "subnet": laid.subnet,
                    "gateway": laid.host_address,
                    "options": {"parent": laid.link},
                },
            ),
        ):
            stack.callback(lab.remove_network, lab.create_network(name, **options))
        stack.callback(end)
        host_ports = _server_on_host(lab, made, mark)
        on_paths, on_mac = {"network": f"paths-{mark}"}, {"network": f"mac-{mark}"}
        wanted: list[tuple[str, str, dict[str, Any]]] = [
            ("server", "plain", {"ports": {f"{IPERF}/tcp": None, f"{ECHO}/tcp": None}}),
            ("server", "own", on_paths),
            ("server", "mac", on_mac),
            ("client", "from-plain", {}),
            ("client", "from-own", on_paths),
            ("client", "from-mac", on_mac),
            ("client", "from-host", {"network": "host"}),
        ]
        with ThreadPoolExecutor(4) as pool:
            plain, own, mac, from_plain, from_own, from_mac, from_host = pool.map(start, wanted)
        attrs = lab.inspect(plain)
        iperf, echo = (responses.bindings(attrs, f"{port}/tcp")[0][1] for port in (IPERF, ECHO))
        inside = (IPERF, ECHO)
        ways = {
            "same container": _measure_from(lab, plain, "127.0.0.1", inside),
            "host": _measure_from(lab, from_host, "127.0.0.1", host_ports),
            "default bridge": _measure_from(lab, from_plain, lab.address_of(plain), inside),
            "user-defined bridge": _measure_from(lab, from_own, lab.address_of(own), inside),
            "macvlan": _measure_from(lab, from_mac, lab.address_of(mac), inside),
            "published port": _measure_from(lab, from_host, "127.0.0.1", (iperf, echo)),
        }
        here, published = network_settings(lab), network_map(lab, [str(plain.name)]).published
        reasons = {
            "default bridge": here.icc("bridge"),
            "user-defined bridge": here.icc(f"paths-{mark}"),
            "published port": None if all(one.rules or one.proxy for one in published) else UNPUBLISHED,
        }
        for name, reason in reasons.items():
            if reason:
                left_out.append((name, reason))
                del ways[name]
        yield ways


def _server_on_host(lab: Lab, made: list[Container], mark: str) -> tuple[int, int]:
    """A server in the host's network namespace, on two ports of 127.0.0.1 that the kernel chose."""
    found = lab.run_once(lab.image("tools"), ["python3", "-c", SCRIPT, "free"], network="host")
    try:
        iperf, echo = (int(word) for word in found.stdout.split())
    except ValueError:
        raise LabError(
            "no two free ports were found on the engine's host",
            hint="run the cell again",
            engine_message=str(found),
        ) from None
    command = f'iperf3 -s -D -B 127.0.0.1 -p {iperf} && exec python3 -c "$PROBE" serve 127.0.0.1 {echo}'
    made.append(
        lab.run(
            lab.image("tools"),
            ["sh", "-c", command],
            name=f"on-host-{mark}",
            network="host",
            environment={"PROBE": SCRIPT},
            init=True,
        )
    )
    return iperf, echo


@contextmanager
def _overlay(engines: SwarmEngines) -> Iterator[Measure]:
    """A client on one engine, a server on the other: programs of their machines, in their containers' networks."""
    source, target = "paths-client", "paths-server"
    if not engines.docker(1, "ps", "-q", "--filter", f"name=^{source}$"):
        engines.start(1, source)
        engines.start(2, target)
    form = f'{{{{(index .NetworkSettings.Networks "{OVERLAY}").IPAddress}}}}'
    address = engines.docker(2, "inspect", "-f", form, target)
    enter_source, enter_target = engines.enter(1, source), engines.enter(2, target)
    serve = f'iperf3 -s -D -p {IPERF} && (python3 -c "$0" serve 0.0.0.0 {ECHO} >/dev/null 2>&1 &)'
    engines.run_in(2, [*enter_target, "sh", "-c", serve, SCRIPT])

    def ask(**options: Any) -> dict[str, Any]:
        told = json.dumps({"address": address, "iperf": IPERF, "echo": ECHO, **options})
        return _read(engines.run_in(1, [*enter_source, "python3", "-c", SCRIPT, "ask", told], check=False))

    try:
        yield ask
    finally:
        engines.docker(1, "rm", "-f", source, check=False)
        engines.docker(2, "rm", "-f", target, check=False)


def _measure_from(lab: Lab, container: Container, address: str, ports: tuple[int, int]) -> Measure:
    def ask(**options: Any) -> dict[str, Any]:
        told = json.dumps({"address": address, "iperf": ports[0], "echo": ports[1], **options})
        return _read(str(lab.exec(container, ["python3", "-c", SCRIPT, "ask", told])))

    return ask


def _read(said: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise LabError(
            "a way could not be measured",
            hint="run the cell again; the words say what failed",
            engine_message=said[-600:],
        ) from None
    return found
