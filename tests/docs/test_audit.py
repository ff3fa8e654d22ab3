"""The audit of dependencies: a finding fails it, and no answer is never taken for a good one."""

import json
from collections.abc import Callable

import pytest

from tests import audit

FOUND = {"id": "CVE-2099-1", "fix_versions": ["1.1"], "aliases": []}
CLEAN = {"name": "clean", "version": "2.0", "vulns": []}
BAD = {"name": "bad", "version": "1.0", "vulns": [FOUND]}
SKIPPED = {"name": "own", "skip_reason": "Dependency not found on PyPI and could not be audited: own (3.0)"}


def says(**reports: object) -> Callable[[str], str]:
    """A pip-audit that gets these answers from the services."""
    written = {
        name: one if isinstance(one, str) else json.dumps({"dependencies": one}) for name, one in reports.items()
    }
    return lambda service: written.get(service, "")


def test_a_finding_fails_and_is_named(capsys):
    assert audit.main([], says(pypi=[CLEAN, BAD, SKIPPED])) == 1
    told = capsys.readouterr().out
    assert "bad 1.0: CVE-2099-1, mended in 1.1" in told
    assert "Known vulnerabilities: 1. Packages asked about: 2, of pypi." in told
    assert "Not known there: 1, own" in told


def test_a_finding_fails_where_only_reachable_services_are_asked():
    assert audit.main(["--where-reachable"], says(pypi=[SKIPPED], osv=[BAD])) == 1


def test_none_is_well(capsys):
    assert audit.main([], says(pypi=[CLEAN])) == 0
    assert "Known vulnerabilities: 0." in capsys.readouterr().out


@pytest.mark.parametrize("answer", ["", "<html>", "[]", "{}", [SKIPPED], []])
def test_no_answer_is_no_good_answer(answer, capsys):
    """pip-audit itself reports “No known vulnerabilities found” where it skipped every package."""
    assert audit.main([], says(pypi=answer, osv=answer)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "The audit was not done" in told.err
    assert audit.main(["--where-reachable"], says(pypi=answer, osv=answer)) == 0
    assert "The audit was not done" in capsys.readouterr().err


@pytest.mark.slow
def test_without_a_network_it_says_so_and_ends(monkeypatch, capsys):
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert audit.main([]) == 2
    assert "The audit was not done" in capsys.readouterr().err
