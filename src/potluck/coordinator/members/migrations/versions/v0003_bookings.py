"""The number of the last changes that each run of a coordinator has booked, so that no change is booked twice."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "bookings",
        sa.Column("run", sa.String(), primary_key=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("booked", sa.Double(), nullable=False),
    )
