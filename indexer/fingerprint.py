"""What a build says about itself, and the id that follows from it: same checkpoint, options and code, same id."""

import hashlib
import json
from datetime import UTC, datetime

from db.stamp import BuildStamp
from db.tables import SCHEMA_VERSION
from indexer.checkpoint import Checkpoint
from indexer.unembedding import Unembedding

CODE_VERSION = "2"
"""Raised when the same checkpoint and options would give other contents; part of every build's identity."""


def stamp_of(checkpoint: Checkpoint, unembedding: Unembedding, depth: int) -> BuildStamp:
    """What a build of this checkpoint says about itself; reads all weight files once, for their hash."""
    size = checkpoint.dimensions
    identity = {
        "checkpoint": checkpoint.identity,
        "unembedding_hash": unembedding.hash,
        "tokenizer_hash": checkpoint.tokenizer_hash,
        "schema_version": SCHEMA_VERSION,
        "code_version": CODE_VERSION,
        "depth": min(depth, size.vocabulary),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return BuildStamp(
        build_id=digest[:16],
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model=checkpoint.name,
        family=str(checkpoint.config.model_type),
        layers=size.layers,
        d_model=size.d_model,
        vocabulary=size.vocabulary,
        ffn_neurons=size.layers * size.ffn_neurons,
        attention_neurons=size.layers * size.attention_neurons,
        heads=size.heads,
        head_dim=size.head_dim,
        tokenizer_json=checkpoint.tokenizer_json,
        **identity,  # type: ignore[arg-type]
    )
