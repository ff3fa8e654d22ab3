"""The server with two faults in it, for a test: ``python -m tests.faults.faulty run app/server.py …``.

The prompt page's box, which stands in a fragment, cannot be drawn; and what follows the use of a control fails, with a
message for people where the control is on the neuron page.
"""

from typing import Any

from streamlit.web.cli import main

from app.state.selections import NeuronSelection
from app.ui import components
from app.ui import navigation as navigation_module
from db.errors import AtlasError

FAULT = "canary-e1a9"
MESSAGE = "This cannot be done twice."


def _fail(*_arguments: Any, **_options: Any) -> None:
    raise ValueError(FAULT)


def _show(selection: Any) -> None:
    if isinstance(selection, NeuronSelection):
        raise AtlasError(MESSAGE)
    raise ValueError(FAULT)


if __name__ == "__main__":
    vars(components)["prompt_box"] = _fail
    vars(navigation_module)["show"] = _show
    main()
