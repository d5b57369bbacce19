"""Who may join and ask, and what accounts earned and spent; the seam to the database."""
