"""Whether guests can use KVM on this engine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from labhelpers import state
from labhelpers.course.arguments import experiment
from labhelpers.errors import GuestFailed, LabError, TimedOut
from labhelpers.results import Result, column, record
from labhelpers.vm.guests import start_guest

if TYPE_CHECKING:
    from labhelpers.lab import Lab

PROBE_TIMEOUT_S = 8.0
CACHE = "vm-accel.json"


@record
class Acceleration(Result):
    """How guests run on this engine."""

    kind: Literal["tcg", "kvm"] = column(
        "`kvm` (the processor runs the guest's code) or `tcg` (QEMU translates it)"
    )
    reason: str = column("why the lab uses it")


@experiment
def probe_accel(lab: Lab) -> Acceleration:
    """KVM if a guest starts its payload with it within `PROBE_TIMEOUT_S`, else TCG.

    A probe takes seconds, so its result is stored for this engine until its host boots again.
    """
    image_id = lab.inspect_image(lab.image("vm"))["Id"]
    key = f"{lab.engine.identity}/{lab.host.kernel().boot_id}/{image_id}"
    cached = state.read_json(CACHE, {})
    if isinstance(cached, dict) and cached.get("key") == key:
        return Acceleration(cached["kind"], cached["reason"])
    result = _probe(lab)
    state.write_json(CACHE, {"key": key, **asdict(result)})
    return result


def _probe(lab: Lab) -> Acceleration:
    with lab.quiet(["docker run -d"]):
        try:
            guest = start_guest(lab, accel="kvm", limit_s=PROBE_TIMEOUT_S)
        except GuestFailed as error:
            if isinstance(error.__cause__, TimedOut):
                return Acceleration(
                    "tcg", f"/dev/kvm exists, but a guest did not boot with it within {PROBE_TIMEOUT_S:g} s"
                )
            last_line = (error.engine_message or "").splitlines()[-1:]
            return Acceleration("tcg", f"/dev/kvm exists, but QEMU failed with it: {' '.join(last_line)}")
        except LabError as error:
            message = error.engine_message or error.message
            if "no such file" in message.lower() or "gathering device information" in message:
                return Acceleration("tcg", "the engine's host has no /dev/kvm")
            return Acceleration("tcg", f"the engine refused /dev/kvm: {message}")
        lab.remove(guest, force=True)
    return Acceleration("kvm", "a guest booted with /dev/kvm")
