"""The engines of the tests: A is the engine that `up` uses; B and C are started for the tests and removed again.

A: an existing engine, or the private one. B (`engine_b`): a newer one with the containerd image store, in a container
of A. C (`engine_c`): an engine with cgroup version 2 in a virtual machine, over TCP. B and C start empty and pull lab
images from a registry on A (`runs`), as in a classroom. `debian` builds the Debian systems of both.
"""
