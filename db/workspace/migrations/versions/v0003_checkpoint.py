"""The identity of the checkpoint that was analysed, by which fine-tunes of one name and unembedding are told apart."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the column; what is there was saved without."""
    op.add_column("atlas_analysis", sa.Column("checkpoint", sa.String(100), nullable=False, server_default=""))
