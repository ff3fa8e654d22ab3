"""Token ids to bytes: byte-level and SentencePiece-like vocabularies, special tokens, and ids that no token uses."""

import json
import re
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from app.attribution.prompt import notices_of, tokenise
from db.errors import AtlasError
from indexer.checkpoint import Checkpoint
from indexer.language_model import load_model
from indexer.tokens import TokenBytes, load_tokenizer, token_table
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


SPACE_BEFORE = [
    (SENTENCEPIECE, True),
    (models.sentencepiece_tokenizer(prepend="always", template="<s> $A"), True),
    (models.sentencepiece_tokenizer(prepend="never", template="<s> $A </s>"), False),
    (models.unigram_tokenizer(prepend="first"), True),
    (models.unigram_tokenizer(prepend="always", template="<s> $A </s>"), True),
    (models.unigram_tokenizer(prepend="never"), False),
]


@pytest.mark.parametrize(("tokenizer", "space"), SPACE_BEFORE)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁<"), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_sentencepiece_tokens_join_to_the_text_s_bytes(tokenizer, space, text):
    reader = TokenBytes(tokenizer)
    before, after = reader.added
    ids = tokenizer(text)["input_ids"]
    assert ids == [*before, *tokenizer(text, add_special_tokens=False)["input_ids"], *after]
    joined = b"".join(map(reader.bytes_of, ids[len(before) : len(ids) - len(after)]))
    # some put one space before a text that begins with none
    assert joined == (f" {text}" if space and not text.startswith(" ") else text).encode()


