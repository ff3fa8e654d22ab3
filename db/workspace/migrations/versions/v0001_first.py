"""Saved analyses, notes and tags on neurons, collections."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "atlas_analysis",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("build_id", sa.String(100), nullable=False),
        sa.Column("unembedding_hash", sa.String(100), nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("question_hash", sa.String(64), nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("updated_at", sa.String(32), nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("searched", sa.Text, nullable=False),
    )
    op.create_index("atlas_analysis_question", "atlas_analysis", ["model", "question_hash"])
    op.create_index("atlas_analysis_created", "atlas_analysis", ["created_at", "id"])
    op.create_table(
        "atlas_note",
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("neuron", sa.String(30), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("updated_at", sa.String(32), nullable=False),
        sa.Column("searched", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("model", "neuron", name="atlas_note_pkey"),
    )
    op.create_table(
        "atlas_tag",
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("neuron", sa.String(30), nullable=False),
        sa.Column("tag", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("model", "neuron", "tag", name="atlas_tag_pkey"),
        sa.ForeignKeyConstraint(["model", "neuron"], ["atlas_note.model", "atlas_note.neuron"], ondelete="CASCADE"),
    )
    op.create_index("atlas_tag_tag", "atlas_tag", ["tag"])
    op.create_table(
        "atlas_collection",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.UniqueConstraint("name", name="atlas_collection_name"),
    )
    op.create_table(
        "atlas_collected_analysis",
        sa.Column("collection_id", sa.String(32), sa.ForeignKey("atlas_collection.id", ondelete="CASCADE")),
        sa.Column("analysis_id", sa.String(32), sa.ForeignKey("atlas_analysis.id", ondelete="CASCADE")),
        sa.Column("added_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("collection_id", "analysis_id", name="atlas_collected_analysis_pkey"),
    )
    op.create_table(
        "atlas_collected_neuron",
        sa.Column("collection_id", sa.String(32), sa.ForeignKey("atlas_collection.id", ondelete="CASCADE")),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("neuron", sa.String(30), nullable=False),
        sa.Column("added_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("collection_id", "model", "neuron", name="atlas_collected_neuron_pkey"),
    )
