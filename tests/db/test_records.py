"""What the records look like in JSON and as frames, written out by hand: scripts and spreadsheets rely on it."""

from pathlib import Path

from db.catalogue.export import as_json, card_frame, frame_of, json_fields
from db.neuron import Neuron, NeuronKind, Sign
from db.records import (
    Build,
    BuildStamp,
    Concept,
    ConceptAnswer,
    ConceptNeuron,
    Hit,
    LayerCount,
    MatchedToken,
    Model,
    Neighbour,
    NeuronCard,
    Overview,
    PeakedNeuron,
    SimilarNeuron,
    Token,
    TokenFavour,
    TokenLogit,
    TokenPage,
    UnmatchedWord,
    WeightedToken,
)

PARIS = Token(7, " Paris", "␣Paris", False)
BROKEN = Token(9, "⟨E4⟩", "⟨E4⟩", False)
FFN, ATTENTION = Neuron.ffn(2, 5), Neuron.attention(1, 0, 3)
HIT = Hit(ATTENTION, Sign.SUPPRESSES, 4, PARIS, -1.5, -2.25)
HIT_JSON = {
    "neuron": "L1.H0.N3",
    "sign": "suppresses",
    "token": " Paris",
    "token_id": 7,
    "rank": 4,
    "logit": -1.5,
    "z": -2.25,
    "usual": None,
    "name": None,
}
UNKNOWN = {"usual": None, "name": None}
STAMP = BuildStamp("b1", 2, "code", "2026-01-01", "toy", "llama", "c", "u", "t", 3, 8, 40, 21, 18, 2, 3, 5)


def same(record: object, expected: object) -> None:
    """Equal, and names in the same order."""
    found = as_json(record)
    assert found == expected
    assert repr(found) == repr(expected)


def test_hits_and_neurons() -> None:
    same([HIT, HIT], [HIT_JSON, HIT_JSON])
    same((), [])
    entry = {"token_id": 7, "token": " Paris", "logit": 2.0, "z": 3.0}
    card = NeuronCard(FFN, 0.5, 1.5, 2.5, (TokenLogit(PARIS, 2.0, 3.0),), (TokenLogit(BROKEN, -1.0, -2.0),))
    same(
        card,
        {
            "neuron": "L2.F5",
            "kind": "ffn",
            "layer": 2,
            "mean": 0.5,
            "std": 1.5,
            "norm": 2.5,
            "top": [entry],
            "bottom": [{"token_id": 9, "token": "⟨E4⟩", "logit": -1.0, "z": -2.0}],
            "generic": "",
            **UNKNOWN,
        },
    )
    same(
        [SimilarNeuron(FFN, 0.25, True, (PARIS, BROKEN))],
        [{"neuron": "L2.F5", "similarity": 0.25, "opposite": True, "shared": [" Paris", "⟨E4⟩"], **UNKNOWN}],
    )
    known = SimilarNeuron(FFN, 0.25, True, (), Sign.SUPPRESSES, "colours")
    assert list(as_json(known).items())[-2:] == [("usual", "suppresses"), ("name", "colours")]


def test_concepts() -> None:
    concept = Concept((WeightedToken(PARIS, 0.12345678),), (UnmatchedWord("absent", (BROKEN,), ()),), True)
    end = ConceptNeuron(FFN, Sign.PROMOTES, 1.25, (MatchedToken(PARIS, 1.0, 1, 3.0),))
    same(
        ConceptAnswer(concept, (end,)),
        {
            "tokens": [{"token_id": 7, "token": " Paris", "weight": 0.123457}],
            "unmatched": ["absent"],
            "suggestions": [],
            "passed_over": [],
            "neurons": [{"neuron": "L2.F5", "sign": "promotes", "score": 1.25, "matched": [" Paris"], **UNKNOWN}],
        },
    )


