"""A prompt as a user's message: the model's chat template around it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from app.attribution import analyse
from app.attribution.__main__ import main
from app.attribution.batch import analyse_batch, read_prompts
from app.attribution.compare import compare_prompts
from app.attribution.prompt import PromptLine, Settings
from app.attribution.results import from_json, to_json
from db.errors import AtlasError
from indexer.checkpoint import Checkpoint
from indexer.language_model import LanguageModel, load_model
from tests import models

TEMPLATE = (
    "{{ bos_token }}{% for one in messages %}the {{ one['role'] }}\n{{ one['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}the sea\n{% endif %}"
)
MESSAGE = "The river runs"


def folder_with(into: Path, template: str | None, name: str = "llama", tokenizer: Any = None) -> Path:
    tokenizer = tokenizer or models.sentencepiece_tokenizer(prepend="never", template="<s> $A </s>")
    folder = models.with_tokenizer(tokenizer, into / "x", name)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LanguageModel:
    return load_model(Checkpoint("chatty", folder_with(tmp_path_factory.mktemp("chat"), TEMPLATE)))


def test_the_tokens_are_those_of_transformers_and_end_before_the_answer(model):
    given = AutoTokenizer.from_pretrained(model.checkpoint.folder)
    messages = [{"role": "user", "content": MESSAGE}]
    expected = given.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    found = analyse(model, MESSAGE, top=2, chat=True)
    assert [token.id for token in found.tokens] == expected
    assert expected.count(1) == 1, "BOS once, by the template alone"
    assert [token.display for token in found.tokens].count("</s>") == 1, "control tokens are shown as they are"
    assert expected[-1] != 2
    assert found.position == len(expected) - 1
    assert found.predictions[0].token.id == int(model.forward(expected).logits.argmax())
    assert found.prompt == MESSAGE
    assert found.chat
    assert found.notices[0].startswith("The text was put into the model’s chat template")
    assert not analyse(model, MESSAGE, top=2).chat, "off by default"


def test_the_choice_is_kept_and_older_results_are_read(model):
    found, plain = (analyse(model, MESSAGE, top=2, chat=chat) for chat in (True, False))
    assert to_json(found)["chat"] is True
    assert "chat" not in to_json(plain)
    assert from_json(json.loads(json.dumps(to_json(found)))).chat is True
    assert from_json(json.loads(json.dumps(to_json(plain)))).chat is False


@pytest.mark.parametrize(
    ("template", "notice"),
    [
        (TEMPLATE.replace("one['content']", "one['content'] | upper"), "The template changed the message itself"),
        (TEMPLATE.replace("{{ bos_token }}", ""), "“<s>”, which the tokenizer puts before a text, is not in the"),
        (TEMPLATE + "{{ strftime_now('%Y') }}", "The template writes today’s date"),
    ],
)
def test_what_a_template_does_besides_is_said(tmp_path, template, notice):
    loaded = load_model(Checkpoint("chatty", folder_with(tmp_path, template)))
    said = analyse(loaded, MESSAGE, top=1, chat=True).notices
    assert any(one.startswith(notice) for one in said)
    assert len(said) == 2


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "x has no chat template"),
        ("{% for one in messages %}", "The chat template of x cannot be applied"),
        ("{{ raise_exception('Roles must alternate') }}", r"cannot be applied \(Roles must alternate\)"),
        ("{{ messages.__class__.__mro__ }}", "cannot be applied"),
        ("{{ messages[7].content }}", "cannot be applied"),
    ],
)
def test_a_template_that_is_missing_or_broken_gives_one_message(tmp_path, capsys, template, reason):
    folder = folder_with(tmp_path, template)
    loaded = load_model(Checkpoint("x", folder))
    with pytest.raises(AtlasError, match=reason):
        analyse(loaded, MESSAGE, chat=True)
    assert analyse(loaded, MESSAGE, top=1).tokens, "what is asked without it is answered"
    assert main([MESSAGE, "--model", str(folder), "--chat"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_template_in_the_config_is_read_and_a_file_of_its_own_wins(tmp_path):
    folder = folder_with(tmp_path, None)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": TEMPLATE}]
    for given, expected in ((TEMPLATE, TEMPLATE), (several, TEMPLATE), (several[:1], None), (5, None)):
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": given}))
        assert Checkpoint("x", folder).tokenizer.chat_template == expected
    (folder / "chat_template.jinja").write_text("another")
    assert Checkpoint("x", folder).tokenizer.chat_template == "another"


def test_another_template_is_another_checkpoint_to_whoever_waits_for_changes(tmp_path):
    checkpoint = Checkpoint("x", folder_with(tmp_path, TEMPLATE))
    assert checkpoint.files
    assert checkpoint.is_unchanged
    (checkpoint.folder / "chat_template.jinja").write_text("another one")
    assert not checkpoint.is_unchanged


def test_a_chat_leaves_nothing_out_and_has_the_same_limits(model):
    with pytest.raises(AtlasError, match="not for both"):
        analyse(model, MESSAGE, chat=True, bos=False)
    with pytest.raises(AtlasError, match="The prompt is empty"):
        analyse(model, "", chat=True)
    with pytest.raises(AtlasError, match="tokens; the limit is 9"):
        analyse(model, MESSAGE, chat=True, max_tokens=9)


def test_each_of_many_prompts_may_be_one(model, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": MESSAGE} | one) for one in ({}, {"chat": True}, {"chat": False})))
    lines = read_prompts(file)
    assert lines == [PromptLine(MESSAGE), PromptLine(MESSAGE, chat=True), PromptLine(MESSAGE, chat=False)]
    rows = analyse_batch(model, lines, Settings(top=1), tmp_path / "out.jsonl")
    assert [row.get("chat", False) for row in rows] == [False, True, False]
    assert len(rows[1]["token_ids"]) > len(rows[0]["token_ids"])
    file.write_text(json.dumps({"prompt": MESSAGE, "chat": 1}))
    with pytest.raises(AtlasError, match="chat is neither true nor false"):
        read_prompts(file)


def test_two_messages_are_compared_as_messages(model):
    found = compare_prompts(model, (MESSAGE, Settings(chat=True)), ("The road runs", Settings(chat=True)), 2)
    expected = [analyse(model, text, top=1, chat=True) for text in (MESSAGE, "The road runs")]
    assert [side.tokens for side in (found.first, found.second)] == [one.tokens for one in expected]
    assert found.first.target.log_probability == pytest.approx(expected[0].target.log_probability, abs=1e-5)


def test_the_shell_takes_a_message(model, capsys):
    asked = [MESSAGE, "--model", str(model.checkpoint.folder), "--top", "2", "--no-suppressing", "--chat"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chat"] is True
    assert found["token_ids"] == [token.id for token in analyse(model, MESSAGE, top=1, chat=True).tokens]
    assert main(asked) == 0
    assert "note         The text was put into the model’s chat template" in capsys.readouterr().out
    assert main([*asked, "--no-bos"]) == 2
    assert "not for both" in capsys.readouterr().err
