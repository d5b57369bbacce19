"""The nodes' web-sockets: admits nodes, looks after them and carries frames; the seam to the nodes."""
