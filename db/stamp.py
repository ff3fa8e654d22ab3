"""What a build says about itself: which model, which unembedding, which code."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BuildStamp:
    """One row of the table ``build``; the fields are its columns."""

    build_id: str
    """Letters, digits, ``.``, ``_``, ``-``: part of the file's name."""
    schema_version: int
    code_version: str
    created_at: str
    """ISO 8601, UTC."""
    model: str
    family: str
    """The config's ``model_type``."""
    checkpoint: str
    """Hub revision, or the hash of the weights."""
    unembedding_hash: str
    """Of the unembedding with the final norm folded in: ties the catalogue to its model."""
    tokenizer_hash: str
    layers: int
    d_model: int
    vocabulary: int
    """Rows of the unembedding; token ids run from 0 to one less."""
    ffn_neurons: int
    """In the whole model."""
    attention_neurons: int
    """In the whole model."""
    heads: int
    """A layer."""
    head_dim: int
    depth: int
    """Tokens stored at each end of a neuron."""
    tokenizer_json: str | None = None
    """The ``tokenizers`` file; absent where the tokenizer has none."""

    @property
    def neurons(self) -> int:
        """FFN and attention neurons together."""
        return self.ffn_neurons + self.attention_neurons
