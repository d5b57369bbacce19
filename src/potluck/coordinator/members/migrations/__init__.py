"""The history of the database's schema, for Alembic: a revision in `versions` for each change, oldest first.

A new one is written by hand, after the example of the others; a test compares what they make with the models.
A revision that was released is never changed.
"""
