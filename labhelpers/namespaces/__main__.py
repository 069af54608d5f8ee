"""Measure anew and write the figures for part3-5 and part3-6: `python -m labhelpers.namespaces`."""

import matplotlib.pyplot as plt

from labhelpers import namespaces
from labhelpers.lab import Lab
from labhelpers.state import ROOT

with Lab("03") as lab, lab.quiet():
    tree = namespaces.process_tree(lab, namespaces.start_nested(lab, name="container"))
folder = ROOT / "assets" / "namespaces"
folder.mkdir(parents=True, exist_ok=True)
for name, result in {"part3-5": tree, "part3-6": tree.views}.items():
    result.plot()
    plt.savefig(folder / f"{name}.png", dpi=130)
    print(f"wrote assets/namespaces/{name}.png")
