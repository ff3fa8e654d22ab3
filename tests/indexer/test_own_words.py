"""A model writes a corpus: the same again with the same seed, also after a kill, and it says whose words they are."""

import json
import shutil

import pytest

from db.errors import AtlasError
from indexer import __main__ as command
from indexer import own_words
from indexer.checkpoint import Checkpoint
from indexer.corpus import open_corpus
from indexer.language_model import load_model
from indexer.own_words import tasks, write_own_words
from tests import models

TOPICS = (("the sea", ""), ("rain", ""), ("the hill", ""), ("Tell a joke.", "Why"), ("roads", ""))


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Prompts that fit into the small models, two to a batch."""
    monkeypatch.setattr(own_words, "_topics", lambda: TOPICS)
    monkeypatch.setattr(own_words, "_FORMS", (("Explain {}.", "{}:"), ("List {}.", "- {}")))
    monkeypatch.setattr(own_words, "_MOST", 2)


def write(path, name="llama", **options):
    return write_own_words(models.checkpoint(name), path, **{"topics": 5, "tokens": 12} | options)


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_same_seed_gives_the_same_corpus(name, tmp_path):
    for file, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert write(tmp_path / file, name, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found, other = records(tmp_path / "a"), records(tmp_path / "c")
    assert [one["topic"] for one in found] == [topic for topic, _ in TOPICS]
    assert len({one["text"] for one in [*found, *other]}) > 5
    assert found[3]["text"].startswith("Why"), "its beginning is part of it"
    longest = max(len(models.language_model(name).tokens.bytes_of(one)) for one in models.tokens_of(name))
    for record in found:
        assert len(record["text"].encode()) <= len("Why") + 12 * longest
        assert "<s>" not in record["text"], "no control tokens"
    assert not [one for one in tmp_path.iterdir() if one.suffix == ".part"]


def test_padding_on_the_left_changes_nothing(tmp_path, monkeypatch):
    """One likeliest token at a time, so that chance has no part: alone and beside a longer prompt."""
    monkeypatch.setattr(own_words, "_CANDIDATES", 1)
    model = models.language_model("llama")
    prompts = [[1, 40, 41], [1, 50, 51, 52, 53, 54, 55, 56]]
    alone = [own_words._written(model, [prompt], 10, seed=0)[0] for prompt in prompts]
    assert own_words._written(model, prompts, 10, seed=0) == alone
    assert len(set(alone)) == 2


def test_a_run_that_was_stopped_goes_on_to_the_same_end(tmp_path):
    write(tmp_path / "whole")

    def stop_in_the_last(batches, _total):
        for number, start in enumerate(batches):
            if number == 2:
                raise KeyboardInterrupt
            yield start

    said: list[str] = []
    path = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        write(path, progress=stop_in_the_last)
    assert not path.exists()
    with path.with_name("stopped.part").open("a") as file:
        file.write('{"text": "half a batch", "topic": ')
    assert write(path, say=said.append)
    assert said == ["Going on: 4 of 5 texts are written."]
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert not write(path), "and is not done twice"
    with pytest.raises(AtlasError, match="is there already and holds something else"):
        write(path, seed=3)


def test_the_corpus_says_whose_words_they_are(tmp_path):
    write(tmp_path / "own.jsonl", seed=7)
    corpus = open_corpus(str(tmp_path / "own.jsonl"))
    assert (corpus.own_words, corpus.written_by) == (True, models.checkpoint("llama").identity)
    assert corpus.description == "llama's own words on 5 topics, drawn with seed 7"
    assert len(list(corpus)) == 5
    (tmp_path / "other.jsonl").write_text('{"text": "a"}\n')
    assert not open_corpus(str(tmp_path / "other.jsonl")).own_words


def test_a_chat_model_is_asked_and_another_continues(tmp_path):
    folder = shutil.copytree(models.folder("llama"), tmp_path / "chat")
    (folder / "chat_template.jinja").write_text("[{{ messages[0]['content'] }}]")
    task, joke = tasks(5)[0], tasks(5)[3]
    model = models.language_model("llama")
    chat = load_model(Checkpoint("chat", folder))
    assert [model.tokenizer.decode(own_words._prompt(model, one)) for one in (task, joke)] == ["<s>the sea:", "<s>Why"]
    assert [chat.tokenizer.decode(own_words._prompt(chat, one)) for one in (task, joke)] == [
        "[Explain the sea.]",
        "[Tell a joke.]Why",
    ]


def test_topics_are_spread_over_the_list_and_go_round_it_in_other_forms():
    assert [task.topic for task in tasks(2)] == ["the sea", "the hill"]
    twice = tasks(10)
    assert [task.topic for task in twice[5:]] == [topic for topic, _ in TOPICS]
    assert (twice[0].ask, twice[5].ask) == ("Explain the sea.", "List the sea.")


def test_the_list_is_broad_and_every_topic_stands_once(monkeypatch):
    monkeypatch.undo()
    topics = own_words._topics()
    assert len(topics) >= 400
    assert len({topic for topic, _ in topics}) == len(topics)
    assert all(beginning for topic, beginning in topics if topic.startswith(("Write", "Schreibe", "Tell")))
    assert len({task.ask for task in tasks(2 * len(topics))}) > 1.7 * len(topics)


def test_from_the_shell_it_prints_the_files_name(tmp_path, capsys, monkeypatch):
    folder, path = str(models.folder("llama")), str(tmp_path / "own.jsonl")
    arguments = ["own-words", folder, "--to", path, "--topics", "2", "--tokens", "3"]
    for said in ("is written: llama's own words.", "is there already: nothing to do."):
        assert command.main(arguments) == 0
        out, error = capsys.readouterr()
        assert out == f"{path}\n"
        assert said in error
    assert (
        command.main(["own-words", folder, "--catalogue", str(tmp_path / "c"), "--topics", "1", "--tokens", "3"]) == 0
    )
    assert capsys.readouterr().out.strip() == str(tmp_path / "c" / "llama" / own_words.FILE)
    assert command.main(["own-words", folder, "--to", f"{path}2", "--tokens", "60"]) == 2
    assert "takes 64 tokens. Ask for at most" in capsys.readouterr().err
    assert command.main(["own-words", folder, "--to", f"{tmp_path}/no/x"]) == 2
    assert "There is no folder" in capsys.readouterr().err
