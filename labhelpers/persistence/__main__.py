"""Draw part3-16 to part3-18 anew from what is measured, and print the tables: `python -m labhelpers.persistence`."""

from __future__ import annotations

from labhelpers import persistence
from labhelpers.lab import Lab
from labhelpers.persistence.servers import remove_server, start_server, start_without_volume
from labhelpers.results import Result
from labhelpers.state import ROOT

FOLDER = ROOT / "assets" / "persistence"
SOURCE, HOST = "mysql-vol", "mysql-host"


def where(lab: Lab, image: str) -> persistence.DataLocations:
    """A server for each way to keep its data; where each one has them."""
    directory = persistence.host_directory(lab, HOST)
    persistence.copy_volume(lab, SOURCE, directory)
    made = [start_without_volume(lab, image, SOURCE, name="no-volume")]
    for name, mount in (("with-a-volume", SOURCE), ("with-a-bind-mount", directory)):
        made.append(start_server(lab, image, mount, name=name, network="none"))
    try:
        for one in made:
            persistence.wait_until_ready(lab, one)
        return persistence.DataLocations(
            tuple(persistence.find_data_location(lab, str(one.name)) for one in made)
        )
    finally:
        for one in made:
            lab.stop(one, timeout_s=300)
            remove_server(lab, one)


def main() -> None:
    """Measure, draw and print."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    FOLDER.mkdir(parents=True, exist_ok=True)

    def keep(name: str, result: Result) -> None:
        result.plot()
        plt.savefig(FOLDER / f"{name}.png")
        print(f"\n{name}\n{result.frame().to_string(index=False)}", flush=True)

    with Lab("08") as lab, lab.quiet():
        image = lab.image("mysql")
        persistence.data_directory(lab, image, SOURCE)
        keep("part3-16", where(lab, image))
        keep("part3-17", persistence.survival(lab, image, SOURCE))
        kills = persistence.kills(lab, image, SOURCE)
        keep("part3-18", kills)
        keep("trade", persistence.durability_tradeoff(lab, image, SOURCE, kills))
        keep("twins", persistence.two_servers_one_volume(lab, image, SOURCE))


if __name__ == "__main__":
    main()
