"""Engines, which run a span. Import this before llama.cpp, so that OpenMP reads how long threads may spin."""

import os

# After a computation OpenMP's threads spin for milliseconds, waiting for the next: on a machine with several nodes
# they take the cores from whose turn it is. This many rounds (some 30 µs) still bridge the gaps inside a computation.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
