"""Measure anew and write the figure for part3-1: `python -m labhelpers.vm`, on the engine that the lab finds."""

import matplotlib.pyplot as plt

from labhelpers import vm
from labhelpers.lab import Lab
from labhelpers.state import ROOT

with Lab("01") as lab, lab.quiet():
    pair = vm.start_pair(lab)
    vm.stacks(lab, vm.kernels(lab, pair), vm.memory_usage(lab, pair), vm.disk_usage(lab, pair)).plot()
target = ROOT / "assets" / "vm" / "part3-1.png"
target.parent.mkdir(parents=True, exist_ok=True)
plt.savefig(target, dpi=130)
print(f"wrote {target.relative_to(ROOT)}")
