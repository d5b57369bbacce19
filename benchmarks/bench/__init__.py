"""What the benchmarks share: how they ask, what they compare with, and how their figures are recorded."""
