"""How Alembic runs the migrations: on the connection that `schema.py` gives it, within its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
