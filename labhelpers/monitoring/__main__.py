"""Draw the chapter's figures from new measurements: `python -m labhelpers.monitoring`."""

from __future__ import annotations

from labhelpers import monitoring
from labhelpers.lab import Lab
from labhelpers.state import ROOT

FIGURES = ROOT / "assets" / "monitoring"


def main() -> None:
    """Run every experiment once, and write its figure."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    FIGURES.mkdir(parents=True, exist_ok=True)
    with Lab("09") as lab:
        results = {
            "timeline": monitoring.timeline(lab),
            "restarts": monitoring.restart_policies(lab),
            "engine_restarts": monitoring.engine_restart_policies(lab),
            "docker_sock": monitoring.socket_access(lab, monitoring.find_engine_socket(lab)),
        }
    for name, result in results.items():
        result.plot()
        plt.savefig(FIGURES / f"{name}.png")
        print(f"drawn: assets/monitoring/{name}.png")


if __name__ == "__main__":
    main()
