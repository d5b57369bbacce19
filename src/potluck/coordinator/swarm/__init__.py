"""Who serves which layers: a state machine that takes events and gives actions; the seam to `planning`."""
