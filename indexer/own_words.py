"""A corpus where there is none: what a model itself writes about some hundred topics, drawn with a fixed seed.

The same model, topics, seed and machine give the same texts. Each batch is on the disk before the next is begun, so
that a run that was stopped goes on, to the same end.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from db.errors import AtlasError, first_line
from db.files import locked, sync
from indexer.checkpoint import Checkpoint
from indexer.corpus import OWN_WORDS
from indexer.dequantised import quietly
from indexer.language_model import LanguageModel, load_model

TOKENS = 120
"""How long each text is at most."""
FILE = "own-words.jsonl"
"""Where they are kept, in the model's folder of the catalogue."""

_LIST = Path(__file__).with_name("topics.txt")
_FORMS = (
    ("Write a paragraph about {}.", "An article about {}.\n\n"),
    ("Tell a short story about {}.", "A short story about {}.\n\n"),
    ("Write a dialogue between two people about {}.", "A dialogue about {}.\n\n"),
    ("Explain {} to a child.", "For children: {}.\n\n"),
    ("Write a letter to a friend about {}.", "A letter about {}.\n\nDear friend,\n"),
    ("Write an exam question about {}, with its answer.", "Exam, subject: {}.\n\nQuestion 1:"),
    ("Write a list of facts about {}.", "Facts about {}:\n\n-"),
    ("Write a news report about {}.", "News: {}.\n\n"),
    ("What do you think about {}? Give reasons.", "My opinion about {}:\n\n"),
)
"""How a plain topic is put: to a model with a chat template, and before a text that is to be continued."""
_TEMPERATURE, _TOP_P, _CANDIDATES = 0.9, 0.95, 64
_MEMORY, _MOST = 2**30, 64  # bytes for the keys and values of a batch, and the most texts of one


@dataclass(frozen=True)
class Task:
    """One text to be written: its topic, what a chat model is asked, and how the text begins, if that is part of it."""

    topic: str
    ask: str
    lead: str
    beginning: str = ""


@cache
def _topics() -> tuple[tuple[str, str], ...]:
    """Topics, or tasks with the beginning of their text."""
    lines = (line.strip() for line in _LIST.read_text(encoding="utf-8").splitlines())
    split = (line.partition(" | ") for line in lines if line and not line.startswith("#"))
    return tuple((topic, beginning) for topic, _, beginning in split)


def tasks(count: int) -> list[Task]:
    """So many texts to be written, spread over the whole list; more than it has go round it, in other forms."""
    topics, found = _topics(), []
    for number in range(count):
        turn, place = divmod(number, len(topics))
        here = min(count - turn * len(topics), len(topics))  # of this turn
        index = place * len(topics) // here
        topic, beginning = topics[index]
        ask, lead = ("{}", "") if beginning else _FORMS[(index + turn) % len(_FORMS)]
        found.append(Task(topic, ask.format(topic), lead.format(topic), beginning))
    return found


def write_own_words(
    checkpoint: Checkpoint,
    path: Path,
    *,
    topics: int | None = None,
    tokens: int = TOKENS,
    seed: int = 0,
    say: Callable[[str], None] = lambda _line: None,
    progress: Callable[[Iterator[int], int], Iterator[int]] = lambda batches, _total: batches,
) -> bool:
    """Have the model write a corpus of JSONL: “text” and “topic”, and in the first record what they are.

    Args:
        checkpoint: the model.
        path: the file; there whole or not at all.
        topics: how many texts; as many as the list has where nothing is given.
        tokens: that the model adds to each at most.
        seed: of the draws.
        say: told what is being done, one line per stage.
        progress: wraps the iteration over the batches that are left.

    Returns:
        Whether it was not there already.

    Raises:
        AtlasError: the file is there and of something else, or the model cannot be loaded or write that much.
    """
    topics = topics or len(_topics())
    wanted = tasks(topics)
    about = {
        "model": checkpoint.name,
        "checkpoint": checkpoint.identity,
        "topics": topics,
        "tokens": tokens,
        "seed": seed,
        "temperature": _TEMPERATURE,
        "top_p": _TOP_P,
        "list": hashlib.sha256(repr(wanted).encode()).hexdigest()[:16],
    }
    if path.exists():
        if _about(path) == about:
            return False
        raise AtlasError(f"{path} is there already and holds something else. Give another file (--to), or delete it.")
    if not path.parent.is_dir():
        raise AtlasError(f"There is no folder {path.parent}. Make it, or give another file (--to).")
    with locked(
        path.with_name(f".{path.name}.lock"), f"Another process is writing {path}: wait until it has finished."
    ):
        model = load_model(checkpoint)
        prompts = [_prompt(model, task) for task in wanted]
        size = _batch_size(model, prompts, tokens)
        partial = path.with_name(f"{path.name}.part")
        done = _kept(partial, about, size)
        if done:
            say(f"Going on: {done} of {topics} texts are written.")
        starts = range(done, topics, size)
        with partial.open("a", encoding="utf-8") as file:
            for start in progress(iter(starts), len(starts)):
                part = slice(start, start + size)
                texts = _written(model, prompts[part], tokens, seed=1_000_003 * seed + start)
                for number, (task, text) in enumerate(zip(wanted[part], texts, strict=True), start):
                    record: dict[str, Any] = {"text": task.beginning + text, "topic": task.topic}
                    record |= {OWN_WORDS: about} if number == 0 else {}
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    return True


