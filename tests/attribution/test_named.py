"""Which token is explained: how targets are named, what tokenizers put around a text, and what the models have no row
for.
"""

import json
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import pytest

from app.attribution import analyse, form
from app.attribution.__main__ import main
from app.attribution.batch import analyse_batch, read_prompts
from app.attribution.compare import compare_prompts
from app.attribution.prompt import PromptLine, Settings, read_token
from app.attribution.results import from_json, to_json
from app.attribution.run import run_prompt, tokens_beginning
from db.errors import AtlasError
from indexer.checkpoint import Checkpoint
from indexer.language_model import LanguageModel, load_model
from tests import models

TOKENIZERS = {
    "byte-level": lambda: models.byte_level_tokenizer(bos=True),
    "sentencepiece": lambda: models.sentencepiece_tokenizer(template="<s> $A </s>"),
    "lower case": lambda: _padded(models.unigram_tokenizer(prepend="never", template="$A </s>")),
}


def _padded(tokenizer: Any) -> Any:
    """With a token beyond the model's rows, as one that was added without resizing the model."""
    tokenizer.add_tokens([f"filler{number}" for number in range(len(tokenizer), models.VOCABULARY)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == models.VOCABULARY
    return tokenizer


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def load(name: str) -> LanguageModel:
        folder = models.with_tokenizer(TOKENIZERS[name](), tmp_path_factory.mktemp("model") / "x")
        return load_model(Checkpoint(name, folder))

    return load


def pieces(model: LanguageModel) -> dict[str, int]:
    return dict(model.tokenizer.get_vocab())


@pytest.mark.parametrize(
    ("given", "piece", "said"),
    [
        ("s", "s", ["“s” (#", "taken, as typed; there is also the byte “s” (#118)"]),
        ("sea", "sea", ["“sea” (#", "taken, as typed", "there is also “␣sea” (#"]),
        (" sea", "▁sea", []),
        ("the", "▁the", ["“the” is no token: “␣the” (#", "was taken"]),
        ("\n", "<0x0A>", []),
        ("5", "<0x35>", []),
        ("é", None, ["is not one token but"]),
        ("␣sea", "▁sea", []),
        ("▁sea", "▁sea", ["“▁sea” was read as “␣sea” (#"]),
        ("Ġsea", "▁sea", ["was read as “␣sea” (#"]),
        ("⟨0A⟩", "<0x0A>", ["was read as the byte “↵” (#13)"]),
        ("↵", "<0x0A>", []),
        ("<0x0A>", "<0x0A>", ["was read as the byte “↵”"]),
        ("\\n", "<0x0A>", ["was read as the byte “↵”"]),
        ("⟨E4⟩", "<0xE4>", []),
        ("<0x73>", "<0x73>", ["was read as the byte “s” (#118)"]),
        ("</s>", "</s>", []),
        ("#13", "<0x0A>", []),
        ("#322", 322, []),
        ("#323", None, ["no token 323"]),
        ("#-1", None, ["is not one token"]),
        ("日", None, ["is not one token but 4: ␣ ⟨E6⟩ ⟨97⟩ ⟨A5⟩"]),
        ("SEA", None, ["is not one token but", "Near it: “sea” (#", "“␣sea” (#"]),
    ],
)
def test_a_target_of_a_sentencepiece_tokenizer(loaded, given, piece, said):
    model = loaded("sentencepiece")
    if piece is None:
        with pytest.raises(AtlasError) as refusal:
            read_token(model, given)
        for words in said:
            assert words in str(refusal.value)
        return
    found = read_token(model, given)
    expected = piece if isinstance(piece, int) else pieces(model)[piece]
    assert found.id == expected
    assert bool(found.said) == bool(said), found.said
    for words in said:
        assert words in found.said


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece", "lower case"])
def test_every_token_can_be_named_by_what_is_shown_of_it(loaded, name):
    """By its id, by its display form, and as its vocabulary writes it; of tokens with the same bytes any is meant."""
    model = loaded(name)
    for piece, token_id in pieces(model).items():
        if token_id >= models.VOCABULARY:
            continue
        data = model.tokens.bytes_of(token_id)
        assert read_token(model, f"#{token_id}").id == token_id
        for text in (model.tokens.display(token_id), piece):
            assert model.tokens.bytes_of(read_token(model, text).id) == data, (piece, text)


def test_byte_level_pieces_are_understood_and_literal_text_wins(loaded):
    model = loaded("byte-level")
    vocabulary = pieces(model)
    for text in ("␣sea", "Ġsea", "▁sea", " sea"):
        assert read_token(model, text).id == vocabulary["Ġsea"], text
    assert read_token(model, "sea").id == vocabulary["sea"]
    assert read_token(model, "river").said.startswith("“river” is no token: “␣river” (#")
    assert read_token(model, "Ã").id == vocabulary["Ã"]  # a single byte, as the vocabulary writes it
    assert read_token(model, "⟨C3⟩").id == vocabulary["Ã"]
    assert read_token(model, "s").said == ""  # “␣s” is no token here


@pytest.mark.parametrize("what", ["target", "distractor"])
def test_whatever_is_substituted_is_said(loaded, what):
    model = loaded("sentencepiece")
    named: list[dict[str, Any]] = [{what: "the"}, {what: " the"}]
    analysis, plain = (analyse(model, models.PROMPT, replace(Settings(top=2), **one)) for one in named)
    (said,) = [one for one in analysis.notices if "was taken" in one]
    assert said.startswith("“the” is no token: “␣the”")
    again = from_json(json.loads(json.dumps(to_json(analysis))))
    assert again.notices == analysis.notices
    assert not [one for one in plain.notices if "taken" in one]


@pytest.mark.parametrize("name", ["sentencepiece", "lower case"])
def test_what_follows_the_text_s_own_last_token_is_explained(loaded, name):
    """A tokenizer that appends EOS is common; what a model says after it is not what was asked."""
    model = loaded(name)
    analysis = analyse(model, models.PROMPT, top=2)
    bare = model.tokenizer(models.PROMPT, add_special_tokens=False)["input_ids"]
    expected = ([1] if name == "sentencepiece" else []) + bare
    assert [token.id for token in analysis.tokens] == expected
    assert analysis.position == len(expected) - 1
    assert analysis.predictions[0].token.id == int(model.forward(expected).logits.argmax())
    assert any("“</s>”, which the tokenizer puts after a text, was left out" in one for one in analysis.notices)
    assert any("put “<s>” before" in one for one in analysis.notices) == (name == "sentencepiece")
    typed = analyse(model, f"{models.PROMPT}</s>", top=2)  # asked for in so many words
    assert typed.tokens[-1].id == 2


def test_a_doubled_bos_is_said_and_bos_can_be_left_out(loaded):
    model = loaded("byte-level")
    doubled = analyse(model, "<s>The sea", top=2)
    assert [token.id for token in doubled.tokens[:2]] == [0, 0]
    assert any("stands there twice" in one for one in doubled.notices)
    alone = analyse(model, "<s>The sea", top=2, bos=False)
    once = analyse(model, "The sea", top=2)
    assert [token.id for token in alone.tokens] == [token.id for token in once.tokens]
    assert alone.target == once.target
    assert not any("twice" in one for one in (*alone.notices, *once.notices))
    without = analyse(model, "The sea", top=2, bos=False)
    assert [token.id for token in without.tokens] == [token.id for token in once.tokens[1:]]
    assert without.notices == ("“<s>”, which the tokenizer puts before a text, was left out.",)
    assert from_json(to_json(without)).bos is False
    assert from_json({name: one for name, one in to_json(once).items() if name != "bos"}).bos is True  # as it was


def test_a_text_that_the_tokenizer_changes_is_said(loaded):
    model = loaded("sentencepiece")
    assert not any("changed" in one for one in analyse(model, "The é 日\n sea", top=1).notices)
    (said,) = [one for one in analyse(model, "The▁sea", top=1).notices if "changed" in one]
    assert "“␣The␣sea”" in said


def test_a_token_without_a_row_is_refused_in_words(loaded):
    model = loaded("lower case")
    for given in ("[PAD]", models.VOCABULARY, f"#{models.VOCABULARY}"):
        with pytest.raises(AtlasError, match=r"“\[PAD\]” \(#323\) is a token of the tokenizer, but the model has rows"):
            analyse(model, models.PROMPT, distractor=given)
    with pytest.raises(AtlasError, match=r"makes “\[PAD\]” \(#323\) of this prompt"):
        analyse(model, "The [PAD]")
    with pytest.raises(AtlasError, match="There is no token 5000"):
        analyse(model, models.PROMPT, target=5000)


def test_one_such_row_does_not_end_a_batch(loaded, tmp_path):
    model, file = loaded("lower case"), tmp_path / "prompts.jsonl"
    rows: list[dict[str, Any]] = [
        {"prompt": "The sea", "target": "[PAD]"},
        {"prompt": "The sea", "target_id": 10**30},
        {"prompt": "The sea", "distractor_id": 323},
        {"prompt": "The [PAD]"},
        {"prompt": "The sea", "target": "hydrogen"},
        {"prompt": "The sea", "target_id": 270, "distractor": "#271", "bos": False},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    lines = read_prompts(file)
    assert lines[-1] == PromptLine("The sea", target=270, distractor="#271", bos=False)
    found = analyse_batch(model, lines, Settings(top=1), tmp_path / "out.jsonl")
    assert ["error" in row for row in found] == [True] * 5 + [False]
    assert (found[-1]["target"]["id"], found[-1]["contrast"]["distractor"]["id"]) == (270, 271)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"target": "a", "target_id": 1}, "target and target_id are both given"),
        ({"distractor_id": "1"}, "distractor_id is no token id"),
        ({"target_id": True}, "target_id is no token id"),
        ({"bos": 0}, "bos is neither true nor false"),
    ],
)
def test_a_line_that_names_no_token_is_refused(tmp_path, line, said):
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": "The sea"} | line))
    with pytest.raises(AtlasError, match=said):
        read_prompts(file)


