"""The deployed world: real clients over the network, driven by the same `step` as the simulated one."""
