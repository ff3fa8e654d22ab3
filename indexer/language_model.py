"""A loaded model with everything the analysis needs, handed out only if its family's row fits it.

Five identities (README, Method) are checked on one short probe, and the sizes of the matrices in every layer:

1. residual: layer input + attention output + FFN output = the next layer's input
2. FFN: Σ activation × value vector + output bias = FFN output
3. attention: Σ over heads, dimensions, source positions of activation × value vector + output bias = attention output
   (of experts: chosen ones and the shared one, against what transformers' own code for experts yields)
4. final norm: the frozen norm's logits at the final hidden state = the model's own output
5. reading: what values and FFN keys are computed as = key vector · residual stream / the norm's scale + constants
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoModelForCausalLM

from db.errors import AtlasError, first_line
from indexer.architecture import Architecture, Dimensions
from indexer.checkpoint import Checkpoint
from indexer.dequantised import quietly
from indexer.device import Placement, chosen_device, chosen_dtype, page_out, put
from indexer.experts import READ, as_in_transformers, prepare
from indexer.families import dimensions_of
from indexer.forward import ResidualStream, capture, output_gradients, outputs_kept
from indexer.probe import config_of_first
from indexer.refusals import SAVE_AGAIN
from indexer.stored import PLAIN, TRUNK_NAMES
from indexer.tokens import TokenBytes
from indexer.weights import Unembedding, Weights, fused_rows, live_weights

TOLERANCE = 1e-3
"""Largest deviation, as a share of the right side's largest entry. float32 sums over some thousands of terms stay
below 1e-5; a wrong matrix, a missing bias or a wrong group mapping is off by the order of 1.
"""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """One model in memory, computing in float32. `forward` is safe to call from several threads: one pass runs at a
    time.
    """

    name: str
    checkpoint: Checkpoint
    family: str
    module: torch.nn.Module
    tokenizer: Any
    tokens: TokenBytes
    architecture: Architecture
    dimensions: Dimensions
    weights: Weights
    unembedding: Unembedding
    placement: Placement
    lock: threading.RLock = field(default_factory=threading.RLock)

    def forward(self, token_ids: list[int]) -> ResidualStream:
        """One hooked pass; the last token is the analysed position."""
        with self.lock:
            return capture(self.module, self.architecture, self.dimensions, torch.tensor(token_ids))

    def output_gradients(self, token_ids: Tensor, target: int) -> tuple[Tensor, Tensor]:
        """Of log p(target), by attention's and the FFN's output of each layer at the last position, [L, d] each."""
        with self.lock:
            size = self.dimensions
            multiplier = size.residual_multiplier
            return output_gradients(self.module, self.architecture, size.layers, token_ids, target, multiplier)


def load_model(checkpoint: Checkpoint, *, layers: int | None = None) -> LanguageModel:
    """Load to where the settings say, and check the family's row by the identities, in float32.

    Args:
        checkpoint: what to load.
        layers: how many of the first layers to load, to check a large model's row without holding it; None loads all.

    Raises:
        AtlasError: the family is unknown, the files are unreadable or change meanwhile, an identity fails, or the
            device is not there or cannot run the model.
    """
    device = chosen_device()
    _ = checkpoint.files
    config = checkpoint.config if layers is None else config_of_first(checkpoint.config, layers)
    with ThreadPoolExecutor(1) as aside:
        aside.submit(lambda: checkpoint.identity)  # may have to read all weights once more
        stored = checkpoint.stored.values()
        dtype = chosen_dtype(device, sum(math.prod(one.shape) for one in stored), checkpoint.stored_dtype)
        module = _load_exactly(checkpoint, config, dtype)
        with _able(checkpoint, device):
            placement = put(module.eval(), device, dtype)
    _ = checkpoint.identity
    if not checkpoint.is_unchanged:
        raise AtlasError(f"The files in {checkpoint.folder} changed while they were read. Wait, then try again.")
    with _able(checkpoint, device):
        model = _described(checkpoint, config, module, placement)
        check_shapes(model.weights, model.family)
        check_row(model)
    return model


def _described(checkpoint: Checkpoint, config: Any, module: torch.nn.Module, placement: Placement) -> LanguageModel:
    architecture = checkpoint.architecture
    dimensions = dimensions_of(config, architecture)
    prepare(module, [name for name, _ in _experts(architecture, dimensions)])
    weights, tokens = live_weights(module, architecture, dimensions), TokenBytes(checkpoint.tokenizer)
    return LanguageModel(
        name=checkpoint.name,
        checkpoint=checkpoint,
        family=str(config.model_type),
        module=module,
        tokenizer=checkpoint.tokenizer,
        tokens=tokens,
        architecture=architecture,
        dimensions=dimensions,
        weights=weights,
        unembedding=Unembedding.from_weights(weights, checkpoint.epsilon(), tokens),
        placement=placement,
    )


@contextmanager
def _able(checkpoint: Checkpoint, device: torch.device) -> Iterator[None]:
    """Says what to do where a device has too little memory or lacks an operation, or the config is another model's."""
    try:
        yield
    except RuntimeError as error:
        if device.type == "cpu":
            raise AtlasError(
                f"{checkpoint.name} cannot be run ({first_line(error)}). If memory lacks, it takes a larger machine; "
                "else its config.json may be another model's. Put the one beside the files that they were saved with."
            ) from error
        raise AtlasError(
            f"{checkpoint.name} cannot be run on {device} ({first_line(error)}). Set ATLAS_DTYPE to the type of its "
            "files where memory lacks, or ATLAS_DEVICE=cpu."
        ) from error


