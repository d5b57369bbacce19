"""Who serves which layers, as a state machine that takes events and returns actions: the seam to `planning`."""
