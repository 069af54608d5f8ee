"""Byte-compile the packages that deps.txt names: real work that needs no package index."""

import compileall
import importlib

with open("deps.txt", encoding="utf-8") as deps:
    names = [name for name in deps.read().split() if not name.startswith("#")]
for name in names:
    folder = importlib.import_module(name).__path__[0]
    compileall.compile_dir(folder, quiet=1, force=True, optimize=2)
