"""Runs the migrations for Alembic, on the connection that it is given and within its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