def check_row(model: LanguageModel, token_ids: list[int] | None = None, tolerance: float = TOLERANCE) -> None:
    """Check all five identities on one forward pass, of a short probe where nothing else is given.

    Raises:
        AtlasError: an identity does not hold; the message names it and the layer.
    """
    ids = probe_tokens(model.dimensions.vocabulary) if token_ids is None else torch.tensor(token_ids)
    try:
        with model.lock:
            stream = check_pass(model.module, model.weights, model.unembedding, model.family, ids, tolerance)
    except UnfitError as error:
        named = model.module.named_parameters()
        if (bad := next((name for name, one in named if not one.isfinite().all()), None)) is None:
            raise
        raise AtlasError(
            f"The weights of {model.name} hold numbers that are not finite (in {bad}). Save or fetch the model again."
        ) from error
    _check_experts(model, stream, tolerance)


def check_pass(
    module: torch.nn.Module,
    weights: Weights,
    unembedding: Unembedding,
    family: str,
    token_ids: Int[Tensor, " T"],
    tolerance: float,
) -> ResidualStream:
    """The same of a module alone, whose experts are run in our way only; returns the pass."""
    row, size = weights.architecture, weights.dimensions
    layers = ((f"{row.layers}.{layer}", _read_by(row, size, layer)) for layer in range(size.layers))
    with outputs_kept(module, [f"{layer}.{part}" for layer, parts in layers for part in parts]) as outputs:
        stream = capture(module, row, size, token_ids)
    check_identities(stream, weights, unembedding, family, tolerance)
    _check_readings(stream, outputs, weights, unembedding, family, tolerance)
    return stream


def _read_by(row: Architecture, size: Dimensions, layer: int) -> list[str]:
    """The modules of a layer that compute values and FFN keys."""
    found = [row.value]
    if row.mixture is None or size.experts is None or not size.has_experts(layer):
        found += row.ffn_keys
    else:
        found += [row.mixture.of_shared(row.ffn, part) for part in row.ffn_keys if size.experts.shared]
        found.append(f"{row.mixture.module}.{READ}")
    return list(dict.fromkeys(found))


def _experts(row: Architecture, size: Dimensions) -> list[tuple[str, int]]:
    """The modules of experts, and their layers."""
    if row.mixture is None or size.experts is None:
        return []
    return [(f"{row.layers}.{layer}.{row.mixture.module}", layer) for layer in size.experts.layers]


