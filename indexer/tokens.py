"""Text -> token ids as `tokenizer.json` has it, and token id -> the exact bytes it stands for.

`tokenizer.decode([id])` will not do: it turns every token that is part of a character into the same replacement
character, and some tokenizers strip a leading space.
"""

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from db.errors import AtlasError, first_line
from db.token_text import BYTE_PIECE, byte_level_alphabet, display

_FILE = "tokenizer.json"
_PROBES = (
    "The river runs to the sea",
    " it's I'LL 12345  3.14\n\n\t x\r\n",
    "é sea, e\u0301 sea, ﬁ Ａ １２ ½ İ",
    "日本\u3000🙂\u200b\u00a0▁a Ġb",
)
"""Texts on which normalisers and pre-tokenizers differ."""


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model's folder, in transformers' form.

    Where there is a tokenizer.json it alone says how text is split, whichever class the configs name: some classes of
    transformers (GPT2Tokenizer, Qwen2Tokenizer, LlamaTokenizer) put a normaliser and a pre-tokenizer of their own in
    place of the file's. The configs only say what the control tokens are called.

    Raises:
        AtlasError: it cannot be read, or splits a text otherwise than the file says.
    """
    file = folder / _FILE
    try:
        if not file.is_file():
            found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if not _spells(found, _PROBES[0]):
                raise ValueError("its vocabulary is missing, or of another kind than its class")
            return found
        found, stored = PreTrainedTokenizerFast(tokenizer_file=str(file)), Tokenizer.from_file(str(file))
        for backend in (found.backend_tokenizer, stored):
            backend.no_truncation()
            backend.no_padding()
            if getattr(backend.model, "dropout", None):  # of merges, at random: for training alone
                backend.model.dropout = None
        named, others = _control_tokens(folder)
        for name, token in named.items():
            if stored.token_to_id(token) is not None:
                setattr(found, name, token)
        found.extra_special_tokens = [token for token in others if stored.token_to_id(token) is not None]
        found.chat_template = _chat_template(folder)
    except Exception as error:  # transformers and tokenizers raise whatever comes to hand
        raise AtlasError(
            f"The tokenizer of {folder} cannot be read ({first_line(error)}). Copy the tokenizer's files "
            f"({_FILE}, tokenizer_config.json) beside the weights."
        ) from error
    _require_same(found, stored, folder)
    return found


def _spells(tokenizer: Any, text: str) -> bool:
    """Whether the tokens of a text join to it, but for case and a space before it."""
    reader, ids = TokenBytes(tokenizer), tokenizer(text, add_special_tokens=False)["input_ids"]
    return b"".join(map(reader.bytes_of, ids)).strip().lower() == text.encode().lower()


def _control_tokens(folder: Path) -> tuple[dict[str, str], list[str]]:
    """What the configs call bos_token, eos_token and so on, and further control tokens."""
    named: dict[str, str] = {}
    others: list[str] = []
    for path in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):
        for name, given in (json.loads(path.read_text("utf-8")) if path.is_file() else {}).items():
            if name in PreTrainedTokenizerFast.SPECIAL_TOKENS_ATTRIBUTES and given:
                named[name] = given["content"] if isinstance(given, dict) else given
            elif name in ("additional_special_tokens", "extra_special_tokens") and isinstance(given, list):
                others += [one["content"] if isinstance(one, dict) else one for one in given if one]
    return named, others


def _chat_template(folder: Path) -> str | None:
    """The template that makes a prompt of messages, where the folder has one; in a file of its own, which wins, or in
    the config. It is a program, run by transformers in a sandbox when it is asked for.
    """
    own, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if own.is_file():
        return own.read_text("utf-8", "replace")
    given = json.loads(config.read_text("utf-8")).get("chat_template") if config.is_file() else None
    if isinstance(given, list):  # several, each with a name
        given = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}.get("default")
    return given if isinstance(given, str) else None


def _require_same(found: Any, stored: Tokenizer, folder: Path) -> None:
    for text in (*_PROBES, *(f"a{token} b" for token in found.all_special_tokens)):
        for special in (True, False):
            ids = found(text, add_special_tokens=special)["input_ids"]
            if ids != stored.encode(text, add_special_tokens=special).ids:
                raise AtlasError(
                    f"The tokenizer of {folder} splits “{display(text.encode())}” otherwise than its {_FILE} says, so "
                    "other tokens than the model's would be explained. Save it anew with the `tokenizers` library."
                )


class TokenBytes:
    """Reads a tokenizer's vocabulary once; `bytes_of(id)` is then a look-up.

    Ids that the tokenizer does not use (padded rows of the unembedding) give empty bytes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {index: piece for piece, index in tokenizer.get_vocab().items()}
        self._special = {int(index) for index in tokenizer.all_special_ids}
        self._verbatim = self._special | {int(index) for index in getattr(tokenizer, "added_tokens_decoder", {})}
        self._byte_level = self._writes_bytes()
        model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
        self._goes_on = getattr(model, "continuing_subword_prefix", None) or ""
        self._ends = getattr(model, "end_of_word_suffix", None) or ""
        self._space = self._written_space()
        self._verbatim -= {token_id for token_id in self._verbatim - self._special if self._is_spaces(token_id)}

    def _writes_bytes(self) -> bool:
        """Byte-level vocabularies write every byte as one of 256 characters, the space as "Ġ"; SentencePiece ones write
        the space as "▁", and may hold "Ġ" as the Maltese letter that it is.
        """
        if steps := self._steps:
            return any(b'"ByteLevel"' in step for step in steps)
        ordinary = [piece for token_id, piece in self._pieces.items() if token_id not in self._verbatim]
        return any(piece.startswith("Ġ") for piece in ordinary) and not any(
            piece.startswith("▁") and len(piece) > 1 for piece in ordinary
        )

    @cached_property
    def _steps(self) -> list[bytes]:
        """What happens to a text beside the splitting into pieces, as JSON."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        steps = (getattr(backend, name, None) for name in ("normalizer", "pre_tokenizer", "decoder"))
        return [step.__getstate__() for step in steps if step is not None]

    def _written_space(self) -> str:
        """The character that stands for a space."""
        for step in self._steps:
            found = re.search(rb'"replacement":("[^"]+")|"pattern":{"String":" "},"content":("[^"]+")', step)
            if found:
                return str(json.loads(found[1] or found[2]))
        return "▁"

    def _is_spaces(self, token_id: int) -> bool:
        """Whether an added token is what spaces become: Gemma's vocabularies list runs of them as added tokens."""
        piece = self._pieces.get(token_id, "")
        if self._byte_level or not piece or piece.strip(self._space):
            return False
        spaces = " " * len(piece)
        texts = (f"a{spaces}a", f"a{spaces} a", spaces)
        return any(token_id in self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)

    def __len__(self) -> int:
        return max(self._pieces, default=-1) + 1

    @cached_property
    def added(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The control tokens that the tokenizer puts before a text, and those it puts after it."""
        bare, whole = (self._tokenizer(_PROBES[0], add_special_tokens=one)["input_ids"] for one in (False, True))
        places = range(len(whole) - len(bare) + 1)
        start = next((place for place in places if whole[place : place + len(bare)] == bare), 0)
        return tuple(whole[:start]), tuple(whole[start + len(bare) :])

    @cached_property
    def _by_bytes(self) -> dict[bytes, list[int]]:
        """Ids by what they stand for: ordinary tokens first, then single bytes (<0x0A>), then control tokens."""
        found: dict[bytes, list[int]] = {}
        for token_id in sorted(self._pieces, key=lambda one: (self.is_special(one), self.is_byte(one), one)):
            found.setdefault(self.bytes_of(token_id), []).append(token_id)
        return found

    def exactly(self, data: bytes) -> list[int]:
        """The tokens that stand for exactly these bytes, the usual one first; few vocabularies have several."""
        return self._by_bytes.get(data, []) if data else []

    def called(self, piece: str) -> int | None:
        """The token that the vocabulary itself writes so, such as “Ġthe” or “<0x0A>”."""
        return self._by_piece.get(piece)

    @cached_property
    def _by_piece(self) -> dict[str, int]:
        return {piece: token_id for token_id, piece in self._pieces.items()}

    def is_special(self, token_id: int) -> bool:
        """A control token, or an id that no token uses."""
        return token_id in self._special or token_id not in self._pieces

    def unused(self, vocabulary: int) -> list[int]:
        """The ids below `vocabulary` that no token has: padding of the unembedding, and holes."""
        return [token_id for token_id in range(vocabulary) if token_id not in self._pieces]

    def is_byte(self, token_id: int) -> bool:
        """A SentencePiece token for a single byte, such as <0x0A>."""
        return not self._byte_level and BYTE_PIECE.fullmatch(self._pieces.get(token_id, "")) is not None

    def bytes_of(self, token_id: int) -> bytes:
        piece = self._pieces.get(token_id, "")
        if token_id in self._verbatim:
            return piece.encode()
        if self._byte_level:
            alphabet = byte_level_alphabet()
            if all(character in alphabet for character in piece):
                return bytes(alphabet[character] for character in piece)
            return piece.encode()
        single = BYTE_PIECE.fullmatch(piece)
        if single:
            return bytes([int(single[1], 16)])
        text = piece.replace(self._space, " ")
        if self._goes_on:  # pieces that do not are the beginnings of words
            text = text[len(self._goes_on) :] if text.startswith(self._goes_on) else f" {text}"
        if self._ends and text.endswith(self._ends):
            text = text.removesuffix(self._ends) + " "
        return text.encode()

    def display(self, token_id: int) -> str:
        """What a person sees; for an id without a token, the id itself."""
        data = self.bytes_of(token_id)
        return display(data) if data else f"⟨no token {token_id}⟩"


def token_table(tokenizer: Any, vocabulary: int) -> pa.Table:
    """The rows of the catalogue's `token` table, for ids 0 to `vocabulary` - 1."""
    reader = TokenBytes(tokenizer)
    data = [reader.bytes_of(token_id) for token_id in range(vocabulary)]
    return pa.table(
        {
            "token_id": pa.array(range(vocabulary), pa.int32()),
            "bytes": pa.array(data, pa.binary()),
            "text": pa.array([_valid_text(value) for value in data], pa.string()),
            "display": pa.array([reader.display(token_id) for token_id in range(vocabulary)], pa.string()),
            "special": pa.array([int(reader.is_special(token_id)) for token_id in range(vocabulary)], pa.int16()),
        }
    )


def _valid_text(data: bytes) -> str | None:
    """The bytes as text, or None where they are no whole text; a NUL is kept out, since PostgreSQL cannot store it."""
    if not data or b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
