"""What nodes and the coordinator say to each other: messages, the bytes that they become, and the links they take."""
