"""Draw part3-7 from containers on the engine: `python -m labhelpers.networks`."""

from __future__ import annotations

from labhelpers import networks
from labhelpers.lab import Lab
from labhelpers.state import ROOT

FIGURE = ROOT / "assets" / "networks" / "part3-7.png"
NO_DNS = ["127.0.0.1"]


def main() -> None:
    """Start containers on several networks, and draw their map."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with Lab("05") as lab:
        image = lab.image("payload")
        for network in ("shop", "bank"):
            lab.create_network(network)
        lab.run(image, name="web", dns=NO_DNS, ports={"80/tcp": None})
        lab.run(image, name="mail", dns=NO_DNS)
        for name, network in (("cart", "shop"), ("both", "shop"), ("safe", "bank")):
            lab.run(image, name=name, network=network, dns=NO_DNS)
        lab.connect("bank", "both")
        lab.run(image, ["sleep", "600"], name="shared", network="host")
        lab.run(image, ["sleep", "600"], name="alone", network="none")
        names = ["web", "mail", "cart", "both", "safe", "shared", "alone"]
        networks.network_map(lab, names).plot()
        FIGURE.parent.mkdir(parents=True, exist_ok=True)
        plt.savefig(FIGURE)
    print(f"drawn: {FIGURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
