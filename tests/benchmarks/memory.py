"""Peak memory of an index run against the number of layers: ``python -m tests.benchmarks.memory --layers 4 16 64``.

Each checkpoint is Llama-like, random and of one width; only the number of its layers differs. A build runs in a process
of its own, and its peak is what the system counted: maps of files that were read count too.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.utils.logging import disable_progress_bar

from indexer.checkpoint import Checkpoint
from tests.benchmarks.indexing import timed_build


def checkpoint_of(into: Path, layers: int, width: int, ffn: int, vocabulary: int) -> Checkpoint:
    """Saved layer by layer into shards, in bf16."""
    from tests.models import byte_level_tokenizer  # tests compute with one thread, and say so when they are imported

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(into)
    byte_level_tokenizer(bos=True).save_pretrained(into)
    return Checkpoint(f"{layers} layers", into)


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--layers", type=int, nargs="+", default=[4, 16, 64])
    arguments.add_argument("--width", type=int, default=512)
    arguments.add_argument("--ffn", type=int, default=4096)
    arguments.add_argument("--vocabulary", type=int, default=8192)
    arguments.add_argument("--depth", type=int, default=10)
    options = arguments.parse_args()
    disable_progress_bar()
    first = 0.0
    for layers in options.layers:
        with tempfile.TemporaryDirectory() as folder:
            made = checkpoint_of(Path(folder) / "model", layers, options.width, options.ffn, options.vocabulary)
            size = sum(path.stat().st_size for path in made.folder.glob("*.safetensors"))
            found = timed_build(made, options.depth)
        first = first or found["peak"]
        print(
            f"{layers:3} layers, {size / 1e6:,.0f} MB of weights: peak {found['peak'] / 1e6:,.0f} MB, "
            f"{found['peak'] / first:.3f} of the first; {found['seconds']:.1f} s"
        )


if __name__ == "__main__":
    main()
