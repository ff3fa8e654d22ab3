"""A corpus through a model: documents -> windows -> batches -> what every neuron did at every token, layer by layer.

Batches follow from the corpus alone, so that whoever runs some of them runs the same. A batch's windows are filled up
on the right, which no token to the left of it sees. Legend: N = tokens of a batch, n = neurons of a layer's kind.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.activations import ACT2FN

from db.errors import AtlasError
from db.texts.publish import Window
from indexer.architecture import Architecture, Dimensions
from indexer.corpus import Document
from indexer.families import epsilon_of
from indexer.forward import LayerNeurons, hooked
from indexer.language_model import LanguageModel
from indexer.tokens import TokenBytes

WINDOW = 256
_TOKENS = 2048  # of a batch, filled up
_NUMBERS = 2**26  # of a layer's activations in a batch, at most
_SORTED = 256  # windows that are sorted by length together
_FUNCTIONS = ("hidden_act", "hidden_activation", "activation_function")


@dataclass(frozen=True)
class Batch:
    """Windows that are run together; `number` counts from 0."""

    number: int
    windows: tuple[Window, ...]

    @cached_property
    def tokens(self) -> int:
        return sum(len(window.token_ids) for window in self.windows)


def windows_of(documents: Iterable[Document], tokenizer: Any, length: int) -> Iterator[Window]:
    """Every document's tokens, cut without overlap; a document of no token has no window."""
    number = 0
    for document in documents:
        ids = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        for first in range(0, len(ids), length):
            yield Window(number, document.number, first, tuple(ids[first : first + length]))
            number += 1


def batches_of(windows: Iterator[Window], limit: int) -> Iterator[Batch]:
    """Windows of similar length together, as many as have `limit` tokens once they are filled up; at least one."""
    number = 0
    while some := list(islice(windows, _SORTED)):
        some.sort(key=lambda window: (len(window.token_ids), window.window_id))
        while some:
            count = next((at for at in range(1, len(some)) if (at + 1) * len(some[at].token_ids) > limit), len(some))
            yield Batch(number, tuple(some[:count]))
            number, some = number + 1, some[count:]


def batch_tokens(size: Dimensions) -> int:
    """`limit` of `batches_of` for a model: fewer where layers are very wide, as those of many experts are."""
    return max(1, min(_TOKENS, _NUMBERS // max(size.ffn_width, size.attention_width)))


def longest_window(size: Dimensions, tokens: TokenBytes, wanted: int | None) -> int:
    """The length of windows: what is wanted, or the usual as far as the model's positions reach.

    Raises:
        AtlasError: more is wanted than the model takes.
    """
    most = size.max_positions - len(tokens.added[0])
    if wanted is not None and not 1 <= wanted <= most:
        raise AtlasError(f"--window {wanted}: give 1 to {most}, which is all that the model takes.")
    return min(WINDOW, most) if wanted is None else wanted


class Activations(NamedTuple):
    """What the neurons of one layer did at the tokens of a batch, window after window.

    Attributes:
        layer: its number.
        ffn: [N, n]; what multiplies the value vectors, as `ResidualStream.ffn_activation` has it.
        gates: [N, n]; whether what the gate's function is given is positive; None where there are no signs to tell.
        attention: [N, a]; the input of the output projection, summed over source positions; None where not asked for.
    """

    layer: int
    ffn: Float[Tensor, "N n"]
    gates: Bool[Tensor, "N n"] | None
    attention: Float[Tensor, "N a"] | None


class Reader:
    """Runs batches through a model. One pass at a time: `LanguageModel.lock` is held meanwhile.

    Attributes:
        model: the model.
        attention: whether attention neurons are looked at.
        gated: whether the signs of gate and up projection can be told.
    """

    def __init__(self, model: LanguageModel, *, attention: bool = False) -> None:
        self.model, self.attention = model, attention
        self.gated = signs_are_known(model.module.config, model.architecture)
        self._before = model.tokens.added[0]

    def run(self, batch: Batch, told: Callable[[Activations], None], *, hooks: bool = True) -> None:
        """One pass; `told` is called as each layer ends. `hooks`: False runs the model alone.

        Raises:
            AtlasError: the tokenizer makes tokens that the model has not.
        """
        model, row = self.model, self.model.architecture
        ids, rows = self._filled_up(batch)
        neurons = LayerNeurons(
            row, model.dimensions, epsilon_of(model.module.config, row), self.gated, attention=self.attention
        )

        def tell(layer: int) -> Callable[..., None]:
            def hook(ffn: Tensor, gates: Tensor | None, attention: Tensor | None) -> None:
                found = (ffn, None if gates is None else gates > 0, attention)
                own = [one if rows is None or one is None else one.index_select(0, rows) for one in found]
                told(Activations(layer, _there(own[0]), own[1], own[2]))

            return hook

        with model.lock, hooked() as add, torch.inference_mode():
            for layer in range(model.dimensions.layers) if hooks else ():
                neurons.watch(add, model.module.get_submodule(f"{row.layers}.{layer}"), layer, tell(layer))
            trunk: Any = getattr(model.module, "base_model", model.module)  # without the head
            trunk(ids, use_cache=False, **({"logits_to_keep": 1} if trunk is model.module else {}))

    def _filled_up(self, batch: Batch) -> tuple[Int[Tensor, "B T"], Int[Tensor, " N"] | None]:
        """Token ids, and which of all B·T places are the windows' own; None: all."""
        start, longest = len(self._before), max(len(window.token_ids) for window in batch.windows)
        vocabulary, device = self.model.dimensions.vocabulary, next(self.model.module.parameters()).device
        ids = torch.zeros(len(batch.windows), start + longest, dtype=torch.long)
        own = torch.zeros(ids.shape, dtype=torch.bool)
        for place, window in enumerate(batch.windows):
            end = start + len(window.token_ids)
            ids[place, :end] = torch.tensor([*self._before, *window.token_ids])
            own[place, start:end] = True
        if int(ids.max()) >= vocabulary:
            raise AtlasError(
                f"The tokenizer makes token {int(ids.max())} of document {_with_token(batch, vocabulary)}, but "
                f"{self.model.name} has only {vocabulary} tokens. Leave that document out, or give the model's own "
                "tokenizer."
            )
        whole = bool(own.all())
        return ids.to(device), None if whole else own.flatten().nonzero().flatten().to(device)


def _there(found: Tensor | None) -> Tensor:
    assert found is not None
    return found


def _with_token(batch: Batch, vocabulary: int) -> int:
    return next(window.document for window in batch.windows if max(window.token_ids) >= vocabulary)


def signs_are_known(config: Any, row: Architecture) -> bool:
    """Whether FFNs are gated by a function that keeps signs: then the gate's sign and the activation's tell the sign of
    the up projection.
    """
    named = (getattr(config, option, None) for option in _FUNCTIONS)
    name = next((one for one in named if isinstance(one, str)), "")
    if len(row.ffn_keys) != 2 or name not in ACT2FN:
        return False
    given = torch.linspace(-8, 8, 400)  # without 0
    signs = ACT2FN[name](given).sign()
    return bool(((signs == given.sign()) | ((signs == 0) & (given < 0))).all())
