"""The simulated world: a queue of events on a virtual clock, and training when it is needed."""
