"""An analysis as files: the report, JSON, and its tables as CSV or Parquet, several in one archive."""

import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from app.answers.files import csv_of, parquet_of
from app.charts import style
from app.charts.pictures import visible
from app.report.contents import ROWS, Contents, Origin, contents
from db.catalogue.store import Catalogue
from db.neuron import NeuronKind

if TYPE_CHECKING:
    from app.attribution.results import Analysis


# A report as one HTML file that opens offline: no script, nothing fetched, everything escaped.

_FOLDER = Path(__file__).parent


def html(contents: Contents) -> bytes:
    """Set a report; UTF-8."""
    return _template().render(report=contents, palette=style).encode("utf-8", "replace")


def _visible(value: object) -> object:
    """Texts without what HTML forbids or nobody sees, whatever they were given as; drawings as they are."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


_PLAIN = re.compile(r"[a-z0-9]+")
_LONGEST = 60
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file in an archive: the same tables are the same archive."""


@dataclass(frozen=True)
class Material:
    """What the files are made from."""

    analysis: "Analysis"
    catalogue: Catalogue
    origin: Origin
    lens: pd.DataFrame | None = None
    """The logit lens (`frames.lens_frame`), where it was asked for."""
    rows: int = ROWS
    """Neurons of each of the report's tables."""


@dataclass(frozen=True, slots=True)
class FileForm:
    """A kind of file."""

    name: str
    ending: str
    mime: str
    write: Callable[[Material], bytes]
    hint: str


def file_name(form: FileForm, prompt: str) -> str:
    """What a download is called: some of the prompt's letters and digits, so that nothing in it can mislead.

    >>> file_name(FILES["html"], "The capital of France is")
    'atlas-the-capital-of-france-is.html'
    """
    words = _PLAIN.findall(prompt.lower())
    return "-".join(["atlas", *words])[:_LONGEST].rstrip("-") + form.ending


def report(material: Material) -> bytes:
    """The HTML file; see `app.report.files`."""
    one = material
    return html(contents(one.analysis, one.catalogue, one.origin, lens=one.lens, rows=one.rows))


def json_file(material: Material) -> bytes:
    """The whole analysis, as ``python -m app.attribution --json`` writes it."""
    from app.attribution.results import to_json

    return json.dumps(to_json(material.analysis), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def tables(material: Material) -> dict[str, pd.DataFrame]:
    """Every list of the analysis in full, by its name."""
    from app.attribution import frames

    analysis, contrast = material.analysis, material.analysis.contrast
    found = {
        "predictions": frames.predictions_frame(analysis),
        "layers": frames.layers_frame(analysis),
        "heads": frames.heads_frame(analysis),
        "ffn_value_neurons": frames.value_neurons_frame(analysis, NeuronKind.FFN),
        "attention_value_neurons": frames.value_neurons_frame(analysis, NeuronKind.ATTENTION),
    }
    if analysis.suppressing_certificates:
        found["ffn_suppressing_neurons"] = frames.neurons_frame(analysis, analysis.ffn_suppressing_neurons)
        found["attention_suppressing_neurons"] = frames.neurons_frame(analysis, analysis.attention_suppressing_neurons)
    if analysis.query is not None:
        found["query_ffn_neurons"] = frames.query_neurons_frame(analysis.query.ffn_neurons)
        found["query_layers"] = frames.query_layers_frame(analysis.query)
    if contrast is not None:
        found["contrast_layers"] = frames.layers_frame(contrast)
        found["contrast_heads"] = frames.heads_frame(contrast)
        found["contrast_ffn_neurons"] = frames.neurons_frame(analysis, contrast.ffn_neurons)
        found["contrast_attention_neurons"] = frames.neurons_frame(analysis, contrast.attention_neurons)
        found["contrast_ffn_opposing_neurons"] = frames.neurons_frame(analysis, contrast.ffn_opposing)
        found["contrast_attention_opposing_neurons"] = frames.neurons_frame(analysis, contrast.attention_opposing)
    if material.lens is not None:
        found["logit_lens"] = material.lens
    return found


def _archive(write: Callable[[pd.DataFrame], bytes], ending: str) -> Callable[[Material], bytes]:
    def make(material: Material) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, frame in tables(material).items():
                entry = zipfile.ZipInfo(f"{name}.{ending}", _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, write(frame))
        return buffer.getvalue()

    return make


FILES = {
    "html": FileForm("Report", ".html", "text/html", report, "to read and to print"),
    "json": FileForm("JSON", ".json", "application/json", json_file, "the whole analysis"),
    "csv": FileForm(
        "CSV", "-csv.zip", "application/zip", _archive(csv_of, "csv"), "its tables for spreadsheets, zipped"
    ),
    "parquet": FileForm(
        "Parquet",
        "-parquet.zip",
        "application/zip",
        _archive(parquet_of, "parquet"),
        "its tables for programs, zipped",
    ),
}
"""By the name that the shell's ``--form`` takes."""
