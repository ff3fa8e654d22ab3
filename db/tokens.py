"""A build's vocabulary: from text to tokens and from ids to tokens."""

import zlib
from collections.abc import Iterable, Sequence
from functools import cached_property

from sqlalchemy import select

from db import concept_questions, questions, tables
from db.answers import Token, TokenMatches
from db.engine import REBUILD
from db.errors import AtlasError
from db.reader import Reader
from db.stamp import BuildStamp
from db.vocabulary import Splitter, checked, spellings

_SHORTEST_BEGINNING = 3


class Tokens(Reader):
    """The stamp and the tokens of one build."""

    @cached_property
    def info(self) -> BuildStamp:
        """The build's stamp."""
        (row,) = self.rows(select(tables.build))
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
        return bool(self.rows(concept_questions.any_neighbour()))

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
        found = sorted((token_of(row) for row in self.rows(questions.tokens_by_text(texts))), key=_id)
        self._seen.update((token.token_id, token) for token in found)
        return tuple(found)

    def tokens_beginning(self, word: str) -> tuple[Token, ...]:
        """The few shortest tokens that begin with a word of three letters or more, whatever their case."""
        rows = self.rows(concept_questions.tokens_beginning(word)) if len(word) >= _SHORTEST_BEGINNING else ()
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
        return bytes(self.rows(questions.token_bytes(token_id))[0][0])

    def tokens(self, ids: Iterable[int]) -> dict[int, Token]:
        """Tokens by id, in the order given.

        Raises:
            AtlasError: an id that is not in the vocabulary.
        """
        wanted = self.known_ids(ids)
        unseen = [token_id for token_id in wanted if token_id not in self._seen]
        if unseen:
            self._seen.update((row.token_id, token_of(row)) for row in self.rows(questions.tokens_by_id(unseen)))
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


def token_of(row: questions.Answer) -> Token:
    """The token that the columns ``questions.TOKEN_COLUMNS`` of a row describe."""
    return Token(row.token_id, row.display if row.text is None else row.text, row.display, bool(row.special))
