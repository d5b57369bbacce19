"""What the swarm tells about itself: status, metrics, live updates and history; the seam to whoever watches it."""
