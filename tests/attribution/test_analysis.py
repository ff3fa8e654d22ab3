"""analyse(): conventions, positions, targets, threads, hooks, and what it refuses."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from app.attribution import Analysis, Conventions, Settings, analyse
from app.attribution.prompt import read_token
from app.attribution.run import require_same_model
from db.errors import AtlasError
from tests import models, oracle

CLOSE = 1e-5  # nats
OTHER_PROMPT = "A blue road ends; the rain runs"


def ids_of(name: str, prompt: str = models.PROMPT) -> list[int]:
    return list(models.language_model(name).tokenizer(prompt)["input_ids"])


def near(got, expected, atol: float = CLOSE) -> None:
    both = [torch.as_tensor(numbers).double() for numbers in (got, expected)]
    torch.testing.assert_close(*both, atol=atol, rtol=0)


def assert_same(one: Analysis, other: Analysis) -> None:
    """Equal but for the clock."""
    assert (one.position, one.target.token, one.conventions) == (other.position, other.target.token, other.conventions)
    near(one.layers.attention, other.layers.attention)
    near(one.layers.ffn, other.layers.ffn)
    near(one.heads, other.heads)
    for ours, theirs in (
        (one.ffn_value_neurons, other.ffn_value_neurons),
        (one.attention_value_neurons, other.attention_value_neurons),
    ):
        assert [(n.neuron, n.position) for n in ours] == [(n.neuron, n.position) for n in theirs]
        assert [n.score for n in ours] == pytest.approx([n.score for n in theirs], abs=CLOSE)
    assert [p.token for p in one.predictions] == [p.token for p in other.predictions]


@pytest.mark.parametrize("conventions", Conventions)
@pytest.mark.parametrize("name", models.FAMILIES)
def test_layers_and_heads_are_those_of_the_plain_method(name, conventions):
    model = models.language_model(name)
    analysis = analyse(model, models.PROMPT, top=0, conventions=conventions)
    run = oracle.run(models.folder(name), ids_of(name))
    target = analysis.target.token.id
    scores = run.scores(target, beta=conventions is Conventions.EXACT)
    near(analysis.layers.attention, scores.attention)
    near(analysis.layers.ffn, scores.ffn)
    near(analysis.heads, scores.heads)
    near(analysis.layers.attention.sum() + analysis.layers.ffn.sum(), scores.final - scores.embedding)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_predictions_and_target_are_the_model_s_own(name):
    model = models.language_model(name)
    own = oracle.run(models.folder(name), ids_of(name)).logits.log_softmax(-1)
    for conventions in Conventions:  # the convention changes scores, not what the model says
        analysis = analyse(model, models.PROMPT, top=0, conventions=conventions)
        best = own.sort(descending=True)
        assert [one.token.id for one in analysis.predictions] == best.indices[:10].tolist()
        assert [one.probability for one in analysis.predictions] == pytest.approx(
            best.values[:10].exp().tolist(), abs=CLOSE
        )
        assert analysis.target.token.id == int(best.indices[0])
        assert analysis.target.log_probability == pytest.approx(float(best.values[0]), abs=CLOSE)
        assert analysis.target.probability == pytest.approx(float(best.values[0].exp()), abs=CLOSE)


@pytest.mark.parametrize("name", models.RMS_NORM_FAMILIES)
def test_the_conventions_agree_where_the_final_norm_has_no_bias(name):
    model = models.language_model(name)
    exact, notebook = (analyse(model, models.PROMPT, top=20, conventions=conventions) for conventions in Conventions)
    assert_same(exact, replace(notebook, conventions=exact.conventions))


@pytest.mark.parametrize("name", models.LAYER_NORM_FAMILIES)
def test_the_conventions_differ_where_it_has_one(name):
    model = models.language_model(name)
    exact, notebook = (analyse(model, models.PROMPT, top=20, conventions=conventions) for conventions in Conventions)
    assert abs(exact.layers.ffn - notebook.layers.ffn).max() > 0.01
    assert abs(exact.heads - notebook.heads).max() > 0.01


@pytest.mark.parametrize("position", [0, 2, -1, -3])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_a_position_is_analysed_as_if_the_prompt_ended_there(name, position):
    model, ids = models.language_model(name), ids_of(name)
    at = position % len(ids)
    chosen = analyse(model, models.PROMPT, top=30, position=position)
    assert chosen.position == at
    assert [token.id for token in chosen.tokens] == ids
    assert all(one.position is not None and one.position <= at for one in chosen.attention_value_neurons)
    # the whole prompt run plainly, later tokens included, and read there
    scores = oracle.run(models.folder(name), ids, at).scores(chosen.target.token.id)
    near(chosen.layers.ffn, scores.ffn)
    near(chosen.heads, scores.heads)
    # and a prompt that does end there
    text = model.tokenizer.decode(ids[: at + 1], skip_special_tokens=True)
    assert text == "" or ids_of(name, text) == ids[: at + 1]
    if text:
        assert_same(chosen, analyse(model, text, top=30))


def test_the_default_position_is_the_last():
    model = models.language_model("qwen2")
    assert_same(analyse(model, models.PROMPT), analyse(model, models.PROMPT, position=len(ids_of("qwen2")) - 1))


def test_settings_and_single_changes_mean_the_same():
    model = models.language_model("qwen3")
    settings = Settings(top=7, target=" the", conventions=Conventions.NOTEBOOK)
    one = analyse(model, models.PROMPT, settings)
    other = analyse(model, models.PROMPT, Settings(top=7), target=" the", conventions=Conventions.NOTEBOOK)
    assert_same(one, other)
    assert len(one.ffn_value_neurons) == 7


def test_a_target_is_text_or_id_and_a_missing_space_is_forgiven():
    model = models.language_model("llama")
    (the,) = model.tokenizer(" the", add_special_tokens=False)["input_ids"]
    (letter,) = model.tokenizer("t", add_special_tokens=False)["input_ids"]
    assert read_token(model, " the").id == read_token(model, "the").id == read_token(model, the).id == the
    assert read_token(model, "t").id == letter  # taken as it stands where it is a token
    assert read_token(model, models.VOCABULARY - 1).id == models.VOCABULARY - 1


def test_two_threads_at_once_yield_what_each_yields_alone():
    model = models.language_model("llama")
    prompts = [models.PROMPT, OTHER_PROMPT] * 10
    alone = {prompt: analyse(model, prompt, top=20) for prompt in set(prompts)}
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda prompt: analyse(model, prompt, top=20), prompts))
    for prompt, analysis in zip(prompts, together, strict=True):
        assert analysis.prompt == prompt
        assert_same(analysis, alone[prompt])


def hooks(module: torch.nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_no_hook_stays_behind():
    model = models.language_model("gpt2")
    before = hooks(model.module)
    analyse(model, models.PROMPT, top=1)
    assert hooks(model.module) == before


@pytest.mark.parametrize("part", ["model.layers.1.mlp", "model.layers.2.self_attn.v_proj", "lm_head"])
def test_no_hook_stays_behind_after_a_failure(part, monkeypatch):
    model = models.language_model("llama")
    before, expected = hooks(model.module), analyse(model, models.PROMPT, top=5)

    def fail(*_args: object, **_kwargs: object) -> None:
        assert hooks(model.module) > before
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(model.module.get_submodule(part), "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            analyse(model, models.PROMPT)
    assert hooks(model.module) == before
    assert not model.lock._is_owned()  # type: ignore[attr-defined]
    assert_same(analyse(model, models.PROMPT, top=5), expected)


@pytest.mark.parametrize(
    ("prompt", "changes", "said"),
    [
        ("", {}, "The prompt is empty"),
        ("the " * 40, {"max_tokens": 20}, "the limit is 20"),
        ("the " * 400, {}, "the limit is 64"),  # the model's own, below the default of 256
        ("x" * 1_000_000, {}, "1,000,000 characters"),
        (models.PROMPT, {"target": " hydrogen"}, "is not one token but"),
        (models.PROMPT, {"target": ""}, "The target is empty"),
        (models.PROMPT, {"target": models.VOCABULARY}, "There is no token 323"),
        (models.PROMPT, {"target": -1}, "There is no token -1"),
        (models.PROMPT, {"position": 7}, "There is no position 7: the prompt has 7 tokens"),
        (models.PROMPT, {"position": -8}, "There is no position -8"),
    ],
)
def test_what_cannot_be_analysed_is_refused_in_words(prompt, changes, said):
    with pytest.raises(AtlasError) as refusal:
        analyse(models.language_model("llama"), prompt, **changes)
    assert said in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_a_target_that_splits_is_shown_in_pieces():
    with pytest.raises(AtlasError) as refusal:
        analyse(models.language_model("llama"), models.PROMPT, target=" to the sea")
    assert "3: ␣to ␣the ␣sea" in str(refusal.value)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_in_words(monkeypatch):
    model = models.language_model("qwen2")
    larger = SimpleNamespace(**{**vars(model), "tokenizer": lambda *_args, **_kwargs: {"input_ids": [1, 2, 323]}})
    larger.forward = lambda ids: type(model).forward(cast(Any, larger), ids)
    with pytest.raises(AtlasError, match="323"):
        analyse(cast(Any, larger), models.PROMPT)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_catalogue_is_joined_with_its_own_model_only(name):
    model = models.language_model(name)

    own = {"checkpoint": model.checkpoint.identity, "unembedding_hash": model.unembedding.hash}
    own |= {"model": "other", "build_id": "b1", "tokenizer_hash": model.checkpoint.tokenizer_hash}

    def refusal(**changed: str) -> str:
        with pytest.raises(AtlasError) as refused:
            require_same_model(model, cast(Any, SimpleNamespace(info=SimpleNamespace(**own | changed))))
        return str(refused.value)

    require_same_model(model, cast(Any, SimpleNamespace(info=SimpleNamespace(**own))))
    other = models.checkpoint("mistral").identity
    for part in (name, "other", "b1", other[:19], own["checkpoint"][:19], "other weights", str(models.folder(name))):
        assert part in refusal(checkpoint=other)
    assert "another unembedding" in refusal(unembedding_hash=models.language_model("mistral").unembedding.hash)
    assert "another tokenizer" in refusal(tokenizer_hash="other")
    assert "does not say which weights" in refusal(checkpoint="")
