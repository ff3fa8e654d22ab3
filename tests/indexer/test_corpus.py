"""The documents of a corpus: each source gives the same texts, hostile ones lose nothing, refusals say what to do."""

import gzip
import hashlib
import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import httpx2
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import RevisionNotFoundError

from db.errors import AtlasError
from indexer.corpus import open_corpus
from tests.nasty import TEXTS

HOSTILE = (*TEXTS, "", "a\r\nb\rc\n", "x" * 2**20, "\ufeffinside \ufeff too", "a\x00b", "\u202eright")


def texts(given: Path | str, **options) -> list[str]:
    return [document.text for document in open_corpus(str(given), **options)]


def write_lines(path: Path, records: list, **options) -> Path:
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record, **options) + "\n" for record in records)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_hostile_texts_come_through_as_they_are(name, tmp_path):
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"id": range(len(HOSTILE)), "body": list(HOSTILE)}), path, row_group_size=7)
    else:
        write_lines(path, [{"id": 1, "body": text} for text in HOSTILE])
    corpus = open_corpus(str(path), column="body")
    found = list(corpus)
    assert [document.text for document in found] == list(HOSTILE)
    assert [document.number for document in found] == list(range(len(HOSTILE)))
    assert found[3].source == (f"{name}, row 4" if name.endswith(".parquet") else f"{name}, line 4")
    assert corpus.notices == []
    assert texts(path, column="body", limit=5) == list(HOSTILE[:5])


def test_the_files_of_a_folder_come_by_path_and_hidden_ones_not_at_all(tmp_path):
    for name, text in {"b.txt": "b\r\n", "a/z.md": "z", "a.py": "p", "é.txt": "é", "empty.txt": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    for hidden in (".git/config", "a/.secret.txt"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_text("hidden")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9)
    (tmp_path / "nul.log").write_bytes(b"a log with one NUL \x00 in it")
    write_lines(tmp_path / "c.jsonl", [{"text": "c1"}, {"text": None}])
    pq.write_table(pa.table({"text": ["d1", "d2"]}), tmp_path / "d.parquet")
    corpus = open_corpus(str(tmp_path), licence="CC0-1.0")
    found = list(corpus)
    assert [(document.source, document.text) for document in found] == [
        ("a.py", "p"),
        ("a/z.md", "z"),
        ("b.txt", "b\r\n"),
        ("c.jsonl, line 1", "c1"),
        ("c.jsonl, line 2", ""),
        ("d.parquet, row 1", "d1"),
        ("d.parquet, row 2", "d2"),
        ("empty.txt", ""),
        ("nul.log", "a log with one NUL \x00 in it"),
        ("é.txt", "é"),
    ]
    assert corpus.notices == ["Left out, since they are no text: picture.png."]
    assert (corpus.licence, corpus.own_words, corpus.split) == ("CC0-1.0", False, None)
    assert [document.text for document in corpus] == [document.text for document in found], "it starts again"


def test_bytes_that_are_no_text_are_replaced_and_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 \xff")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfwith a mark \xef\xbf\xbd")  # U+FFFD of its own is no fault
    (tmp_path / "c.txt").write_bytes("UTF-16 é".encode("utf-16"))
    (tmp_path / "d.jsonl").write_bytes(
        b'\xef\xbb\xbf{"text": "caf\xe9"}\n{"text": "half \\ud83d"}\n{"text": "\\ud83d\\ude42"}\n'
    )
    column = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xe4\xbd"], pa.binary()).buffers())
    pq.write_table(pa.table({"text": column}), tmp_path / "e.parquet")
    corpus = open_corpus(str(tmp_path))
    assert [document.text for document in corpus] == [
        "caf\ufffd \ufffd",
        "with a mark \ufffd",
        "UTF-16 é",
        "caf\ufffd",
        "half \ufffd",
        "\U0001f642",
        "ok",
        "\ufffd",
    ]
    assert corpus.notices == ["4 documents hold bytes that are no UTF-8; each is shown as U+FFFD (�)."]


def test_the_fingerprint_is_of_the_texts_their_order_and_their_ends(tmp_path):
    def fingerprint(*lines: str, **options) -> str:
        return open_corpus(
            str(write_lines(tmp_path / "a.jsonl", [{"text": x} for x in lines])), **options
        ).fingerprint()

    plain = hashlib.sha256(b"".join(len(x).to_bytes(8, "little") + x for x in (b"ab", "é".encode()))).hexdigest()
    assert fingerprint("ab", "é") == f"sha256 {plain}" == fingerprint("ab", "é", "c", limit=2)
    assert (
        len({fingerprint(*lines) for lines in (("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab"), ("ab", "c", ""))}) == 5
    )
    pq.write_table(pa.table({"text": ["ab", "é"]}), tmp_path / "a.parquet")
    assert open_corpus(str(tmp_path / "a.parquet")).fingerprint() == f"sha256 {plain}", "wherever the texts lie"


