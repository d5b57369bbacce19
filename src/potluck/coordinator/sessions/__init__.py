"""Opens sessions in turn, mends, parks and closes them: the seam between requests and the nodes' KV caches."""