def test_the_shell_takes_ids_and_leaves_bos_out(capsys, tmp_path):
    folder = models.with_tokenizer(TOKENIZERS["sentencepiece"](), tmp_path / "x")
    asked = [models.PROMPT, "--model", str(folder), "--top", "2", "--no-suppressing"]
    assert main([*asked, "--target-id", "13", "--distractor-id", "14", "--no-bos", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["target"]["id"], found["contrast"]["distractor"]["id"], found["bos"]) == (13, 14, False)
    assert found["token_ids"][0] != 1
    assert main([*asked, "--target", "the"]) == 0
    out = capsys.readouterr().out
    assert "note         “the” is no token: “␣the”" in out
    assert "note         The tokenizer put “<s>” before the text." in out
    assert main([*asked, "--against-target-id", "14", "--target", "the", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["second"]["target"]["id"] == 14
    assert any(one.startswith("“the” is no token") for one in found["notices"])
    assert main([*asked, "--target-id", "5000"]) == 2
    assert "There is no token 5000" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*asked, "--target", "the", "--target-id", "3"])


def test_a_comparison_says_what_both_runs_read(loaded):
    model = loaded("sentencepiece")
    first, second = (Settings(top=1, target=one) for one in ("the", "sea"))
    found = compare_prompts(model, (models.PROMPT, first), (models.PROMPT, second), 1)
    assert [one for one in found.notices if "taken" in one] == [
        read_token(model, "the").said,
        read_token(model, "sea").said,
    ]
    assert form.written(found)["notices"] == list(found.notices)
    assert len(found.notices) == len(set(found.notices))


def test_tokens_to_choose_from_begin_with_what_was_typed_exactly(loaded):
    model = loaded("sentencepiece")
    run = run_prompt(model, models.PROMPT, Settings())
    for text in ("⟨0A⟩", "#13", "\n", "<0x0A>"):
        assert tokens_beginning(run, text)[0].token.id == 13, text
    assert tokens_beginning(run, "sea")[0].token.id == pieces(model)["sea"]


def test_settings_of_a_line_leave_the_others_alone():
    settings = Settings(bos=False, target=5)
    assert PromptLine("x").applied(settings) == settings
    assert asdict(PromptLine("x", bos=True).applied(settings)) == asdict(replace(settings, bos=True))


def test_a_text_longer_than_any_token_is_refused_and_a_long_one_is_not_cut(loaded):
    model = loaded("byte-level")
    with pytest.raises(AtlasError, match="The target has 1,001 characters; a token has at most 1,000"):
        read_token(model, "x" * 1001)
    with pytest.raises(AtlasError, match="is not one token but"):
        read_token(model, "x" * 900)
