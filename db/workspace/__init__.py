"""The workspace: what people keep. Saved analyses, notes and tags on neurons, collections of both.

    >>> with Workspace.open("sqlite:///workspace/atlas.sqlite") as workspace:  # doctest: +SKIP
    ...     workspace.analyses("capital France")

It lies in an SQLite file or in PostgreSQL, apart from the catalogues: those can be built again, this cannot. Of an
analysis it knows the JSON object that `python -m app.attribution --json` writes, and the neurons in its lists.
"""

from db.workspace.records import AnalysisEntry, Collection, Contents, Mention, NeuronNote, Saved
from db.workspace.store import Workspace

__all__ = ["AnalysisEntry", "Collection", "Contents", "Mention", "NeuronNote", "Saved", "Workspace"]
