"""The tables, as the newest migration leaves them (a test compares), and the schema's versions.

Times are ISO 8601 in UTC and sort as text. Results are JSON in text columns: PostgreSQL's own JSON types would change
or refuse some (NUL characters, the order of keys).
"""

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

VERSIONS = ("0001", "0002")
"""Of the schema, oldest first; each is a migration in `migrations/versions`."""
NEWEST = VERSIONS[-1]
VERSION_TABLE = "atlas_version"

metadata = MetaData()

analysis = Table(
    "atlas_analysis",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("title", String(200), nullable=False),
    Column("model", String(200), nullable=False),
    Column("build_id", String(100), nullable=False),
    Column("unembedding_hash", String(100), nullable=False),
    Column("address", Text, nullable=False),
    Column("question", Text, nullable=False),
    Column("question_hash", String(64), nullable=False),
    Column("prompt", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("updated_at", String(32), nullable=False),
    Column("result", Text, nullable=False),
    Column("searched", Text, nullable=False),
    Index("atlas_analysis_question", "model", "question_hash"),
    Index("atlas_analysis_created", "created_at", "id"),
)

mention = Table(
    "atlas_mention",
    metadata,
    Column("analysis_id", String(32), ForeignKey("atlas_analysis.id", ondelete="CASCADE"), nullable=False),
    Column("role", String(30), nullable=False),
    Column("place", Integer, nullable=False),
    Column("model", String(200), nullable=False),
    Column("neuron", String(30), nullable=False),
    Column("position", Integer),
    Column("score", Float(53), nullable=False),
    Column("activation", Float(53)),
    PrimaryKeyConstraint("analysis_id", "role", "place", name="atlas_mention_pkey"),
    Index("atlas_mention_neuron", "model", "neuron"),
)

note = Table(
    "atlas_note",
    metadata,
    Column("model", String(200), nullable=False),
    Column("neuron", String(30), nullable=False),
    Column("text", Text, nullable=False),
    Column("updated_at", String(32), nullable=False),
    Column("searched", Text, nullable=False),
    PrimaryKeyConstraint("model", "neuron", name="atlas_note_pkey"),
)

tag = Table(
    "atlas_tag",
    metadata,
    Column("model", String(200), nullable=False),
    Column("neuron", String(30), nullable=False),
    Column("tag", String(40), nullable=False),
    PrimaryKeyConstraint("model", "neuron", "tag", name="atlas_tag_pkey"),
    ForeignKeyConstraint(["model", "neuron"], ["atlas_note.model", "atlas_note.neuron"], ondelete="CASCADE"),
    Index("atlas_tag_tag", "tag"),
)

collection = Table(
    "atlas_collection",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("created_at", String(32), nullable=False),
    UniqueConstraint("name", name="atlas_collection_name"),
)

collected_analysis = Table(
    "atlas_collected_analysis",
    metadata,
    Column("collection_id", String(32), ForeignKey("atlas_collection.id", ondelete="CASCADE"), nullable=False),
    Column("analysis_id", String(32), ForeignKey("atlas_analysis.id", ondelete="CASCADE"), nullable=False),
    Column("added_at", String(32), nullable=False),
    PrimaryKeyConstraint("collection_id", "analysis_id", name="atlas_collected_analysis_pkey"),
)

collected_neuron = Table(
    "atlas_collected_neuron",
    metadata,
    Column("collection_id", String(32), ForeignKey("atlas_collection.id", ondelete="CASCADE"), nullable=False),
    Column("model", String(200), nullable=False),
    Column("neuron", String(30), nullable=False),
    Column("added_at", String(32), nullable=False),
    PrimaryKeyConstraint("collection_id", "model", "neuron", name="atlas_collected_neuron_pkey"),
)
