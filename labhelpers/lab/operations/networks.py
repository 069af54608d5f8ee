"""Operations on networks and volumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labhelpers.lab import options as opt
from labhelpers.lab import values
from labhelpers.lab.operations.base import Operation


@dataclass(frozen=True)
class CreateNetwork(Operation):
    """`docker network create`."""

    name: str
    driver: str | None = None
    subnet: str | None = None
    gateway: str | None = None
    internal: bool = False
    attachable: bool = False
    options: Mapping[str, str] | None = None

    VERB = ("network", "create")
    OPTIONS = {  # noqa: RUF012
        "driver": opt.single("--driver", "driver"),
        "subnet": opt.single("--subnet", "Subnet", lambda value: values.parse_subnet(value)),
        "gateway": opt.single("--gateway", "Gateway", lambda value: values.parse_address(value)),
        "internal": opt.switch("--internal", "internal"),
        "attachable": opt.switch("--attachable", "attachable"),
        "options": opt.mapping("-o", "options"),
    }

    def _arguments(self) -> list[str]:
        return [values.parse_name(self.name)]

    def _fixed_arguments(self) -> dict[str, Any]:
        return {"name": self.name, "driver": "bridge", "check_duplicate": True}

    def api(self) -> dict[str, Any]:
        """The same for the SDK's low-level client."""
        if self.gateway and not self.subnet:
            raise values.refuse(
                self.gateway, "is a gateway without a subnet", "also give the subnet that contains it"
            )
        body = super().api()
        pool = {key: body.pop(key) for key in ("Subnet", "Gateway") if key in body}
        return body | {"ipam": {"Driver": "default", "Options": {}, "Config": [pool] if pool else []}}


@dataclass(frozen=True)
class CreateVolume(Operation):
    """`docker volume create`."""

    name: str
    driver: str | None = None
    options: Mapping[str, str] | None = None

    VERB = ("volume", "create")
    OPTIONS = {  # noqa: RUF012
        "driver": opt.single("--driver", "driver"),
        "options": opt.mapping("-o", "driver_opts"),
    }

    def _arguments(self) -> list[str]:
        return [values.parse_name(self.name)]

    def _fixed_arguments(self) -> dict[str, Any]:
        return {"name": self.name, "driver": "local"}


@dataclass(frozen=True)
class Connect(Operation):
    """`docker network connect`: give a container one more interface, in another network."""

    network: str
    container: str

    VERB = ("network", "connect")

    def _arguments(self) -> list[str]:
        return [values.parse_name(self.network), values.parse_name(self.container)]

    def _fixed_arguments(self) -> dict[str, Any]:
        return {"container": self.container, "net_id": self.network}


@dataclass(frozen=True)
class RemoveNetwork(Operation):
    """`docker network rm`."""

    name: str

    VERB = ("network", "rm")

    def _arguments(self) -> list[str]:
        return [values.parse_name(self.name)]

    def _fixed_arguments(self) -> dict[str, Any]:
        return {"net_id": self.name}


@dataclass(frozen=True)
class RemoveVolume(Operation):
    """`docker volume rm`."""

    name: str

    VERB = ("volume", "rm")

    def _arguments(self) -> list[str]:
        return [values.parse_name(self.name)]

    def _fixed_arguments(self) -> dict[str, Any]:
        return {"name": self.name}
