"""The tables of a build, declared in SQLAlchemy Core so that they can live in DuckDB or PostgreSQL.

Neuron-token pairs stand twice: ``neuron_token`` sorted by neuron, ``token_neuron`` sorted by (token, rank). No table
has a primary key or an index: DuckDB's zone maps answer both look-ups from the order of the rows alone, and a key would
make the file several times larger. What a key would guarantee is checked once, when the build is published.

Ranks count from 1, the most extreme token of that end. Logits are those of the value vector alone: centred for
LayerNorm models, times the final norm's weight, times the unembedding; no norm scale, no biases. REAL is four bytes
everywhere; a plain Float would become DOUBLE in DuckDB and double the file.
"""

from sqlalchemy import REAL, Column, Integer, LargeBinary, MetaData, SmallInteger, Table, Text

SCHEMA_VERSION = 2

metadata = MetaData()

build = Table(
    "build",
    metadata,
    Column("build_id", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("code_version", Text, nullable=False),
    Column("created_at", Text, nullable=False),  # ISO 8601, UTC
    Column("model", Text, nullable=False),
    Column("family", Text, nullable=False),  # the config's model_type
    Column("checkpoint", Text, nullable=False),  # hub revision, or the hash of the weights
    Column("unembedding_hash", Text, nullable=False),
    Column("tokenizer_hash", Text, nullable=False),
    Column("layers", Integer, nullable=False),
    Column("d_model", Integer, nullable=False),
    Column("vocabulary", Integer, nullable=False),
    Column("ffn_neurons", Integer, nullable=False),  # in the whole model
    Column("attention_neurons", Integer, nullable=False),  # in the whole model
    Column("heads", Integer, nullable=False),  # a layer
    Column("head_dim", Integer, nullable=False),
    Column("depth", Integer, nullable=False),  # tokens stored at each end of a neuron
    Column("tokenizer_zlib", LargeBinary),  # the `tokenizers` file, deflated, to split text; absent for slow ones
)

token = Table(
    "token",
    metadata,
    Column("token_id", Integer, nullable=False),
    Column("bytes", LargeBinary, nullable=False),  # the exact bytes; empty for rows of the head that no token uses
    Column("text", Text),  # the bytes as UTF-8 where they are valid UTF-8, to look tokens up by
    Column("display", Text, nullable=False),  # unambiguous, printable: see db.token_text
    Column("special", SmallInteger, nullable=False),  # 1 for control tokens and unused rows
)

neuron = Table(
    "neuron",
    metadata,
    Column("neuron_id", Integer, nullable=False),  # layer by layer, FFN before attention, heads in order
    Column("kind", SmallInteger, nullable=False),  # see KIND_CODES
    Column("layer", SmallInteger, nullable=False),
    Column("head", SmallInteger),  # absent for FFN neurons
    Column("index", Integer, nullable=False),
    Column("mean", REAL, nullable=False),  # of the logits over the vocabulary
    Column("std", REAL, nullable=False),  # of the same (population)
    Column("norm", REAL, nullable=False),  # of the value vector, before any folding
    # How peaked the projection is: z of rank 1 at either end, 0 for a constant neuron. Derived when published.
    Column("top_z", REAL, nullable=False),
    Column("bottom_z", REAL, nullable=False),
)
DERIVED = frozenset({"top_z", "bottom_z"})  # columns of neuron that no shard has

token_neighbour = Table(  # empty where the build has none; sorted by token_id, rank
    "token_neighbour",
    metadata,
    Column("token_id", Integer, nullable=False),
    Column("rank", SmallInteger, nullable=False),  # from 1, nearest first, corrected for hubs
    Column("neighbour_id", Integer, nullable=False),
    Column("cosine", REAL, nullable=False),  # of the folded rows less their mean, three decimals
)

KIND_CODES = {"ffn": 0, "attention": 1}
SIGN_CODES = {"promotes": 1, "suppresses": -1}


def _pairs(name: str, *figures: str) -> Table:
    return Table(
        name,
        metadata,
        Column("neuron_id", Integer, nullable=False),
        Column("sign", SmallInteger, nullable=False),  # see SIGN_CODES
        Column("rank", SmallInteger, nullable=False),
        Column("token_id", Integer, nullable=False),
        *(Column(figure, REAL, nullable=False) for figure in figures),
    )


neuron_token = _pairs("neuron_token", "logit")  # sorted by neuron_id, sign descending, rank
# Sorted by token_id, sign descending, rank, neuron_id. z = (logit - mean) / std of the neuron, 0 for a constant one:
# what ranks hits, so that a search need not look up thousands of neurons to show a hundred.
token_neuron = _pairs("token_neuron", "z")