def _check_experts(model: LanguageModel, stream: ResidualStream, tolerance: float) -> None:
    """Is what experts add as they are run here what they add as transformers runs them?"""
    names = _experts(model.architecture, model.dimensions)
    if not names:
        return
    with model.lock, as_in_transformers(model.module):
        plain = model.forward(stream.token_ids.tolist())
    for _, layer in names:
        _demand(model.family, tolerance, "experts", layer, stream.ffn_output[layer], plain.ffn_output[layer])


def compare_with_loaded(checkpoint: Checkpoint) -> None:
    """Is what a catalogue is made of, as it is read from the files, the same as in the model that transformers loads?

    Bit by bit: every value vector of every layer, the final norm and the unembedding. The model is loaded as a map of
    its files, in their own type of numbers, so that it takes no memory of its own.

    Raises:
        AtlasError: the model cannot be loaded, or differs; the message names the tensor.
    """
    module = _load_module(checkpoint, checkpoint.config, checkpoint.stored_dtype)
    own = checkpoint.weights()
    loaded = live_weights(module, own.architecture, own.dimensions)
    for name in own.catalogued():
        read, used = own.read(name), loaded.read(name)
        if (read is None) != (used is None) or (read is not None and used is not None and not _same(read, used)):
            raise AtlasError(
                f"“{name}” as it is read from {checkpoint.folder} is not that of the model which transformers loads "
                f"there. A catalogue of it would be wrong; save the model to a new folder: {SAVE_AGAIN}."
            )
        del read  # which has the same pages
        if used is not None:
            page_out(used)  # or all of the model would be in memory in the end


def _same(read: Tensor, used: Tensor) -> bool:
    """Bit by bit, so that NaN is itself."""
    bits = (one.contiguous().view(torch.uint8) for one in (read.to(used.dtype), used))
    return read.shape == used.shape and torch.equal(*bits)


def _load_exactly(checkpoint: Checkpoint, config: Any, dtype: torch.dtype) -> torch.nn.Module:
    """In that type where it rounds nothing that the files hold, nor what transformers computes beside it (such as the
    factor of Gemma 3's embeddings); else in float32.
    """
    if all(PLAIN[one.dtype] is dtype for one in checkpoint.stored.values()):
        module = _load_module(checkpoint, config, dtype)
        if dtype is torch.float32 or not any(one.dtype is dtype for one in module.buffers()):
            return module
    return _load_module(checkpoint, config, torch.float32)


def _load_module(checkpoint: Checkpoint, config: Any, dtype: torch.dtype) -> torch.nn.Module:
    _ = checkpoint.stored  # refuses, with its reason, what would not load
    try:
        with quietly():
            module, report = AutoModelForCausalLM.from_pretrained(
                checkpoint.folder,
                config=config,
                dtype=dtype,
                attn_implementation="eager",  # the only one that returns the attention weights
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                key_mapping={f"^{old}": new for old, new in TRUNK_NAMES.items()} if checkpoint.wrapper else None,
            )
    except Exception as error:  # transformers, safetensors and torch each raise their own
        raise AtlasError(f"The model in {checkpoint.folder} cannot be loaded ({first_line(error)}).") from error
    if lacking := report["missing_keys"]:
        raise AtlasError(
            f"transformers does not find {', '.join(sorted(lacking)[:3])} in {checkpoint.folder}, and would draw it at "
            f"random. Save the model again: {SAVE_AGAIN}."
        )
    found: torch.nn.Module = module
    return found


def _demand(family: str, tolerance: float, identity: str, layer: int | None, got: Tensor, expected: Tensor) -> None:
    deviation = (got - expected).abs().max().item()
    allowed = tolerance * max(expected.abs().max().item(), 1e-6)
    if not deviation <= allowed:  # also refuses NaN
        where = "" if layer is None else f" at layer {layer}"
        raise _unfit(family, f"the {identity} identity fails{where} (off by {deviation:.3g}, allowed {allowed:.3g})")


