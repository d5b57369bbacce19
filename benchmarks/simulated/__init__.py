"""Nodes that compute nothing and answer at once, so that only the coordinator between them is measured."""
