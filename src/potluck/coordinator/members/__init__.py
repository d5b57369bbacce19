"""Keeps who may join and ask, and what accounts have earned and spent: the seam to the database."""
