"""A small random model of a config's code, to see what its modules do: of the first layers, with few tokens, drawn so
that every parameter matters, with ε and multipliers far from their defaults, and windows shorter than a prompt.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from db.errors import AtlasError, first_line
from indexer.forward import hooked

TOKENS, VOCABULARY, WINDOW = 12, 256, 4
EPSILON, MULTIPLIER = re.compile("eps"), re.compile("multiplier|scal|cap")
_CLIP = re.compile("clip")


def config_of_first(config: Any, layers: int, changes: dict[str, Any] | None = None) -> Any:
    """The config of the same model with its first layers only, and with other changes."""
    whole = config.num_hidden_layers
    kept = min(layers, whole)
    content = config.to_dict()
    # Some options have an entry a layer, as configs check.
    each = {name: one[:kept] for name, one in content.items() if isinstance(one, list) and len(one) == whole}
    fewer = {**content, **each, "num_hidden_layers": kept}
    if "attention_types" in fewer:  # GPT-Neo's way to write attention_layers
        fewer["attention_types"] = [[fewer["attention_layers"], 1]]
    return type(config).from_dict(fewer | (changes or {}))


def random_model(config: Any, layers: int) -> nn.Module:
    """The model on which a family is read: the first of these changes of the config that its code takes."""
    content = config.to_dict()
    small = {name: None for name in content if name.endswith("_token_id")} | {"vocab_size": VOCABULARY}
    short = {name: WINDOW for name, one in content.items() if "window" in name and type(one) is int and one > WINDOW}
    clips = {name: 0.05 for name, one in content.items() if _CLIP.search(name) and _is_number(one) and one}
    telling = {name: 0.02 + 0.01 * place for place, name in enumerate(named(content, EPSILON))}
    ones = [name for name in named(content, MULTIPLIER) if content[name] == 1]
    telling |= {name: 1.25 + 0.12 * place for place, name in enumerate(ones)}
    problem: Exception = AtlasError("nothing was tried")
    for changes in (small | short | telling, small | telling, small, {}):
        try:
            with torch.random.fork_rng(devices=[]):
                fewer = config_of_first(config, layers, changes | clips)
                module = AutoModelForCausalLM.from_config(fewer, dtype=torch.float32, attn_implementation="eager")
            _draw(module.eval().requires_grad_(False))
            with torch.inference_mode():
                module(torch.zeros(1, TOKENS, dtype=torch.long), use_cache=False, logits_to_keep=1)
        except Exception as error:  # code that nobody here has read
            problem = error
        else:
            found: nn.Module = module
            return found
    raise AtlasError(f"its code does not run as a language model's does ({first_line(problem)})") from problem


def named(content: dict[str, Any], pattern: re.Pattern[str]) -> list[str]:
    """The config's options of real numbers that are called so."""
    return [name for name, one in content.items() if pattern.search(name) and isinstance(one, float)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _draw(module: nn.Module) -> None:
    """Every parameter so that it matters, whether norms multiply by it or by one more."""
    generator = torch.Generator().manual_seed(0)
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    for name, parameter in module.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim < 2:
            if parameter.numel() > 1:
                parameter.copy_(0.3 * drawn + 0.6 * name.endswith("weight"))
        else:
            parameter.copy_(0.5 * drawn if id(parameter) in embeddings else 1.5 * drawn / parameter.shape[-1] ** 0.5)


# What its modules do


@dataclass(frozen=True, eq=False)
class Seen:
    """A module's first call: what it was given and what it made, [T, width] each; and the attention pattern in it."""

    name: str
    module: nn.Module
    given: Tensor
    made: Tensor
    pattern: Float[Tensor, "H T T"] | None

    @property
    def is_leaf(self) -> bool:
        return next(self.module.children(), None) is None

    @property
    def is_matrix(self) -> bool:
        is_matrix = self.is_leaf and getattr(self.module, "weight", torch.empty(0)).ndim == 2
        return is_matrix and len(self.given) == len(self.made) == TOKENS


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1]).clone()


def _keep(seen: dict[str, Seen], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor) and one.ndim > 1), None)
        parts = output if isinstance(output, tuple) else (output,)
        if given is None or not isinstance(parts[0], Tensor) or name in seen:
            return
        pattern = parts[1] if len(parts) > 1 and isinstance(parts[1], Tensor) else None
        is_pattern = pattern is not None and pattern.ndim == 4 and pattern.shape[-1] == pattern.shape[-2] == TOKENS
        kept = pattern[0].clone() if pattern is not None and is_pattern else None
        seen[name] = Seen(name, module, _rows(given), _rows(parts[0]), kept)

    return hook


@contextmanager
def kept_in(model: nn.Module) -> Iterator[dict[str, Seen]]:
    """What each module does in a pass within, by name, in the order in which they end."""
    seen: dict[str, Seen] = {}
    with hooked() as add:
        for name, part in model.named_modules():
            if name:
                add.after(part, _keep(seen, name), with_kwargs=True)
        yield seen


@contextmanager
def changed(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While inside, the module's output is another; `change` is given a copy, [T, width]."""

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return change(_rows(output)).view_as(output)

    with hooked() as add:
        add.after(module, hook)
        yield
