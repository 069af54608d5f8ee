"""Draw part3-8 to part3-11 anew from what is measured: `python -m labhelpers.services`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers import services
from labhelpers.lab import Lab
from labhelpers.state import ROOT

if TYPE_CHECKING:
    from labhelpers.results import Result

FOLDER = ROOT / "assets" / "services"
PASSWORD = "root"


def main() -> None:
    """Pull and start a database, kill others, run a monitor, and write the figures."""
    import matplotlib

    matplotlib.use("agg")
    with Lab("06") as lab:
        image = lab.from_hub("mysql:8.4", "mysql")
        pulled = services.pull(lab, services.push_image(lab, image).ref)
        _draw(pulled, "part3-8")
        database = lab.run(
            pulled.ref,
            name="mysql_container",
            ports={"3306/tcp": 3308},
            environment={"MYSQL_ROOT_PASSWORD": PASSWORD},
            health_cmd=services.CHECK,
            health_interval=1,
        )
        _draw(services.watch_startup(lab, database, password=PASSWORD), "part3-9")
        lab.remove(database, force=True, volumes=True)
        _draw(services.killed_starts(lab, pulled.ref), "killed_starts")
        sources = services.host_mounts(lab)
        _draw(sources, "part3-10")
        monitor = lab.from_hub("ghcr.io/google/cadvisor:v0.57.0", "netdata")
        volumes = [
            "/:/rootfs:ro",
            "/sys:/sys:ro",
            *(["/var/run:/var/run:ro"] if not monitor.is_substitute else []),
        ]
        cadvisor = lab.run(
            monitor.ref, name="cadvisor", volumes=volumes, ports={f"{services.PORT}/tcp": 9559}
        )
        _draw(services.compare_usage(lab, cadvisor, services.monitor_kind(monitor)), "part3-11")


def _draw(result: Result, name: str) -> None:
    import matplotlib.pyplot as plt

    result.plot()
    FOLDER.mkdir(parents=True, exist_ok=True)
    plt.savefig(FOLDER / f"{name}.png")
    plt.close("all")
    print(f"drawn: {(FOLDER / f'{name}.png').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
