"""The status, metrics, live updates and history of the swarm: the seam to everyone who watches it."""
