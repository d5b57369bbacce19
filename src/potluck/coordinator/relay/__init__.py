"""Follows every step from stage to stage, and keeps its times and evidence: the seam between tokens and candidates."""
