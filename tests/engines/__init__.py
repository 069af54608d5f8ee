"""The engines that the tests run on: A is the one that `up` uses; B and C are made here, and taken away again.

A: whatever engine is there, or the distribution's own. B (`nested`): a newer one with the containerd image store, in a
container of A. C (`guest`): one on cgroup version 2 in a virtual machine, reached over TCP. B and C start empty: lab
images reach them through a registry on A (`runs`), as in a classroom. `system` makes the Debian systems of both.
"""
