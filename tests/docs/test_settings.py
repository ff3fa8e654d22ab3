"""The README's table of settings is the one that the code has: `python -m app.serving.settings` prints it."""

import re
import subprocess
import sys
from pathlib import Path

from app.serving.settings import variables

CHECKOUT = Path(__file__).resolve().parents[2]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_every_setting_as_the_code_has_it():
    table = subprocess.run(
        [sys.executable, "-m", "app.serving.settings"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    rows = [line for line in README.splitlines() if re.match(r"\| `ATLAS_", line)]
    assert rows == [line for line in table.splitlines() if re.match(r"\| `ATLAS_", line)]
    assert len(rows) == len(list(variables()))


def test_the_readme_names_no_other_setting():
    named = set(re.findall(r"ATLAS_[A-Z_]*[A-Z]", README))
    known = {one.name for one in variables()}
    # A family may be named by its beginning, as in ATLAS_AUTH_…
    assert {name for name in named - known if not any(one.startswith(f"{name}_") for one in known)} == set()
