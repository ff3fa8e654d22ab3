"""A row of facts for a family that has none: found by watching its code run on a small random model.

What a module reads and writes tells its place (probe.py has the model); what happens behind it when its output is
changed tells what it is for. Names are used only for what the config calls a number. The row has to pass the shapes and
all identities on that model, and on the checkpoint when it is loaded; else the family is refused, and the message says
at which point.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from db.errors import AtlasError, first_line
from db.lazy import lazy_import
from indexer.architecture import Architecture, Dimensions, Fusion, NormKind
from indexer.families import ARCHITECTURES, architecture_of, dimensions_of, epsilon_of
from indexer.probe import EPSILON, MULTIPLIER, TOKENS, Seen, changed, kept_in, named, random_model
from indexer.refusals import REFUSED
from indexer.weights import Unembedding, fused_rows, live_weights

if TYPE_CHECKING:
    from indexer import language_model
else:  # whose checkpoints ask for rows here
    language_model = lazy_import("indexer.language_model")

LAYERS = 2
TOLERANCE = 1e-4
"""Of the identities on the random model, as a share of the largest entry."""
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")


def row_of(config: Any) -> Architecture:
    """The family's row; the one that the generic rule finds where it has none.

    Raises:
        AtlasError: the family is refused by name, or no row fits it.
    """
    family = str(config.model_type)
    if family in ARCHITECTURES or family in REFUSED:
        return architecture_of(config)
    return _found(_Config(config))


class _Config:
    """A config as a key: by its content."""

    def __init__(self, config: Any) -> None:
        self.config, self.content = config, config.to_json_string(use_diff=False)

    def __hash__(self) -> int:
        return hash(self.content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Config) and self.content == other.content


@lru_cache(maxsize=8)
def _found(key: _Config) -> Architecture:
    return infer(key.config)


def infer(config: Any) -> Architecture:
    """The row that fits the code which transformers runs for a config.

    Raises:
        AtlasError: none does; the message names the fact or the identity, and the layer, that failed.
    """
    family = str(config.model_type)
    if config.get_text_config() is not config:
        raise _refused(family, "it reads more than text, and whether its language trunk alone is it is not known")
    try:
        row = _fitting(config, LAYERS)
        _require_equal_layers(config, row)
        numbers = [getattr(row, f"{what}_multiplier") for what in ("embedding", "residual", "logit")]
        if any(isinstance(one, float) for one in numbers) and _fitting(config, LAYERS + 1) != row:
            raise AtlasError("what it multiplies by depends on the number of layers")
    except AtlasError as error:
        raise _refused(family, getattr(error, "why", first_line(error))) from error
    except Exception as error:  # code that nobody here has read
        why = f"its code does not run as a language model's does ({type(error).__name__}: {first_line(error)})"
        raise _refused(family, why) from error
    return row


def _refused(family: str, why: str) -> AtlasError:
    return AtlasError(
        f"Models of the family “{family}” are not supported: it has no row in indexer/families.py, and the generic "
        f"rule finds none that fits: {why}. If it is built like a family that has one, add a row; indexer/README.md "
        "tells how."
    )


def _require_equal_layers(config: Any, row: Architecture) -> None:
    """All layers have the parameters of the first, so that what holds of the first few may hold of all."""
    with torch.device("meta"):
        layers = AutoModelForCausalLM.from_config(config).get_submodule(row.layers)
    held = [{name: tuple(one.shape) for name, one in layer.named_parameters()} for layer in layers]
    for place, one in enumerate(held):
        if other := sorted(dict(one.items() ^ held[0].items())):
            raise AtlasError(f"layer {place} is built otherwise than layer 0 ({other[0]})")


def _fitting(config: Any, layers: int) -> Architecture:
    probe = random_model(config, layers)
    row = _Reader(probe).row()
    _check(probe, row)
    return row


def _ids(vocabulary: int) -> Tensor:
    """A prompt longer than any window."""
    return (torch.arange(TOKENS) * 79 + 17) % vocabulary


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= TOLERANCE * (1e-6 + other.abs().max()))


def _factor(whole: Tensor, part: Tensor, what: str) -> float:
    """By which `part` gives `whole`."""
    factor = float((whole.double() * part.double()).sum() / part.double().square().sum())
    if not _is_same(factor * part, whole):
        raise AtlasError(f"{what} is no multiple of what it was expected to be")
    return 1.0 if abs(factor - 1) < 1e-5 else factor


class _Reader:
    """Facts of one model, in the order in which they lead to each other."""

    def __init__(self, module: Any) -> None:
        self.module, self.config = module, module.config
        self.ids = _ids(self.config.vocab_size)
        self.seen = self.watch(self.ids)
        self.layers = self._layers()
        first = f"{self.layers}.0"
        self.block = self.seen[first]
        self.parts = {
            name.removeprefix(f"{first}."): one for name, one in self.seen.items() if name.startswith(f"{first}.")
        }
        self.matrices = {name: one for name, one in self.parts.items() if one.is_matrix}
        self.d_model = self.block.made.shape[1]

    def watch(self, ids: Tensor) -> dict[str, Seen]:
        """What each module does in a pass, in the order in which they end."""
        with kept_in(self.module) as seen:
            self.run(ids)
        return seen

    def run(self, ids: Tensor) -> Tensor:
        """The last position's logits, [1, V]."""
        with torch.inference_mode():
            found: Tensor = self.module(ids[None], use_cache=False, logits_to_keep=1).logits[0]
        return found

    def watch_changed(self, part: str, change: Callable[[Tensor], Tensor]) -> dict[str, Seen]:
        """What the first layer's parts do while the output of one of them is changed."""
        with changed(self.parts[part].module, change):
            seen = self.watch(self.ids)
        first = f"{self.layers}.0."
        return {name.removeprefix(first): one for name, one in seen.items() if name.startswith(first)}

    def row(self) -> Architecture:
        """The row, whose identities are still to be checked."""
        attention, ffn, outside = self._attention(), self._ffn_matrices(), self._outside()
        reads = self._reads(attention, ffn)
        row = Architecture(
            **{"layers": self.layers, "norm": NormKind.RMS, "epsilon": 0.0, **outside, **attention, **ffn, **reads},
            max_positions=next((name for name in _POSITIONS if hasattr(self.config, name)), ""),
            conv1d=any(type(one.module).__name__ == "Conv1D" for one in self.matrices.values()),
            whole_batch=True,  # never wrong, and nobody has read the code
        )
        return replace(row, **self._norms(row), **self._multipliers(row))

    def _called(self, value: float, pattern: re.Pattern[str]) -> str | float:
        """What the config calls a number; the number itself, where it has no name or several."""
        content = self.config.to_dict()
        names = [name for name in named(content, pattern) if abs(content[name] - value) <= 2e-3 * abs(value)]
        return names[0] if len(names) == 1 else value

    def _layers(self) -> str:
        """The list whose members hand on to each other."""

        def is_chain(name: str, part: nn.Module) -> bool:
            if not isinstance(part, nn.ModuleList) or len(part) != self.config.num_hidden_layers:
                return False
            members = [self.seen.get(f"{name}.{place}") for place in range(len(part))]
            known = [one for one in members if one is not None and one.made.shape == one.given.shape]
            return len(known) == len(members) and all(_is_same(one.made, after.given) for one, after in pairwise(known))

        found: list[str] = [name for name, part in self.module.named_modules() if is_chain(name, part)]
        if len(found) != 1:
            raise AtlasError(f"its layers are not one list, each reading what the one before wrote ({found or 'none'})")
        return found[0]

    def _outside(self) -> dict[str, Any]:
        """Embedding, final norm and head."""
        names = {id(part): name for name, part in self.module.named_modules()}
        embedding, head = self.module.get_input_embeddings(), self.module.get_output_embeddings()
        if head is None or not hasattr(head, "weight"):
            raise AtlasError("it has no head that is a matrix")
        last = self.seen[f"{self.layers}.{self.config.num_hidden_layers - 1}"].made
        free = [one for name, one in self.seen.items() if not name.startswith(f"{self.layers}.") and one.is_leaf]
        norms = [one.name for one in free if _is_norm(one) and _is_same(one.given, last)]
        if len(norms) != 1:
            raise AtlasError(f"no norm stands between the last layer and the head, or several do ({norms or 'none'})")
        order = list(self.seen)
        early = [one for one in free if order.index(one.name) < order.index(f"{self.layers}.0")]
        normed = [
            one.name for one in early if one.made.shape == self.block.given.shape == one.given.shape and _changes(one)
        ]
        if len(normed) > 1:
            raise AtlasError(f"embeddings pass more than one module ({', '.join(normed)})")
        return {
            "embedding": names[id(embedding)],
            "head": names[id(head)],
            "final_norm": norms[0],
            "embedding_norm": normed[0] if normed else None,
        }

    def _attention(self) -> dict[str, Any]:
        """The sub-layer, its output matrix, and what its values and keys are computed by."""
        whole = [name for name, one in self.parts.items() if one.pattern is not None]
        outer = [name for name in whole if not any(name.startswith(f"{other}.") for other in whole)]
        if len(outer) != 1:
            raise AtlasError("layer 0 has no one module that gives its attention weights")
        pattern = self.parts[outer[0]].pattern
        assert pattern is not None  # as chosen
        if pattern.triu(1).abs().max() > 0:
            raise AtlasError("its attention looks ahead, so that it predicts no next tokens")
        inside = {name: one for name, one in self.matrices.items() if name.startswith(f"{outer[0]}.")}
        outputs = [name for name, one in inside.items() if one.made.shape[1] == self.d_model]
        if not outputs:
            raise AtlasError("attention identity at layer 0: no matrix of its attention writes to the residual stream")
        output = outputs[-1]
        mixed, heads = self.parts[output].given, pattern.shape[0]
        head_dim = mixed.shape[1] // heads
        fitting: dict[str, list[tuple[Fusion | None, int]]] = {}
        for name in inside:
            for fusion, kv_heads in _layouts(inside[name].made.shape[1], heads, head_dim):
                rows = fused_rows(_layout(fusion), _sizes(heads, kv_heads, head_dim), 1)
                values = inside[name].made[:, rows].reshape(TOKENS, kv_heads, head_dim)
                values = values.repeat_interleave(heads // kv_heads, dim=1)
                if name != output and _is_same(torch.einsum("hqk,khd->qhd", pattern, values).flatten(1), mixed):
                    fitting.setdefault(name, []).append((fusion, kv_heads))
        if len(fitting) != 1:
            raise AtlasError(
                "attention identity at layer 0: what its output matrix reads are no values weighted by the attention "
                f"({'several matrices fit' if fitting else 'no matrix gives such values'})"
            )
        (value, layouts), *_ = fitting.items()
        fusion, kv_heads = layouts[0]
        key = value if fusion else self._key(inside, {value, output}, kv_heads * head_dim)
        found = {"fused_qkv": fusion, "key": key, "value": value, "attention_output": output, "attention": outer[0]}
        sizes = _sizes(heads, kv_heads, head_dim)
        for one, _ in layouts if fusion else ():
            if not self._is_key(key, fused_rows(_layout(one), sizes, 0)) or self._is_key(key, slice(0, head_dim)):
                raise AtlasError("where its fused matrix holds the keys cannot be told")
        return found | self._attention_sizes(heads, kv_heads, head_dim)

    def _attention_sizes(self, heads: int, kv_heads: int, head_dim: int) -> dict[str, Any]:
        """What of them the config does not give under its usual names."""
        found: dict[str, Any] = {}
        if getattr(self.config, "num_key_value_heads", None) != kv_heads:
            found["kv_heads"] = None if kv_heads == heads else kv_heads
        if int(getattr(self.config, "head_dim", None) or self.d_model // heads) != head_dim:
            found["head_dim"] = head_dim
        return found

    def _key(self, inside: dict[str, Seen], others: set[str], width: int) -> str:
        """Of the matrices beside that of the values, the one that later positions look at."""
        found = [name for name, one in inside.items() if name not in others and one.made.shape[1] == width]
        found = [name for name in found if self._is_key(name, slice(None))]
        if len(found) != 1:
            raise AtlasError("which matrix computes its keys cannot be told")
        return found[0]

    def _is_key(self, name: str, columns: Any) -> bool:
        """Whether later positions' attention depends on what one position has there; on its query it does not."""
        place = 2

        def change(output: Tensor) -> Tensor:
            output[place, columns] = output[place, columns] * -2 + 1
            return output

        before, after = (
            next(one.pattern for one in parts.values() if one.pattern is not None)
            for parts in (self.parts, self.watch_changed(name, change))
        )
        return not torch.allclose(before[:, place + 1 :], after[:, place + 1 :], atol=1e-5)

    def _ffn_matrices(self) -> dict[str, Any]:
        """The FFN's output matrix, and those that it reads by, gate before up."""
        attention = next(name for name, one in self.parts.items() if one.pattern is not None).partition(".")[0]
        others = {name: one for name, one in self.matrices.items() if name.partition(".")[0] != attention}
        outputs = [name for name, one in others.items() if one.made.shape == self.block.made.shape]
        if not outputs or self._more_than_matrices():
            raise AtlasError(
                "FFN identity at layer 0: its FFN is no matrix that reads, an activation and a matrix that writes "
                f"({self._more_than_matrices() or 'no matrix writes to the residual stream'})"
            )
        output, width = outputs[-1], others[outputs[-1]].given.shape[1]
        keys = [name for name in others if name != output]
        widths = [others[name].made.shape[1] for name in keys]
        if widths not in ([width], [2 * width], [width, width]):
            raise AtlasError(f"FFN identity at layer 0: of its matrices {', '.join(keys)} some are not read as a FFN's")
        places = [(name, slice(None)) for name in keys]
        if widths == [2 * width]:
            places = [(keys[0], slice(0, width)), (keys[0], slice(width, None))]
        elif len(keys) == 2:
            places = sorted(places, key=lambda place: self._is_linear(output, *place))
        if len(places) == 2 and [self._is_linear(output, *place) for place in places] != [False, True]:
            raise AtlasError("which of its FFN's matrices is the gate, and which is multiplied by it, cannot be told")
        for name, rows in places:
            self._require_alone(output, name, rows.start or 0)
        shared = len(keys) == 1 or keys[0].rpartition(".")[0] == output.rpartition(".")[0]
        found = {
            "ffn": (shared and output.rpartition(".")[0]) or output,
            "ffn_output": output,
            "ffn_keys": tuple(name for name, _ in places),
            "fused_gate": widths == [2 * width],
        }
        return found if getattr(self.config, "intermediate_size", None) == width else found | {"ffn_width": width}

    def _more_than_matrices(self) -> str:
        """A parameter of the layer that stands in no module of its own, such as those of experts."""
        own = [name for name, one in self.block.module.named_parameters() if one.ndim > 2]
        return own[0] if own else ""

    def _is_linear(self, output: str, name: str, rows: slice) -> bool:
        """Whether an activation turns round with what that matrix yields: then no function stands between them."""

        def change(made: Tensor) -> Tensor:
            made[:, rows] = -made[:, rows]
            return made

        return _is_same(-self.watch_changed(name, change)[output].given, self.parts[output].given)

    def _require_alone(self, output: str, name: str, first: int) -> None:
        """Each activation depends on its own neuron's products alone."""

        def change(made: Tensor) -> Tensor:
            made[:, first] += 1
            return made

        moved = (self.watch_changed(name, change)[output].given - self.parts[output].given).abs().amax(dim=0)
        if not moved[0] > 0 or moved[1:].max() > TOLERANCE * moved[0]:
            raise AtlasError(f"FFN identity at layer 0: its activations hang on more than one row of “{name}” each")

    def _behind(self, made: Tensor) -> str | None:
        """The norm that reads what a sub-layer made."""
        norms = [name for name, one in self.parts.items() if _is_norm(one) and _is_same(one.given, made)]
        if len(norms) > 1:
            raise AtlasError(f"more than one norm reads what a sub-layer writes ({', '.join(norms)})")
        return norms[0] if norms else None

    def _before(self, read: Tensor) -> tuple[str | None, Tensor]:
        """The norm that a sub-layer reads through, and what that was given."""
        norms = [name for name, one in self.parts.items() if _is_norm(one) and _is_same(one.made, read)]
        if len(norms) > 1:
            raise AtlasError(f"more than one norm gives what a sub-layer reads ({', '.join(norms)})")
        return (norms[0], self.parts[norms[0]].given) if norms else (None, read)

    def _reads(self, attention: dict[str, Any], ffn: dict[str, Any]) -> dict[str, Any]:
        """The norms in front of and behind the sub-layers, and how these follow each other."""
        entered, parts = self.block.given, self.parts
        own = [parts[attention["attention_output"]].made, parts[ffn["ffn_output"]].made]
        whole = [parts[attention["attention"]].made, parts[ffn["ffn"]].made]
        alone = [_is_same(*pair) for pair in zip(whole, own, strict=True)]  # nothing is added in the sub-layer
        behind = [self._behind(made) if one else None for made, one in zip(whole, alone, strict=True)]
        wrote = [parts[norm].made if norm else made for norm, made in zip(behind, own, strict=True)]
        multiplier = _factor(
            self.block.made - entered, wrote[0] + wrote[1], "residual identity at layer 0: what is added"
        )
        attention_norm, read = self._before(parts[attention["value"]].given)
        if not _is_same(read, entered):
            raise AtlasError("reading identity at layer 0: its values do not read the layer's input through one norm")
        ffn_norm, read = self._before(parts[ffn["ffn_keys"][0]].given)
        parallel = _is_same(read, entered)
        if not parallel and not _is_same(read, entered + multiplier * wrote[0]):
            raise AtlasError("reading identity at layer 0: its FFN does not read the residual stream through one norm")
        return {
            "attention_norm": attention_norm,
            "attention_post_norm": behind[0],
            "ffn_norm": ffn_norm,
            "ffn_post_norm": behind[1],
            "parallel": parallel,
            "residual_inside": not all(alone),
            "residual_multiplier": "" if multiplier == 1 else self._called(multiplier, MULTIPLIER),
        }

    def _norms(self, row: Architecture) -> dict[str, Any]:
        """The kind of all norms, found by what each makes of vectors."""
        own = (row.attention_norm, row.attention_post_norm, row.ffn_norm, row.ffn_post_norm)
        norms = [self.module.get_submodule(f"{self.layers}.0.{name}") for name in own if name]
        norms += [self.module.get_submodule(name) for name in (row.final_norm, row.embedding_norm) if name]
        kinds = [_kind(norm, self.d_model) for norm in norms]
        epsilon = kinds[0][3]
        if any(kind[:3] != kinds[0][:3] or abs(kind[3] - epsilon) > 0.02 * epsilon for kind in kinds):
            raise AtlasError("its norms are of several kinds")
        norm, unit_offset, bare, _ = kinds[0]
        if (norm is NormKind.RMS and row.embedding_norm) or (norm is NormKind.LAYER and any(own[1::2])):
            raise AtlasError(f"its {norm} stands where only the other kind is known")
        called = self._called(epsilon, EPSILON)
        named = called if isinstance(called, str) else float(f"{epsilon:.1g}")
        return {"norm": norm, "unit_offset": unit_offset, "bare_norms": bare, "epsilon": named}

    def _multipliers(self, row: Architecture) -> dict[str, Any]:
        """What embeddings and logits are multiplied by, and the soft cap."""
        others = (self.ids + 5) % self.config.vocab_size
        seen = self.watch(others)
        if row.embedding_norm:
            first, second = self.seen[row.embedding_norm].made, seen[row.embedding_norm].made
        else:
            matrix = self.module.get_input_embeddings().weight
            first, second = matrix[self.ids], matrix[others]
        # At one place in two prompts, so that what is added for positions cancels.
        entered = self.block.given - seen[self.block.name].given
        factor = _factor(entered, first - second, "embeddings: what enters the first layer")
        found: dict[str, Any] = {}
        if abs(factor - self.d_model**0.5) < 1e-3:
            found["embedding_root"] = True
        elif factor != 1:
            found["embedding_multiplier"] = self._called(factor, MULTIPLIER)
        return found | self._logits(row)

    def _logits(self, row: Architecture) -> dict[str, Any]:
        norm, head = self.module.get_submodule(row.final_norm), self.module.get_submodule(row.head)
        vector = torch.randn(self.d_model, generator=torch.Generator().manual_seed(1))

        def logits(size: float) -> Tensor:
            """Of a vector behind the final norm."""
            with changed(norm, lambda made: (size * vector).expand_as(made)):
                return self.run(self.ids)[0].double()

        ends = [float(logits(size).abs().max()) for size in (1e5, 1e6)]
        cap = ends[1] if ends[1] < 1.01 * ends[0] else None
        size = 0.01 if cap else 1.0
        found = logits(size) if cap is None else cap * torch.atanh(logits(size) / cap)
        bias = getattr(head, "bias", None)
        own = (head.weight @ (size * vector) + (0.0 if bias is None else bias)).double()
        factor = _factor(found.float(), own.float(), "final norm identity: the head's output")
        facts: dict[str, Any] = {} if cap is None else {"soft_cap": self._called(cap, MULTIPLIER)}
        if factor != 1:
            called, divisor = self._called(factor, MULTIPLIER), self._called(1 / factor, MULTIPLIER)
            facts |= {"logit_divisor": divisor} if isinstance(divisor, str) else {"logit_multiplier": called}
        return facts


def _changes(one: Seen) -> bool:
    return not one.is_matrix and not _is_same(one.made, one.given)


def _is_norm(one: Seen) -> bool:
    return one.is_leaf and one.made.shape == one.given.shape and _changes(one)


def _layout(fusion: Fusion | None) -> Architecture:
    return replace(next(iter(ARCHITECTURES.values())), fused_qkv=fusion)


def _sizes(heads: int, kv_heads: int, head_dim: int) -> Dimensions:
    return Dimensions(1, heads * head_dim, heads, kv_heads, head_dim, 1, 1, 1)


def _layouts(width: int, heads: int, head_dim: int) -> Iterator[tuple[Fusion | None, int]]:
    """How a matrix of so many rows may hold values, and for how many heads; of ways that are one, the first."""
    if width % head_dim:
        return
    alone, fused = width // head_dim, width // head_dim - heads
    if alone <= heads and heads % alone == 0:
        yield None, alone
    if fused > 0 and fused % 2 == 0 and heads % (fused // 2) == 0:
        yield Fusion.GROUPED, fused // 2
        if fused > 2:  # with one key-value head both are one
            yield Fusion.CONCATENATED, fused // 2


def _kind(norm: nn.Module, width: int) -> tuple[NormKind, bool, bool, float]:
    """Kind, whether it multiplies by 1 + its weight, whether it has no weight, and ε."""
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(64, width, generator=generator)
    vectors -= vectors.mean(dim=1, keepdim=True)
    vectors /= vectors.square().mean(dim=1, keepdim=True).sqrt()  # mean 0, mean square 1
    with torch.inference_mode():
        shift = norm(torch.zeros(1, width))
        centres = torch.allclose(norm(vectors + 1) - shift, norm(vectors) - shift, atol=1e-4)

        def ratio(size: float) -> float:
            """What vectors of that size yield, as a share of what they yield at size 1."""
            small, full = (norm(one * vectors) - shift for one in (size, 1.0))
            return _factor(small, full, "reading identity: what a norm makes of small vectors")

        epsilon = 1e-2
        for _ in range(4):  # best told where ε is as large as the mean square
            size = epsilon**0.5
            share = ratio(size) ** 2
            epsilon = max(size**2 * (1 - share) / (share - size**2), 1e-12)
        gain = ((norm(vectors) - shift) * (1 + epsilon) ** 0.5 * vectors).mean(dim=0) / vectors.square().mean(dim=0)
    weight = getattr(norm, "weight", None)
    if not centres and shift.abs().max() > 0:
        raise AtlasError("a norm of it adds a vector and does not centre")
    fits = [
        (unit, weight is None)
        for unit in (False, True)
        if _is_same(gain, torch.ones(width) if weight is None else weight + unit)
    ]
    if not fits:
        raise AtlasError("a norm of it multiplies by neither its weight nor 1 + its weight")
    return (NormKind.LAYER if centres else NormKind.RMS, *fits[0], epsilon)


def _check(module: nn.Module, row: Architecture) -> None:
    """Shapes and all five identities on the random model.

    Raises:
        AtlasError: one fails; the message names it and the layer.
    """
    config: Any = module.config
    family, size = str(config.model_type), dimensions_of(config, row)
    weights = live_weights(module, row, size)
    language_model.check_shapes(weights, family)
    unembedding = Unembedding.from_weights(weights, epsilon_of(config, row))
    language_model.check_pass(module, weights, unembedding, family, _ids(size.vocabulary), TOLERANCE)
