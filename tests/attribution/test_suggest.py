"""Tokens to choose a target from: those that begin so, by probability."""

from app.attribution import Settings, run_prompt
from app.attribution.run import tokens_beginning
from db.token_text import readable
from tests import models


def test_all_that_begin_so_by_their_probability():
    model = models.language_model("llama")
    run = run_prompt(model, models.PROMPT, Settings())
    expected = {
        token_id
        for token_id in range(models.TOKENS)
        if readable(model.tokens.bytes_of(token_id)).lower().removeprefix(" ").startswith("ri")
        and not model.tokens.is_special(token_id)
    }
    found = tokens_beginning(run, "RI", 1000)
    assert expected
    assert {one.token.id for one in found} >= expected
    assert all(one.token.text.lower().startswith(("ri", " ri")) for one in found)
    probabilities = [one.probability for one in found]
    assert probabilities == sorted(probabilities, reverse=True)
    assert tokens_beginning(run, "ri", 1) == found[:1]


def test_nothing_typed_or_nothing_found():
    run = run_prompt(models.language_model("gpt2"), models.PROMPT, Settings())
    assert tokens_beginning(run, "") == ()
    assert tokens_beginning(run, "no token begins like this") == ()
