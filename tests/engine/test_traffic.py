"""Counters of a network namespace, in the forms that kernels print them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import QUICK, mutated_text

from labhelpers.engine.host.traffic import Received, parse_counters
from labhelpers.lab import Lab

SNMP = """Ip: Forwarding DefaultTTL InReceives InHdrErrors
Ip: 1 64 120 0
Icmp: InMsgs InErrors InCsumErrors InDestUnreachs InEchos
Icmp: 9 0 0 2 7
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens
Tcp: 1 200 120000 -1 4 3
"""
NETSTAT = """TcpExt: SyncookiesSent SyncookiesRecv
TcpExt: 0 0
IpExt: InNoRoutes InTruncatedPkts InMcastPkts OutMcastPkts InBcastPkts
IpExt: 0 0 15 2 5
"""
SNMP6 = "Ip6InReceives                   \t30\nIcmp6InEchos                    \t2\n"


def test_a_kernel_with_both_protocols() -> None:
    assert parse_counters([SNMP, NETSTAT, SNMP6]) == Received(packets=100, pings=9, connections=3)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([None, None, None], Received(0, 0, 0)),
        ([SNMP, None, None], Received(120, 7, 3)),  # without IPv6
        (["", "\n\n", "x"], Received(0, 0, 0)),
        # more values than names, fewer of them, and a line cut off
        (["Ip: InReceives\nIp: 3 4 5\n"], Received(3, 0, 0)),
        (["Ip: Forwarding InReceives\nIp: 1\n"], Received(0, 0, 0)),
        (["Tcp: PassiveOpens\n"], Received(0, 0, 0)),
        # what a later kernel adds
        (["New: A B\nNew: 1 2\nMPTcpExt: x\nIp: InReceives More\nIp: 8 word\n"], Received(0, 0, 0)),
    ],
)
def test_what_is_missing_or_unknown_counts_as_nothing(texts: list[str | None], expected: Received) -> None:
    assert parse_counters(texts) == expected


@QUICK
@given(mutated_text([SNMP, NETSTAT, SNMP6]), st.sampled_from(["", "9" * 5000, "\u00b2", "-"]))
def test_counters_in_any_form(text: str, number: str) -> None:
    parse_counters([text, f"Ip: InReceives\nIp: {number}\nIcmp6InEchos {number}", f"{text} {number}"])


def test_the_helper_sees_a_containers_own_counters(shared_lab: Lab) -> None:
    from labhelpers.engine.host.traffic import received_traffic

    container = shared_lab.run(shared_lab.image("payload"), name="traffic", network="none")
    try:
        before = received_traffic(shared_lab.host, container)
        assert shared_lab.exec(container, ["ping", "-c", "2", "127.0.0.1"]).exit_code == 0
        after = received_traffic(shared_lab.host, container)
        assert after.pings - before.pings == 2
        assert after.packets > before.packets
    finally:
        shared_lab.remove(container, force=True)
