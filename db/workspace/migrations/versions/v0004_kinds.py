"""Saved views of every page; notes by the checkpoint's identity, so that fine-tunes of one name do not share them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the columns. What is there are explanations of prompts, and notes that name a model alone."""
    op.add_column("atlas_analysis", sa.Column("page", sa.String(20), nullable=False, server_default="prompt"))
    connection = op.get_bind()
    kept = {
        table: [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM {table}")).mappings()]
        for table in ("atlas_note", "atlas_tag")
    }
    op.drop_table("atlas_tag")
    op.drop_table("atlas_note")
    note = op.create_table(
        "atlas_note",
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("neuron", sa.String(30), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("updated_at", sa.String(32), nullable=False),
        sa.Column("searched", sa.Text, nullable=False),
        sa.Column("checkpoint", sa.String(100), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("model", "neuron", "checkpoint", name="atlas_note_pkey"),
    )
    tag = op.create_table(
        "atlas_tag",
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("neuron", sa.String(30), nullable=False),
        sa.Column("tag", sa.String(40), nullable=False),
        sa.Column("checkpoint", sa.String(100), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("model", "neuron", "checkpoint", "tag", name="atlas_tag_pkey"),
        sa.ForeignKeyConstraint(
            ["model", "neuron", "checkpoint"],
            ["atlas_note.model", "atlas_note.neuron", "atlas_note.checkpoint"],
            ondelete="CASCADE",
        ),
    )
    op.create_index("atlas_tag_tag", "atlas_tag", ["tag"])
    for table, rows in ((note, kept["atlas_note"]), (tag, kept["atlas_tag"])):
        if rows:
            connection.execute(sa.insert(table), rows)
