"""The messages between nodes and the coordinator, the bytes that they become, and the links that carry them."""
