"""The history of the database's schema for Alembic, with a revision in `versions` for each change, the oldest first.

A new revision is written by hand, like the others; a test compares what they make with the models. A revision that was
released is never changed.
"""
