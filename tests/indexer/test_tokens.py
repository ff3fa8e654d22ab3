"""Token ids to bytes: byte-level and SentencePiece-like vocabularies, special tokens, and ids that no token uses."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from indexer.tokens import TokenBytes, token_table
from tests import models

BYTE_LEVEL = models.byte_level_tokenizer()
SENTENCEPIECE = models.sentencepiece_tokenizer()


def reader_of(pieces: dict[str, int], special: tuple[int, ...] = ()) -> TokenBytes:
    vocabulary = SimpleNamespace(get_vocab=lambda: pieces, all_special_ids=special, added_tokens_decoder={})
    return TokenBytes(vocabulary)


@given(text=st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_byte_level_tokens_join_to_the_text_s_bytes(text):
    reader = TokenBytes(BYTE_LEVEL)
    ids = BYTE_LEVEL(text, add_special_tokens=False)["input_ids"]
    if BYTE_LEVEL.bos_token_id not in ids:  # the text may spell a control token
        assert b"".join(reader.bytes_of(token_id) for token_id in ids) == text.encode()


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁<"), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_sentencepiece_tokens_join_to_the_text_s_bytes(text):
    reader = TokenBytes(SENTENCEPIECE)
    ids = SENTENCEPIECE(text, add_special_tokens=False)["input_ids"]
    # it puts one space in front of a text that begins with none
    expected = text if text.startswith(" ") else f" {text}"
    assert b"".join(reader.bytes_of(token_id) for token_id in ids) == expected.encode()


def test_every_byte_has_a_token_of_its_own():
    for tokenizer in (BYTE_LEVEL, SENTENCEPIECE):
        reader = TokenBytes(tokenizer)
        found = {reader.bytes_of(token_id) for token_id in range(len(reader))}
        assert {bytes([byte]) for byte in range(256)} <= found


@pytest.mark.parametrize(
    ("piece", "data"),
    [
        ("ĠParis", b" Paris"),
        ("Ċ", b"\n"),
        ("Ã©", "é".encode()),
        ("Ã", b"\xc3"),
        ("Ġ", b" "),
        ("Ā", b"\0"),
        ("▁", "▁".encode()),
    ],
)
def test_byte_level_pieces_by_hand(piece, data):
    assert reader_of({"Ġ": 0, piece: 1 if piece != "Ġ" else 0}).bytes_of(0 if piece == "Ġ" else 1) == data


@pytest.mark.parametrize(
    ("piece", "data"),
    [
        ("▁Paris", b" Paris"),
        ("▁▁", b"  "),
        ("<0x0A>", b"\n"),
        ("<0xC3>", b"\xc3"),
        ("<0x0A>x", b"<0x0A>x"),
        ("<0xZZ>", b"<0xZZ>"),
        ("é", "é".encode()),
        ("Paris", b"Paris"),
    ],
)
def test_sentencepiece_pieces_by_hand(piece, data):
    assert reader_of({"▁": 0, piece: 1}).bytes_of(1) == data


def test_a_sentencepiece_vocabulary_may_hold_maltese():
    """Ġ is a letter, too: pieces such as “Ġ” or “Ġħ” stand in large multilingual vocabularies."""
    tokenizer = models.sentencepiece_tokenizer(extra=("Ġ", "Ġimgħa"))
    reader = TokenBytes(tokenizer)
    pieces = tokenizer.get_vocab()
    assert reader.bytes_of(pieces["Ġimgħa"]) == "Ġimgħa".encode()
    assert reader.bytes_of(pieces["▁the"]) == b" the"
    assert reader.bytes_of(pieces["<0x0A>"]) == b"\n"


def test_added_and_special_tokens_stand_as_they_are_written():
    tokenizer = models.byte_level_tokenizer(bos=True)
    tokenizer.add_tokens([AddedToken("Ġnot a space", normalized=False), "  "])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    reader, pieces = TokenBytes(tokenizer), tokenizer.get_vocab()
    assert reader.bytes_of(pieces["<|im_end|>"]) == b"<|im_end|>"
    assert reader.bytes_of(pieces["<s>"]) == b"<s>"
    assert reader.bytes_of(pieces["Ġnot a space"]) == "Ġnot a space".encode()
    assert reader.bytes_of(pieces["  "]) == b"  "
    special = {token for token, token_id in pieces.items() if reader.is_special(token_id)}
    assert special == {"<s>", "<|im_end|>"}


def test_ids_without_a_token_have_no_bytes_and_say_so():
    reader = TokenBytes(BYTE_LEVEL)
    unused = models.TOKENS + 5
    assert reader.bytes_of(unused) == b""
    assert reader.is_special(unused)
    assert reader.display(unused) == f"⟨no token {unused}⟩"
    assert len(reader) == models.TOKENS


def test_the_table_has_a_row_for_every_row_of_the_unembedding():
    table = token_table(BYTE_LEVEL, models.VOCABULARY).to_pylist()
    assert [row["token_id"] for row in table] == list(range(models.VOCABULARY))
    reader, pieces = TokenBytes(BYTE_LEVEL), BYTE_LEVEL.get_vocab()
    for row in table:
        assert row["bytes"] == reader.bytes_of(row["token_id"])
        assert row["special"] == (row["token_id"] == 0 or row["token_id"] >= models.TOKENS)
        if row["text"] is None:  # no token, a NUL, or part of a character
            assert row["bytes"] in (b"", b"\0") or not _is_text(row["bytes"])
        else:
            assert row["text"].encode() == row["bytes"]
    shown = [row["display"] for row in table]
    assert len(set(shown)) == len(shown)  # no two tokens look alike
    assert table[pieces["Ġthe"]]["display"] == "␣the"
    assert table[pieces["Ã"]]["display"] == "⟨C3⟩"


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
