"""Descriptions of neurons by a language model that the user names, scored by how well they predict activations.

Of the excerpts of a neuron's usual end every second one is shown, with its peak marked, and the model says what they
have in common. The others, and excerpts of the other end, are then rated by the model from the description alone: the
score is the rank correlation of its ratings with the activations. Anything that speaks the chat completions of OpenAI's
API will do. What is sent: excerpts of the corpus.
"""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
from scipy.stats import spearmanr

from db.catalogue.store import Catalogue
from db.errors import AtlasError, first_line
from db.neuron import Neuron, NeuronKind, Sign
from db.questions import Filters, texts_of
from db.texts.records import Description, Excerpt, NeuronTexts
from db.texts.store import add_description, descriptions
from indexer.work import Progress, Say

KEY = "ENDPOINT_KEY"
"""The environment variable with the endpoint's key."""
_TRIES = 4
_SECONDS = 120.0
_FEWEST = 4  # excerpts of the usual end: two to see, two to predict
_WRITTEN = 40  # tokens of a description
_TOKENS_SENT = 1100  # of both requests together, for the estimate
_DESCRIBE = (
    "These excerpts activate one neuron of a language model most, each at the token in ⟦brackets⟧. Say in at most "
    "twelve words what the marked places have in common. Answer with the description alone.\n\n{excerpts}"
)
_RATE = (
    "A neuron of a language model is described as: {description}\n\nHow strongly does it respond at the token in "
    "⟦brackets⟧ of each excerpt, from 0 (not) to 10 (most)? Answer with a JSON list of {count} numbers alone."
    "\n\n{excerpts}"
)


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible API and one of its models.

    Raises:
        AtlasError: the address is none.
    """

    url: str
    model: str
    key: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise AtlasError(f"“{self.url[:80]}” is no endpoint: give an address such as http://127.0.0.1:8080/v1.")

    def answer(self, question: str, tokens: int) -> str:
        """What the model says.

        Raises:
            AtlasError: it cannot be reached, refuses, or answers in another form.
        """
        body = {"model": self.model, "messages": [{"role": "user", "content": question}], "temperature": 0}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = Request(
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(body | {"max_tokens": tokens}).encode(), headers
        )
        for wait in [2.0**number for number in range(_TRIES - 1)] + [0.0]:
            try:
                with urlopen(request, timeout=_SECONDS) as answer:
                    return str(json.load(answer)["choices"][0]["message"]["content"])
            except HTTPError as error:
                if wait == 0 or not (error.code == 429 or error.code >= 500):
                    raise AtlasError(f"{self.url} refuses (HTTP {error.code} {error.reason}). Check {KEY}.") from error
            except (URLError, HTTPException, OSError) as error:
                if wait == 0:
                    raise AtlasError(f"{self.url} cannot be reached ({first_line(error)}).") from error
            except (ValueError, KeyError, IndexError, TypeError) as error:
                raise AtlasError(f"{self.url} does not answer as chat completions do ({first_line(error)}).") from error
            time.sleep(wait)
        raise AssertionError


def wanted(catalogue: Catalogue, labels: Sequence[str], layers: tuple[int, int] | None) -> list[Neuron]:
    """The neurons named, or all FFN neurons of some layers, less those that have a description already.

    Raises:
        AtlasError: no such neuron, or no texts.
    """
    known = descriptions(catalogue.path.parent, texts_of(catalogue).stamp.checkpoint)
    filters = Filters(kind=NeuronKind.FFN, layers=layers)
    catalogue.checked((), filters)
    spans = [] if labels else catalogue.layout.spans(filters) or []
    named = [Neuron.parse(label) for label in labels]
    named += [catalogue.layout.neuron(one) for first, last in spans for one in range(first, last + 1)]
    return [one for one in dict.fromkeys(named) if one.label not in known]


def estimate(neurons: int) -> str:
    """What it costs to describe so many, as a sentence."""
    sent, written = neurons * _TOKENS_SENT, neurons * 2 * _WRITTEN
    return (
        f"{neurons:,} neurons are to be described: {2 * neurons:,} requests, about {sent:,} tokens sent and at most "
        f"{written:,} answered. Excerpts of the corpus are sent to the endpoint."
    )


def describe(catalogue: Catalogue, neurons: Sequence[Neuron], endpoint: Endpoint, say: Say, progress: Progress) -> int:
    """Ask for the description of each, and keep it at once; returns how many there are now.

    Raises:
        AtlasError: the endpoint cannot be asked. What was described is kept, and the same command goes on from it.
    """
    texts, done = texts_of(catalogue), 0
    for place in progress(iter(range(len(neurons))), len(neurons)):
        found = texts.of(neurons[place])
        if found.usual is None or len(found.at(found.usual)) < _FEWEST:
            say(f"{found.neuron} has too few excerpts to be described.")
            continue
        own = found.at(found.usual)
        text = " ".join(endpoint.answer(_DESCRIBE.format(excerpts=_listed(own[::2])), _WRITTEN).split())[:300]
        score = _score(endpoint, text, found, found.usual) if text else None
        stamp = texts.stamp
        made = Description(found.neuron.label, stamp.checkpoint, stamp.texts_id, text, score, endpoint.model)
        add_description(catalogue.path.parent, made)
        done += 1
    return done


def _score(endpoint: Endpoint, text: str, found: NeuronTexts, usual: Sign) -> float | None:
    """Rank correlation of the ratings of excerpts that were not shown with their activations in the usual direction."""
    held_out = [*found.at(usual)[1::2], *found.at(usual.other)[: len(found.at(usual)) // 2]]
    held_out.sort(key=lambda one: (one.window, one.position))  # an order that tells nothing
    question = _RATE.format(description=text, count=len(held_out), excerpts=_listed(held_out))
    ratings = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", endpoint.answer(question, 2 * _WRITTEN))]
    if len(ratings) != len(held_out):
        return None
    sign = 1 if usual is Sign.PROMOTES else -1
    return rank_correlation(ratings, [sign * one.peak for one in held_out])


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's; None where one of both is constant.

    >>> rank_correlation([1, 2, 3], [10, 30, 20])
    0.5
    """
    if min(np.ptp(first), np.ptp(second)) == 0:
        return None
    return round(float(spearmanr(first, second).statistic), 6)


def _listed(excerpts: Sequence[Excerpt]) -> str:
    lines = (" ".join(one.marked("text").split()) for one in excerpts)
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))
