"""The table of settings in the READMEs is the one that the code has: `python -m app.serving.settings` prints it."""

import re
import subprocess
import sys

from app.serving.settings import variables
from tests.readmes import CHECKOUT, EVERYTHING


def test_the_readmes_have_every_setting_as_the_code_has_it():
    table = subprocess.run(
        [sys.executable, "-m", "app.serving.settings"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    rows = [line for line in EVERYTHING.splitlines() if re.match(r"\| `ATLAS_", line)]
    assert rows == [line for line in table.splitlines() if re.match(r"\| `ATLAS_", line)]
    assert len(rows) == len(list(variables()))


def test_the_readmes_name_no_other_setting():
    named = set(re.findall(r"ATLAS_[A-Z_]*[A-Z]", EVERYTHING))
    known = {one.name for one in variables()}
    # A family may be named by its beginning, as in ATLAS_AUTH_…
    assert {name for name in named - known if not any(one.startswith(f"{name}_") for one in known)} == set()