def test_a_token_and_a_build() -> None:
    counts = (LayerCount(0, NeuronKind.FFN, Sign.PROMOTES, 3),)
    same(
        TokenPage(PARIS, (Neighbour(1, BROKEN, 0.53149),), 12, (), (HIT,), counts),
        {
            "token_id": 7,
            "token": " Paris",
            "neighbours": [{"token_id": 9, "token": "⟨E4⟩", "cosine": 0.531}],
            "neighbour_of": 12,
            "promotes": [],
            "suppresses": [HIT_JSON],
            "layers": [{"layer": 0, "kind": "ffn", "sign": "promotes", "neurons": 3}],
        },
    )
    same(
        Overview((), (PeakedNeuron(FFN, Sign.PROMOTES, 9.5, PARIS),), (TokenFavour(PARIS, Sign.SUPPRESSES, 2, 6),)),
        {
            "layers": [],
            "peaked": [{"neuron": "L2.F5", "sign": "promotes", "z": 9.5, "token": " Paris", **UNKNOWN}],
            "favourites": [{"token_id": 7, "token": " Paris", "sign": "suppresses", "first": 2, "stored": 6}],
        },
    )
    path = Path("toy/build-b1.duckdb")
    known = {"model": "toy", "current": True, "build_id": "b1", "created_at": "2026-01-01", "neurons": 39, "depth": 5}
    unknown = {"model": "toy", "current": False, "build_id": None, "created_at": None, "neurons": None, "depth": None}
    same(
        [Build("toy", True, STAMP, 100, path), Build("toy", False, None, 7, path, "cut short")],
        [
            {**known, "bytes": 100, "path": "toy/build-b1.duckdb", "problem": None},
            {**unknown, "bytes": 7, "path": "toy/build-b1.duckdb", "problem": "cut short"},
        ],
    )
    assert list(as_json(Model("toy", STAMP, None, True))) == [
        *("model", "build_id", "created_at", "family", "layers", "heads", "d_model", "vocabulary"),
        *("ffn_neurons", "attention_neurons", "depth", "padding", "dequantised", "neighbour_recall"),
        *("problem", "first"),
    ]


def test_frames() -> None:
    hits = frame_of(Hit, [HIT, Hit(FFN, Sign.PROMOTES, 1, BROKEN, 1.0, 2.0)])
    place, told = ["neuron", "kind", "layer", "head", "index"], ["usual", "name"]
    assert list(hits) == [*place, "sign", "rank", "token_id", "token", "logit", "z", *told]
    row = ["L1.H0.N3", "attention", 1, 0, 3, "suppresses", 4, 7, "␣Paris", -1.5, -2.25, None, None]
    assert list(hits.iloc[0]) == row
    assert hits["head"].isna().tolist() == [False, True]
    ends = frame_of(ConceptNeuron, [ConceptNeuron(FFN, Sign.PROMOTES, 1.25, (MatchedToken(PARIS, 1.0, 1, 3.0),) * 2)])
    assert list(ends) == [*place, "sign", "score", "tokens", "matched", *told]
    assert list(ends.iloc[0])[5:] == ["promotes", 1.25, 2, "␣Paris ␣Paris", None, None]
    similar = frame_of(SimilarNeuron, [SimilarNeuron(FFN, 0.25, True, (PARIS,))])
    assert list(similar) == [*place, "similarity", "opposite", "tokens", "shared", *told]
    near = frame_of(Neighbour, [Neighbour(1, BROKEN, 0.53149)])
    assert near.to_dict("records") == [{"rank": 1, "token_id": 9, "token": "⟨E4⟩", "cosine": 0.53149}]
    card = card_frame(NeuronCard(FFN, 0, 1, 1, (TokenLogit(PARIS, 2.0, 3.0),) * 2, (TokenLogit(BROKEN, -1.0, -2.0),)))
    assert list(card) == ["sign", "rank", "token_id", "token", "logit", "z"]
    assert list(zip(card["sign"], card["rank"], strict=True)) == [
        ("promotes", 1),
        ("promotes", 2),
        ("suppresses", 1),
    ]


def test_fields_say_what_they_hold() -> None:
    """Sentences reach the API's document from wherever the field comes."""
    told = {field.name: field.about for record in (Hit, NeuronCard, Build) for field in json_fields(record)}
    assert told["neuron"].startswith("The neuron's label")
    assert told["token"].startswith("The token's text")
    assert told["depth"] == "Tokens stored at each end of a neuron."
    assert told["z"].startswith("(logit − mean) / standard deviation")
