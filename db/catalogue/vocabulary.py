"""Text to tokens: the spellings that a search text may stand for, and how the model's tokenizer splits it."""

import zlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from sqlalchemy import select

from db.catalogue import schema, statements
from db.catalogue.reader import REBUILD, Reader
from db.errors import AtlasError
from db.records import BuildStamp, Token, TokenMatches

if TYPE_CHECKING:
    from tokenizers import Tokenizer


MAX_TEXT = 1000
"""Longest search text, in characters."""


def checked(text: str) -> str:
    """The text, if it can be searched for.

    Raises:
        AtlasError: empty, too long, or not valid Unicode.
    """
    if not text:
        raise AtlasError("The search text is empty: give a token such as “ Paris” or “Python”.")
    if len(text) > MAX_TEXT:
        raise AtlasError(f"The search text has {len(text):,} characters; a token search takes at most {MAX_TEXT:,}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise AtlasError("The search text is not valid Unicode: check the encoding of the terminal or file.") from None
    return text


def spellings(text: str) -> list[str]:
    """The text, the same with or without a leading space, then both in other cases; each once, best first.

    >>> spellings("Paris")
    ['Paris', ' Paris', 'paris', ' paris', 'PARIS', ' PARIS']
    """
    core = text.removeprefix(" ")
    leads = (" ", "") if text.startswith(" ") else ("", " ")
    cases = (core, core.lower(), core.upper(), core.capitalize(), core.title())
    return list(dict.fromkeys(lead + case for case in cases for lead in leads if lead + case))


class Splitter:
    """The tokenizer stored in a build, loaded when first needed. Safe to share between threads."""

    def __init__(self, tokenizer_json: str | None) -> None:
        self._json = tokenizer_json

    @cached_property
    def _tokenizer(self) -> "Tokenizer | None":
        if self._json is None:
            return None
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_str(self._json)
        except Exception as error:  # the library raises nothing narrower
            raise AtlasError(
                f"The tokenizer in this catalogue cannot be read ({str(error)[:120]}): "
                "install the pinned version of `tokenizers`, or build the catalogue again."
            ) from error

    def split(self, text: str) -> list[int]:
        """Token ids of the text without its outer white space, but for one leading space; [] without a tokenizer."""
        if self._tokenizer is None:
            return []
        stripped = text.strip()
        lead = " " if text.startswith(" ") else ""
        return list(self._tokenizer.encode(lead + stripped if stripped else text, add_special_tokens=False).ids)


# A build's vocabulary: from text to tokens and from ids to tokens.

_SHORTEST_BEGINNING = 3


class Tokens(Reader):
    """The stamp and the tokens of one build."""

    @cached_property
    def info(self) -> BuildStamp:
        """The build's stamp."""
        (row,) = self.rows(select(schema.build))
        stored = dict(row._mapping)
        packed = stored.pop("tokenizer_zlib")
        try:
            text = None if packed is None else zlib.decompress(packed).decode("utf-8", "surrogatepass")
        except (zlib.error, UnicodeDecodeError) as error:
            raise AtlasError(f"The tokenizer in {self.path} is damaged. {REBUILD}") from error
        return BuildStamp(**stored, tokenizer_json=text)

    @cached_property
    def _splitter(self) -> Splitter:
        return Splitter(self.info.tokenizer_json)

    @cached_property
    def _seen(self) -> dict[int, Token]:
        """Tokens met so far, at most the vocabulary: a search asks for those that resolving its text has just found."""
        return {}

    @cached_property
    def has_neighbours(self) -> bool:
        """Whether the build holds the neighbours of tokens: they are left out for the largest vocabularies."""
        return bool(self.rows(statements.any_neighbour()))

    def resolve(self, text: str) -> TokenMatches:
        """The tokens a text stands for, whatever its leading space and case, and what the tokenizer splits it into.

        Raises:
            AtlasError: the text is empty, too long or not valid Unicode.
        """
        wanted = {spelling: place for place, spelling in enumerate(spellings(checked(text)))}
        found = list(self.tokens_by_text(list(wanted)))
        found.sort(key=lambda token: (wanted[token.text], token.token_id))
        return TokenMatches(text, tuple(found), self.pieces(text))

    def pieces(self, text: str) -> tuple[Token, ...]:
        """What the model's tokenizer splits the text into; nothing where the build holds no tokenizer."""
        ids = [token_id for token_id in self._splitter.split(text) if token_id < self.info.vocabulary]
        known = self.tokens(ids)
        return tuple(known[token_id] for token_id in ids)

    def tokens_by_text(self, texts: Sequence[str]) -> tuple[Token, ...]:
        """The tokens that are exactly one of the texts, by id."""
        found = sorted((token_of(row) for row in self.rows(statements.tokens_by_text(texts))), key=_id)
        self._seen.update((token.token_id, token) for token in found)
        return tuple(found)

    def tokens_beginning(self, word: str) -> tuple[Token, ...]:
        """The few shortest tokens that begin with a word of three letters or more, whatever their case."""
        rows = self.rows(statements.tokens_beginning(word)) if len(word) >= _SHORTEST_BEGINNING else ()
        return tuple(token_of(row) for row in rows)

    def token(self, token_id: int) -> Token:
        """One token.

        Raises:
            AtlasError: no such id in the vocabulary.
        """
        return self.tokens([token_id])[token_id]

    def bytes_of(self, token_id: int) -> bytes:
        """What a token stands for exactly; no bytes for a row of the unembedding that no token uses.

        Raises:
            AtlasError: no such id in the vocabulary.
        """
        self.known_ids([token_id])
        return bytes(self.rows(statements.token_bytes(token_id))[0][0])

    def tokens(self, ids: Iterable[int]) -> dict[int, Token]:
        """Tokens by id, in the order given.

        Raises:
            AtlasError: an id that is not in the vocabulary.
        """
        wanted = self.known_ids(ids)
        unseen = [token_id for token_id in wanted if token_id not in self._seen]
        if unseen:
            self._seen.update((row.token_id, token_of(row)) for row in self.rows(statements.tokens_by_id(unseen)))
        return {token_id: self._seen[token_id] for token_id in wanted}

    def known_ids(self, ids: Iterable[int]) -> list[int]:
        """The ids, each once.

        Raises:
            AtlasError: an id that is not in the vocabulary.
        """
        wanted = list(dict.fromkeys(ids))
        size = self.info.vocabulary
        for token_id in wanted:
            if not 0 <= token_id < size:
                raise AtlasError(f"There is no token {token_id}: the vocabulary of {self.info.model} is 0–{size - 1}.")
        return wanted


def _id(token: Token) -> int:
    return token.token_id


def token_of(row: statements.Answer) -> Token:
    """The token that the columns ``questions.TOKEN_COLUMNS`` of a row describe."""
    return Token(row.token_id, row.display if row.text is None else row.text, row.display, bool(row.special))
