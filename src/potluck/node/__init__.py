"""A node: joins a coordinator, loads its span, and runs steps through it; `wire` is its seam to the coordinator."""
