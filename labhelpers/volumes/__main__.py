"""Measure anew and write the figures for part3-12 to part3-15: `python -m labhelpers.volumes`."""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from labhelpers import volumes
from labhelpers.lab import Lab
from labhelpers.state import ROOT

# the directory is on this machine: draw on an engine that is here, too
with tempfile.TemporaryDirectory() as folder, Lab("07") as lab, lab.quiet():
    target = Path(folder) / "target"
    target.mkdir()
    lab.create_volume("my-appvol-1")
    container = lab.run(
        lab.image("base"),
        "sleep 600",
        name="vol-test1",
        network="none",
        volumes=["my-appvol-1:/var/log"],
        mounts=[f"type=bind,source={target},target=/target,readonly"],
        tmpfs={"/run": "size=16m"},
    )
    results = {
        "part3-12": volumes.file_locations(lab, container),
        "part3-13": volumes.populate(lab),
        "part3-14": volumes.propagation_delays(lab),
        "part3-15": volumes.speeds(lab),
    }
assets = ROOT / "assets" / "volumes"
assets.mkdir(parents=True, exist_ok=True)
for name, result in results.items():
    result.plot()
    plt.savefig(assets / f"{name}.png", dpi=130)
    print(f"wrote assets/volumes/{name}.png")
