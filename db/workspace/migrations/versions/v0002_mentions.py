"""Which neurons stand in which saved analyses, by neuron; filled from the results that are there."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# As it was when this version was made; `db.workspace.records` may go on.
_ROLES = {
    "FFN value": "ffn_value_neurons",
    "attention value": "attention_value_neurons",
    "FFN query": "query_ffn_neurons",
    "FFN suppressing": "ffn_suppressing_neurons",
    "attention suppressing": "attention_suppressing_neurons",
}


def upgrade() -> None:
    """Make and fill the table."""
    table = op.create_table(
        "atlas_mention",
        sa.Column("analysis_id", sa.String(32), sa.ForeignKey("atlas_analysis.id", ondelete="CASCADE"), nullable=False),
        sa.Column("role", sa.String(30), nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("neuron", sa.String(30), nullable=False),
        sa.Column("position", sa.Integer),
        sa.Column("score", sa.Float(53), nullable=False),
        sa.Column("activation", sa.Float(53)),
        sa.PrimaryKeyConstraint("analysis_id", "role", "place", name="atlas_mention_pkey"),
    )
    op.create_index("atlas_mention_neuron", "atlas_mention", ["model", "neuron"])
    connection = op.get_bind()
    for analysis_id, model in connection.execute(sa.text("SELECT id, model FROM atlas_analysis")).all():
        one = sa.text("SELECT result FROM atlas_analysis WHERE id = :id")
        result = json.loads(connection.execute(one, {"id": analysis_id}).scalar_one())
        rows = _rows(analysis_id, model, result)
        if rows:
            connection.execute(sa.insert(table), rows)


def _rows(analysis_id: str, model: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "analysis_id": analysis_id,
            "role": role,
            "place": place,
            "model": model,
            "neuron": row["neuron"],
            "position": row.get("position"),
            "score": row["score"],
            "activation": row.get("activation"),
        }
        for role, name in _ROLES.items()
        for place, row in enumerate(result.get(name) or ())
    ]
