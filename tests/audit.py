"""Whether a pinned package has a known vulnerability: ``make audit``, or ``python -m tests.audit``.

pip-audit asks PyPI, and where that knows nothing, OSV. Where neither can be reached this says so, since pip-audit
itself calls packages free of vulnerabilities that it could not ask about. Exit status: 0 none is known, 1 there are
some, 2 it could not be found out.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).resolve().parents[1]
_REQUIREMENTS = (
    "requirements.txt",
    "tests/requirements.txt",
    "indexer/requirements-ray.txt",
    "indexer/requirements-quantised.txt",
)  # it does not follow from one to the other
_SERVICES = ("pypi", "osv")
_SECONDS = 600
_LISTED = 10

Audit = Callable[[str], str]
"""From a service's name to pip-audit's report as JSON; empty where there is none."""


@dataclass(frozen=True)
class Report:
    """What a service said.

    Attributes:
        asked: how many packages it knows.
        unknown: those that it does not.
        findings: a line for each vulnerability.
    """

    asked: int
    unknown: tuple[str, ...]
    findings: tuple[str, ...]


def read(written: str) -> Report:
    """A report from pip-audit's JSON; nothing was asked where that is no JSON."""
    try:
        packages: list[dict[str, Any]] = json.loads(written)["dependencies"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return Report(0, (), ())
    known = [one for one in packages if "vulns" in one]
    findings = [
        f"{one['name']} {one['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'none yet'}"
        for one in known
        for found in one["vulns"]
    ]
    return Report(len(known), tuple(one["name"] for one in packages if "vulns" not in one), tuple(findings))


def pip_audit(service: str) -> str:
    """Run it."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service]
    command += [option for path in _REQUIREMENTS for option in ("--requirement", path)]
    command += ["--disable-pip", "--no-deps", "--format", "json", "--desc", "off", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, cwd=_CHECKOUT, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def main(arguments: Sequence[str] | None = None, audit: Audit = pip_audit) -> int:
    """Print what is known; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--where-reachable", action="store_true", help="exit status 0 where nobody could be asked")
    options = parser.parse_args(arguments)
    for service in _SERVICES:
        report = read(audit(service))
        if report.asked:
            return _told(report, service)
    print(
        f"The audit was not done: neither of {' and '.join(_SERVICES)} could be reached from here, so nothing is known "
        "about the packages. Run `make audit` where there is a network.",
        file=sys.stderr,
    )
    return 0 if options.where_reachable else 2


def _told(report: Report, service: str) -> int:
    for line in report.findings:
        print(line)
    print(f"Known vulnerabilities: {len(report.findings)}. Packages asked about: {report.asked}, of {service}.")
    if report.unknown:
        more = " …" if len(report.unknown) > _LISTED else ""
        print(f"Not known there: {len(report.unknown)}, {', '.join(report.unknown[:_LISTED])}{more}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