def _about(path: Path) -> Any:
    """What a corpus of own words says of itself; None where it is none."""
    with suppress(OSError, ValueError, AttributeError), path.open(encoding="utf-8") as file:
        return json.loads(file.readline()).get(OWN_WORDS)
    return None


def _kept(partial: Path, about: dict[str, Any], size: int) -> int:
    """How many texts of a stopped run are whole batches; what is beyond them, or of another run, is cut off."""
    lines = partial.read_bytes().splitlines(keepends=True) if _about(partial) == about else []
    lines = lines[: len(lines) // size * size]
    partial.write_bytes(b"".join(lines))
    return len(lines)


def _prompt(model: LanguageModel, task: Task) -> list[int]:
    """The tokens that the text is to follow."""
    text = task.lead + task.beginning
    is_chat = getattr(model.tokenizer, "chat_template", None) is not None
    if is_chat:
        try:
            asked = [{"role": "user", "content": task.ask}]
            text = model.tokenizer.apply_chat_template(
                asked, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        except Exception as error:  # a template is a program, and fails as it pleases
            raise AtlasError(
                f"The chat template of {model.name} cannot be applied ({first_line(error)}). Mend it, or remove it: "
                "then the model continues texts."
            ) from error
        text += task.beginning
    ids = model.tokenizer(text, add_special_tokens=not is_chat)["input_ids"]
    after = () if is_chat else model.tokens.added[1]
    return [int(one) for one in ids[: len(ids) - len(after)]] or [0]


def _batch_size(model: LanguageModel, prompts: list[list[int]], tokens: int) -> int:
    """How many texts are written at once."""
    dimensions, longest = model.dimensions, max(map(len, prompts)) + tokens
    if longest > dimensions.max_positions:
        raise AtlasError(
            f"{model.name} takes {dimensions.max_positions:,} tokens. Ask for at most "
            f"{dimensions.max_positions - longest + tokens:,}: --tokens."
        )
    one = 2 * 4 * dimensions.layers * dimensions.kv_heads * dimensions.head_dim * longest
    return max(1, min(_MOST, _MEMORY // one))


class _Nucleus(LogitsProcessor):  # type: ignore[misc]
    """Leaves the likeliest tokens that together have `_TOP_P`, of the first few only: sorting all takes as long as the
    model itself.
    """

    def __init__(self, never: Int[Tensor, " n"]) -> None:
        self._never = never

    def __call__(self, _ids: Int[Tensor, "B T"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        scores[:, self._never.to(scores.device)] = -math.inf
        best, places = (scores / _TEMPERATURE).topk(min(_CANDIDATES, scores.shape[1]))
        share = best.softmax(-1)
        best[share.cumsum(-1) - share >= _TOP_P] = -math.inf
        return torch.full_like(scores, -math.inf).scatter(1, places, best)


def _written(model: LanguageModel, prompts: Sequence[list[int]], tokens: int, *, seed: int) -> list[str]:
    """What the model writes after each of the prompts."""
    ends = _ends(model)
    longest, device = max(map(len, prompts)), next(model.module.parameters()).device
    ids = torch.tensor([[ends[0]] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    never = [one for one in range(model.dimensions.vocabulary) if model.tokens.is_special(one) and one not in ends]
    how = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        max_new_tokens=tokens,
        eos_token_id=ends,
        pad_token_id=ends[0],
    )
    with model.lock, quietly(), torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(seed)
        found = model.module.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            generation_config=how,
            logits_processor=LogitsProcessorList([_Nucleus(torch.tensor(never, dtype=torch.long))]),
        )
    return [_text(model, row, ends) for row in found[:, longest:].tolist()]


def _ends(model: LanguageModel) -> list[int]:
    """The tokens that end a text; id 0 where there is none, which then only fills up."""
    given = getattr(getattr(model.module, "generation_config", None), "eos_token_id", None)
    found = [given] if isinstance(given, int) else list(given or [])
    own = model.tokenizer.eos_token_id
    return list(dict.fromkeys([*found, *([] if own is None else [own])])) or [0]


def _text(model: LanguageModel, ids: list[int], ends: list[int]) -> str:
    """Up to the end; a character that is not whole there is left out."""
    last = next((place for place, one in enumerate(ids) if one in ends), len(ids))
    return b"".join(map(model.tokens.bytes_of, ids[:last])).decode("utf-8", "ignore")