def check_identities(
    stream: ResidualStream, weights: Weights, unembedding: Unembedding, family: str, tolerance: float = TOLERANCE
) -> None:
    """Check the first four on one forward pass.

    Raises:
        AtlasError: an identity does not hold; the message names it and the layer.
    """
    demand = partial(_demand, family, tolerance)

    for layer in range(stream.ffn_activation.shape[0]):
        added = stream.layer_input[layer] + stream.attention_output[layer] + stream.ffn_output[layer]
        demand("residual", layer, added, stream.layer_input[layer + 1])

        values = weights.ffn_values(layer)
        written = stream.ffn_activation[layer, :, : len(values)] @ values
        routing = None if stream.routing is None else stream.routing[layer]
        demand("FFN", layer, _with(written, weights.ffn_bias(layer, routing)), stream.ffn_output[layer])

        # [H, T, D] summed over source positions, heads and dimensions joined in the value matrix's row order
        mixed = stream.attention_activation(layer).sum(dim=1).flatten()
        written = mixed @ weights.attention_values(layer)
        demand("attention", layer, _with(written, weights.attention_bias(layer)), stream.attention_output[layer, -1])

    hidden = stream.layer_input[-1, -1]
    demand("final norm", None, unembedding.logits(hidden, unembedding.scale(hidden)), stream.logits)


def _check_readings(
    stream: ResidualStream,
    outputs: Mapping[str, Float[Tensor, "T width"]],
    weights: Weights,
    unembedding: Unembedding,
    family: str,
    tolerance: float,
) -> None:
    """Check the fifth on the same pass; `outputs` of the modules that compute values and FFN keys, by name. Every norm
    is of the kind and the ε of the final one.
    """
    row = weights.architecture
    values = fused_rows(row, weights.dimensions, 1)
    for layer in range(weights.dimensions.layers):
        read = stream.layer_input[layer]
        sides = [(row.value, values, row.attention_norm, read, weights.value_projection_rows(layer))]
        if not row.parallel:
            read = read + stream.attention_output[layer]
        if weights.dimensions.has_experts(layer):
            _check_experts_readings(read, outputs, weights, unembedding, family, layer, tolerance)
        else:
            for place, part in enumerate(row.ffn_keys):
                sides.append((part, weights.key_rows(place), row.ffn_norm, read, weights.ffn_keys(layer, place)))
        for place, (part, rows, norm, seen, keys) in enumerate(sides):
            folded, constant = weights.reading(layer, norm, keys)
            bias = weights.optional(f"{row.layers}.{layer}.{part}.bias")
            scale = 1.0 if norm is None else unembedding.scale(seen)
            found = seen @ folded.T / scale + constant
            if place == 0:
                found = found / weights.latent_scale(layer, seen, scale)
            _demand(
                family,
                tolerance,
                f"reading (“{part}”)",
                layer,
                found if bias is None else found + bias[rows],
                outputs[f"{row.layers}.{layer}.{part}"][:, rows],
            )


def _check_experts_readings(
    read: Float[Tensor, "T d"],
    outputs: Mapping[str, Float[Tensor, "T width"]],
    weights: Weights,
    unembedding: Unembedding,
    family: str,
    layer: int,
    tolerance: float,
) -> None:
    """The same of what the experts of one layer read, where they are chosen."""
    row, experts = weights.architecture, weights.dimensions.experts
    assert row.mixture is not None
    assert experts is not None
    name = f"{row.layers}.{layer}.{row.mixture.module}.{READ}"
    gates_and_ups = outputs[name].view(len(read), experts.count, 2, experts.width)
    for place, part in enumerate(row.ffn_keys):
        expected = gates_and_ups[:, :, place].flatten(1)
        if experts.shared:
            shared = outputs[f"{row.layers}.{layer}.{row.mixture.of_shared(row.ffn, part)}"]
            shared = shared[:, place * experts.shared :][:, : experts.shared] if row.fused_gate else shared
            expected = torch.cat([shared, expected], dim=1)
        folded, constant = weights.reading(layer, row.ffn_norm, weights.ffn_keys(layer, place))
        found = read @ folded.T / (1.0 if row.ffn_norm is None else unembedding.scale(read)) + constant
        bias, known = weights.ffn_key_bias(layer, place), ~expected.isnan()
        found = found if bias is None else found + bias
        _demand(family, tolerance, f"reading (“{part}”, experts)", layer, found[known], expected[known])


