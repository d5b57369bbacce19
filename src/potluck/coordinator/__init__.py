"""The coordinator: serves the HTTP API, admits nodes and runs sessions on them. `wire` is its seam to the nodes."""