def test_a_corpus_that_changes_meanwhile_is_noticed(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"text": "one"}])
    corpus = open_corpus(str(path))
    corpus.fingerprint()
    write_lines(path, [{"text": "two"}])
    with pytest.raises(AtlasError, match="changed while it was read"):
        list(corpus)


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    def peak(name: str) -> int:
        tracemalloc.start()
        try:
            for _ in open_corpus(str(tmp_path / name)):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    for name, count in (("small.jsonl", 100), ("large.jsonl", 2000)):
        write_lines(tmp_path / name, [{"text": "0123456789" * 1000}] * count)  # 1 MB and 20 MB
    assert peak("large.jsonl") < peak("small.jsonl") + 500_000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "a"}\n{"text": ', r"a\.jsonl, line 2: it is no JSON"),
        (b"[" * 100_000, r"a\.jsonl, line 1: it is no JSON"),
        (b'\n{"body": "a", "id": 1}\n', r"a\.jsonl, line 2: it has no “text”, only “body”, “id”\. Name the column"),
        (b"3\n", r"a\.jsonl, line 1: it has no “text”\."),
        (b'{"text": ["a"]}\n', r"a\.jsonl, line 1: “text” is no text"),
        (b"", r"a\.jsonl holds no text"),
        (b'{"text": ""}\n', r"a\.jsonl holds no text"),
    ],
)
def test_a_line_that_is_no_document_is_named(content, said, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(AtlasError, match=said):
        list(open_corpus(str(tmp_path / "a.jsonl")))


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more than that PAR1")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:40])
    pq.write_table(pa.table({"body": ["a"], "text": [1]}), tmp_path / "c.parquet")
    for name, options, said in (
        ("a.parquet", {}, r"^a\.parquet cannot be read"),
        ("b.jsonl.gz", {}, r"^b\.jsonl\.gz cannot be read"),
        ("c.parquet", {}, r"^c\.parquet: “text” is no text \(int64\)"),
        ("c.parquet", {"column": "x"}, r"^c\.parquet: it has no “x”, only “body”, “text”"),
    ):
        with pytest.raises(AtlasError, match=said):
            texts(tmp_path / name, **options)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9)
    with pytest.raises(AtlasError, match=r"picture\.png is no text"):
        open_corpus(str(tmp_path / "picture.png"))
    (tmp_path / "no").mkdir()
    for given, said in (("no", "has no file of text"), ("x.jsonl", "no file or folder"), ("../x", "no file or folder")):
        with pytest.raises(AtlasError, match=said):
            open_corpus(str(tmp_path / given))
    with pytest.raises(AtlasError, match="only data sets on the hub have splits"):
        open_corpus(str(tmp_path / "c.parquet"), split="train")


# The hub, faked: where its Parquet files are, and what is fetched.


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Two configurations, of which one has two splits; answers the names of the files that were fetched."""
    files = [f"{folder}/{number:04}.parquet" for folder in ("en/train", "en/test", "de/train") for number in (0, 1)]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": [f"{name} {row}" for row in range(2)]}), tmp_path / name)
    fetched: list[str] = []

    def info(data_set, revision=None):
        assert data_set == "someone/words"
        siblings = [SimpleNamespace(rfilename=name) for name in ["README.md", *reversed(files)] if revision]
        return SimpleNamespace(siblings=siblings, card_data={"license": ["mit", "cc0-1.0"]}, sha="1234")

    def download(data_set, name, *, repo_type, revision):
        assert (data_set, repo_type, revision) == ("someone/words", "dataset", "1234")
        fetched.append(name)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "dataset_info", info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return fetched


def test_a_data_set_streams_its_splits_files_in_order(hub):
    corpus = open_corpus("someone/words/en")
    assert (corpus.name, corpus.split, corpus.licence) == ("someone/words", "train", "mit, cc0-1.0")
    found = list(corpus)
    assert [document.text for document in found] == [f"en/train/{n:04}.parquet {row}" for n in (0, 1) for row in (0, 1)]
    assert found[2].source == "someone/words/en/train/0001.parquet, row 1"
    assert texts("someone/words/en", split="test", licence="own")[0] == "en/test/0000.parquet 0"
    hub.clear()
    assert len(texts("someone/words/de", limit=1)) == 1
    assert hub == ["de/train/0000.parquet"], "no more is fetched than is read"
    with pytest.raises(AtlasError, match=r"several configurations\. Name one: someone/words/de or /en"):
        open_corpus("someone/words")
    with pytest.raises(AtlasError, match="--split dev: the data set someone/words/en has the splits test, train"):
        open_corpus("someone/words/en", split="dev")


def test_files_beside_the_card_do_where_the_hub_has_not_converted_them(monkeypatch):
    names = [
        "data/test-00000-of-00001.parquet",
        "data/train-00001-of-00002.parquet",
        "data/train-00000-of-00002.parquet",
    ]

    def info(_data_set, revision=None):
        if revision:
            raise RevisionNotFoundError(
                "none", response=httpx2.Response(404, request=httpx2.Request("GET", "http://x"))
            )
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=one) for one in names], card_data=None, sha="1")

    monkeypatch.setattr(huggingface_hub, "dataset_info", info)
    corpus = open_corpus("someone/words")
    assert [part.name for part in corpus._parts] == [f"someone/words/{one}" for one in (names[2], names[1])]


def test_without_a_network_the_refusal_says_so(monkeypatch):
    def info(*_, **__):
        raise httpx2.ConnectError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "dataset_info", info)
    with pytest.raises(AtlasError, match="neither a file or folder here nor to be had from the hub: there is no conn"):
        open_corpus("someone/words")
