"""The state of the nodes and their layers, a machine that takes events and returns actions: the seam to `planning`."""
