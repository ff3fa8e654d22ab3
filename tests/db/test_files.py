"""Files that are written whole or not at all, and one environment for all commands."""

import gc
import stat

import pytest

from db.command_line import catalogue_folder, run, whole_number
from db.errors import AtlasError
from db.files import atomic_write, locked
from db.lazy import lazy_import
from db.settings import paths


def test_a_file_appears_whole_and_as_any_other(tmp_path):
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "a.txt").exists()
    (tmp_path / "b.txt").write_text("by hand")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE((tmp_path / "b.txt").stat().st_mode)


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(UnicodeEncodeError), atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("ne\udc00", "utf-8")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_file_that_may_not_be_replaced_stays(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(AtlasError, match="already exists"), atomic_write(tmp_path / "a.txt", replace=False):
        pytest.fail("written all the same")
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_that_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(AtlasError, match=r"cannot be written \(No such file"), atomic_write(tmp_path / "no" / "a.txt"):
        pytest.fail("there is no such folder")


def test_a_lock_that_is_held_says_what_to_do(tmp_path):
    with (
        locked(tmp_path / "lock", "held"),
        pytest.raises(AtlasError, match="Wait"),
        locked(tmp_path / "lock", "Wait."),
    ):
        pytest.fail("held twice")


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (AtlasError("No such\nneuron."), 2, "error: No such neuron.\n"),
        (KeyboardInterrupt(), 130, "Stopped; run it again.\n"),
    ],
)
def test_a_command_ends_with_one_line(raised, status, said, capsys):
    def command() -> str:
        raise raised

    assert run(command, "Stopped; run it again.") == status
    assert capsys.readouterr() == ("", said)


def test_an_answer_is_printed(capsys):
    assert run(lambda: "answer") == 0
    assert capsys.readouterr().out == "answer\n"


def test_the_environment_says_where_catalogues_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    assert catalogue_folder(None) == paths().catalogue == tmp_path
    assert catalogue_folder(tmp_path / "given") == tmp_path / "given"


def test_a_workspace_that_is_no_database_is_named_and_not_repeated(monkeypatch):
    monkeypatch.setenv("ATLAS_WORKSPACE", "mysql://user:secret@host/x")
    with pytest.raises(AtlasError, match="ATLAS_WORKSPACE must be empty, off, or the URL") as raised:
        paths()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("text", ["0", "-1", "x", "11", "1.5"])
def test_a_number_out_of_bounds_is_refused(text):
    with pytest.raises(Exception, match="is not a whole number from 1 to 10"):
        whole_number(1, 10)(text)


def test_a_lazy_module_is_imported_at_its_first_use():
    import sys

    module = lazy_import("colorsys")
    sys.modules.pop("colorsys", None)
    assert module.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
    assert "colorsys" in sys.modules


def test_nothing_is_collected_while_a_lazy_module_is_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "looks_at_gc.py").write_text("import gc\ncollects = gc.isenabled()\n")
    (tmp_path / "fails_in_import.py").write_text("raise ValueError('spoilt')\n")
    assert lazy_import("looks_at_gc").collects is False
    with pytest.raises(ValueError, match="spoilt"):
        _ = lazy_import("fails_in_import").anything
    assert gc.isenabled()