@given(text=st.text("Ther ivunsota ,.blue▁<>/0x", min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_without_byte_fallback_what_is_lost_is_unknown_tokens(text):
    tokenizer = models.sentencepiece_tokenizer(fallback=False)
    reader, unknown = TokenBytes(tokenizer), tokenizer.unk_token_id
    joined = b"".join(map(reader.bytes_of, tokenizer(text)["input_ids"])).decode()
    spelt = re.escape(joined.replace("▁", " ")).replace(re.escape(reader.bytes_of(unknown).decode()), ".+")
    assert re.fullmatch(spelt, " " + text.replace("▁", " ").removeprefix(" "), re.DOTALL)


EVERY = st.text(st.characters(codec="utf-8", exclude_characters="▁<"), max_size=40)
LINES = st.text(" \n\t'sTheriver.,12é日🙂", max_size=40)
LETTERS = sorted({one for sentence in models.SENTENCES for one in sentence if one.isalpha()})
WORDS = st.lists(st.text(LETTERS, min_size=1, max_size=6), min_size=1, max_size=5).map(" ".join)
KINDS = {
    "byte-level": (BYTE_LEVEL, EVERY, "{}"),
    "tiktoken": (models.like_tiktoken(), EVERY, "{}"),
    "tiktoken, lines": (models.like_tiktoken(), LINES, "{}"),
    "Gemma": (models.like_gemma(), EVERY, "{}"),
    "Gemma, runs of spaces": (models.like_gemma(), st.text(" sea", max_size=20), "{}"),
    "Gemma, another space": (models.like_gemma(space="_"), st.text(" sea", max_size=20), "{}"),
    "Llama 2": (models.like_gemma(prepend=True), EVERY.filter(bool), " {}"),
    "Unigram": (models.unigram_tokenizer(prepend="never", template="$A"), LINES, "{}"),
    "word pieces": (models.word_pieces(), WORDS, " {}"),
    "word ends": (models.word_ends(), WORDS, "{} "),
}
"""Tokenizers, texts that they can spell, and what the tokens' bytes are then."""


@pytest.mark.parametrize("kind", KINDS)
def test_of_every_kind_the_tokens_bytes_are_the_text(kind, tmp_path):
    """And its ids are those of the tokenizer's own file."""
    tokenizer, texts, spelt = KINDS[kind]
    tokenizer.save_pretrained(tmp_path)
    found, stored = load_tokenizer(tmp_path), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    reader = TokenBytes(found)

    @given(text=texts)
    @settings(max_examples=60, deadline=None)
    def holds(text):
        ids = found(text, add_special_tokens=False)["input_ids"]
        assert ids == stored.encode(text, add_special_tokens=False).ids
        assert b"".join(map(reader.bytes_of, ids)) == spelt.format(text).encode()

    holds()


def test_runs_of_spaces_are_spaces_and_what_is_written_like_them_too():
    """Gemma's vocabularies list “▁▁” as an added token, which two spaces become."""
    tokenizer = models.like_gemma()
    reader, pieces = TokenBytes(tokenizer), tokenizer.get_vocab()
    assert tokenizer("a   sea", add_special_tokens=False)["input_ids"][1] == pieces["▁▁"]
    assert reader.bytes_of(pieces["▁▁"]) == b"  "
    assert reader.bytes_of(pieces["<s>"]) == b"<s>"
    level = models.byte_level_tokenizer()
    level.add_tokens(["▁▁"])
    assert TokenBytes(level).bytes_of(level.get_vocab()["▁▁"]) == "▁▁".encode()


@pytest.mark.parametrize("sentencepiece", [False, True])
@given(parts=st.lists(st.sampled_from(["the sea", "<|end|>", "<tool>", "Sea", " "]), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_added_and_control_tokens_in_a_text_stand_as_they_are_written(sentencepiece, parts):
    tokenizer = models.like_gemma() if sentencepiece else models.like_tiktoken()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.add_tokens([AddedToken("<tool>", normalized=True), AddedToken("Sea", single_word=True)])
    reader, text = TokenBytes(tokenizer), "".join(parts)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert b"".join(map(reader.bytes_of, ids)) == text.encode()
    assert reader.is_special(tokenizer.get_vocab()["<|end|>"])


CHANGED = {
    "NFC": ({"type": "NFC"}, "e\u0301 sea", "é sea"),
    "NFKC": ({"type": "NFKC"}, "ﬁre １", "fire 1"),
    "lower case": ({"type": "Lowercase"}, "The Sea", "the sea"),
    "no accents": ({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}, "é", "e"),
    "no spaces at the ends": ({"type": "Strip", "strip_left": True, "strip_right": True}, "the sea ", "the sea"),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_a_text_that_the_tokenizer_changes_is_spelt_as_it_reads_and_said(kind, tmp_path):
    normalizer, text, read = CHANGED[kind]
    folder = models.with_tokenizer(models.like_tiktoken(), tmp_path / "model")
    changed(folder, normalizer=normalizer)
    model = load_model(Checkpoint("x", folder))
    ids = tokenise(model, text, 64)
    assert b"".join(map(model.tokens.bytes_of, ids)).decode() == read
    assert any("The tokenizer changed the text" in one for one in notices_of(model, text, ids))
    assert notices_of(model, read, tokenise(model, read, 64)) == []


def test_spaces_that_a_control_token_takes_with_it_are_missed_aloud(tmp_path):
    tokenizer = models.like_tiktoken()
    tokenizer.add_tokens([AddedToken("<|end|>", lstrip=True, rstrip=True)])
    model = load_model(Checkpoint("x", models.with_tokenizer(tokenizer, tmp_path / "model")))
    ids = tokenise(model, "the <|end|> sea", 64)
    assert b"".join(map(model.tokens.bytes_of, ids)) == b"the<|end|>sea"
    assert any("The tokenizer changed the text" in one for one in notices_of(model, "the <|end|> sea", ids))


def test_what_a_tokenizer_adds():
    assert TokenBytes(BYTE_LEVEL).added == ((), ())
    assert TokenBytes(models.byte_level_tokenizer(bos=True)).added == ((0,), ())
    assert TokenBytes(models.sentencepiece_tokenizer(template="<s> $A </s>")).added == ((1,), (2,))
    assert TokenBytes(models.sentencepiece_tokenizer(template="<s> <s> $A")).added == ((1, 1), ())


def test_tokens_by_their_bytes():
    reader, pieces = TokenBytes(SENTENCEPIECE), SENTENCEPIECE.get_vocab()
    assert reader.exactly(b" the") == [pieces["▁the"]]
    assert reader.exactly(b"\n") == [pieces["<0x0A>"]]
    assert reader.exactly(b"s") == [pieces["s"], pieces["<0x73>"]]  # what a text is split into comes first
    assert reader.exactly(b"") == reader.exactly(b"hydrogen") == []
    assert reader.called("▁the") == pieces["▁the"]
    assert reader.called(" the") is None


# What tokenizer.json says is how text is split.

NASTY_TEXTS = (
    "é sea, e\u0301 sea",
    " the  sea\n\n 12345\t",
    "ﬁ Ａ▁b ĠĊ <s>x</s>",
    "日本 🙂",
    "I'LL it's",
    "the " * 600,
)


def changed(folder, **parts):
    """A change of tokenizer.json."""
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | parts), "utf-8")


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2"])
@pytest.mark.parametrize(
    "named",
    ["Qwen2Tokenizer", "GPT2Tokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizerFast", "NoSuchTokenizer", None],
)
@pytest.mark.parametrize("sentencepiece", [False, True])
def test_text_is_split_as_the_file_says(tmp_path, kind, named, sentencepiece):
    tokenizer = models.sentencepiece_tokenizer(template="<s> $A") if sentencepiece else models.byte_level_tokenizer()
    folder = models.with_tokenizer(tokenizer, tmp_path / "model", kind)
    config = {"tokenizer_class": named, "bos_token": "<s>", "pad_token": "[PAD]", "additional_special_tokens": ["the"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    parts = {"normalizer": {"type": "NFD"}, "truncation": TRUNCATION}
    if not sentencepiece:
        digits = {"type": "Digits", "individual_digits": True}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        parts["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, level]}
    changed(folder, **parts)
    stored = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stored.no_truncation()
    found = Checkpoint("x", folder).tokenizer
    for text in NASTY_TEXTS:
        for special in (True, False):
            expected = stored.encode(text, add_special_tokens=special).ids
            assert found(text, add_special_tokens=special)["input_ids"] == expected
    assert TokenBytes(found).is_special(stored.token_to_id("<s>") or 0)


TRUNCATION = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}


def test_dropout_of_merges_is_for_training_alone(tmp_path):
    folder = models.with_tokenizer(models.byte_level_tokenizer(), tmp_path / "model")
    expected = load_tokenizer(folder)(models.PROMPT)["input_ids"]
    changed(folder, model=json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"] | {"dropout": 0.9})
    assert load_tokenizer(folder)(models.PROMPT)["input_ids"] == expected


@pytest.mark.parametrize("harm", ["no object", "broken", "missing", "config"])
@pytest.mark.parametrize("named", ["CodeLlamaTokenizerFast", "Qwen2Tokenizer", "PreTrainedTokenizerFast"])
def test_a_tokenizer_that_cannot_be_read_is_one_line(tmp_path, harm, named):
    """Without its vocabulary transformers makes an empty tokenizer of some classes, and says nothing."""
    folder = models.with_tokenizer(models.byte_level_tokenizer(), tmp_path / "model", "qwen2")
    (folder / "tokenizer_config.json").write_text("[" if harm == "config" else json.dumps({"tokenizer_class": named}))
    file = folder / "tokenizer.json"
    if harm == "missing":
        file.unlink()
    elif harm != "config":
        file.write_text("[]" if harm == "no object" else file.read_text("utf-8")[:-20], "utf-8")
    with pytest.raises(AtlasError, match="cannot be read") as refusal:
        load_tokenizer(folder)
    assert "\n" not in str(refusal.value)


def test_a_class_that_splits_otherwise_than_the_file_is_refused(tmp_path, monkeypatch):
    folder = models.with_tokenizer(models.byte_level_tokenizer(), tmp_path / "model")
    other = models.sentencepiece_tokenizer()
    monkeypatch.setattr("indexer.tokens.PreTrainedTokenizerFast", lambda **_: other)
    monkeypatch.setattr("indexer.tokens._control_tokens", lambda _: ({}, []))
    with pytest.raises(AtlasError, match=r"splits “.*” otherwise than its tokenizer\.json says"):
        load_tokenizer(folder)


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