def check_shapes(weights: Weights, family: str) -> None:
    """Are the row's matrices there, and of the sizes that the config gives?

    Raises:
        AtlasError: one is missing or of another shape; the message names it and the layer.
    """
    size, row = weights.dimensions, weights.architecture
    kv_width = size.kv_heads * size.head_dim
    expected = [
        (row.attention_output, weights.attention_values, (size.attention_width, size.d_model)),
        (row.value, weights.value_projection_rows, (kv_width, size.d_model)),
        (row.key, weights.key_projection_rows, (size.kv_heads * (size.key_dim or size.head_dim), size.d_model)),
    ]
    for layer in range(size.layers):
        for part, read, shape in (*expected, *_expected_of_ffn(weights, layer)):
            try:
                found = tuple(read(layer).shape)
            except AtlasError as error:
                raise _unfit(family, f"layer {layer} has no “{part}” ({error})") from error
            if found != shape:
                raise _unfit(family, f"“{part}” at layer {layer} is {found}, and {shape} was expected")


def _expected_of_ffn(weights: Weights, layer: int) -> list[tuple[str, Callable[[int], Tensor], tuple[int, ...]]]:
    """What the FFN of a layer must hold."""
    size, row = weights.dimensions, weights.architecture
    if row.mixture is None or size.experts is None or not size.has_experts(layer):
        shape = (size.ffn_neurons(layer), size.d_model)
        last = len(row.ffn_keys) - 1
        keys = partial(weights.ffn_keys, place=last)
        return [(row.ffn_output, weights.ffn_values, shape), (row.ffn_keys[last], keys, shape)]
    experts, module = size.experts, row.mixture.module
    shapes: dict[str, tuple[int, ...]] = {}
    for part, shape in (
        ("down_proj", (size.d_model, experts.width)),
        ("gate_up_proj", (2 * experts.width, size.d_model)),
    ):
        shapes[f"{module}.{part}"] = (experts.count, *(shape[::-1] if row.mixture.transposed else shape))
    if experts.shared:
        shapes[row.mixture.of_shared(row.ffn, row.ffn_output) + ".weight"] = (size.d_model, experts.shared)
        for part in row.ffn_keys:
            wide = (1 + row.fused_gate) * experts.shared
            shapes[row.mixture.of_shared(row.ffn, part) + ".weight"] = (wide, size.d_model)

    def read(part: str, layer: int) -> Tensor:
        return weights.tensor(f"{row.layers}.{layer}.{part}")

    return [(part, partial(read, part), shape) for part, shape in shapes.items()]


class UnfitError(AtlasError):
    """A row does not fit a model; `why` names the identity or the matrix, and the layer."""

    def __init__(self, family: str, why: str) -> None:
        self.why = why
        super().__init__(
            f"This model does not fit the architecture row of “{family}”: {why}. Figures for it would be wrong, so it "
            "is refused; its row in indexer/families.py needs mending."
        )


def _unfit(family: str, why: str) -> AtlasError:
    return UnfitError(family, why)


def probe_tokens(vocabulary: int) -> Tensor:
    """A short, fixed, arbitrary prompt."""
    return (torch.arange(6) * 7919 + 17) % vocabulary


def _with(vector: Tensor, bias: Tensor | None) -> Tensor:
    return vector if bias is None else vector + bias
