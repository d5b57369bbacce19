"""The nodes' web-sockets: admits nodes, looks after them and carries frames. This is the seam to the nodes."""
