"""Token id -> the exact bytes it stands for.

`tokenizer.decode([id])` will not do: it turns every token that is part of a character into the same replacement
character, and some tokenizers strip a leading space.
"""

import re
from functools import lru_cache
from typing import Any

import pyarrow as pa

from db.token_text import display

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@lru_cache(maxsize=1)
def _byte_level_alphabet() -> dict[str, int]:
    """The character that byte-level BPE (GPT-2's) writes for each byte: printable ones stand for themselves."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in kept}
    moved = [byte for byte in range(256) if byte not in kept]
    alphabet.update({chr(256 + place): byte for place, byte in enumerate(moved)})
    return alphabet


class TokenBytes:
    """Reads a tokenizer's vocabulary once; `bytes_of(id)` is then a look-up.

    Ids that the tokenizer does not use (padded rows of the unembedding) give empty bytes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._pieces: dict[int, str] = {index: piece for piece, index in tokenizer.get_vocab().items()}
        self._special = {int(index) for index in tokenizer.all_special_ids}
        self._verbatim = self._special | {int(index) for index in getattr(tokenizer, "added_tokens_decoder", {})}
        # Byte-level vocabularies write every byte as one of 256 characters, the space as "Ġ"; SentencePiece ones
        # write the space as "▁", and may hold "Ġ" as the Maltese letter that it is.
        ordinary = [piece for token_id, piece in self._pieces.items() if token_id not in self._verbatim]
        self._byte_level = any(piece.startswith("Ġ") for piece in ordinary) and not any(
            piece.startswith("▁") and len(piece) > 1 for piece in ordinary
        )

    def __len__(self) -> int:
        return max(self._pieces, default=-1) + 1

    def is_special(self, token_id: int) -> bool:
        """A control token, or an id that no token uses."""
        return token_id in self._special or token_id not in self._pieces

    def unused(self, vocabulary: int) -> list[int]:
        """The ids below `vocabulary` that no token has: padding of the unembedding, and holes."""
        return [token_id for token_id in range(vocabulary) if token_id not in self._pieces]

    def bytes_of(self, token_id: int) -> bytes:
        piece = self._pieces.get(token_id, "")
        if token_id in self._verbatim:
            return piece.encode()
        if self._byte_level:
            alphabet = _byte_level_alphabet()
            if all(character in alphabet for character in piece):
                return bytes(alphabet[character] for character in piece)
            return piece.encode()
        single = _BYTE_TOKEN.fullmatch(piece)
        if single:
            return bytes([int(single[1], 16)])
        return piece.replace("▁", " ").encode()

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
