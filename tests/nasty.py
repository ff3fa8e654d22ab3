"""Tokens that want to be something other than text: markup, scripts, directives, formulas, bytes that are no text.

    root = save_nasty(tmp_path)      # tmp_path/models/nasty and tmp_path/catalogue/nasty, which belong together

Whoever runs one of these leaves a trace: ``CANARY`` is what the scripts do (a dialog, another title, a request).
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from db.token_text import byte_level_alphabet, display
from indexer.build import build
from indexer.checkpoint import Checkpoint

MODEL = "nasty"
CANARY = "document.title='PWNED';alert(1);fetch('http://canary.invalid/x')"
LONG = "A" * 10_000

MARKUP = (
    f"<script>{CANARY}</script>",
    f'<img src=x onerror="{CANARY}">',
    f'"><svg onload="{CANARY}">',
    "<b>bold</b>",
    "</textarea></div></style>",
    "<style>*{display:none}</style>",
    '<a href="javascript:alert(1)">click</a>',
    "<iframe src=//canary.invalid></iframe>",
    '<meta http-equiv="refresh" content="0;url=http://canary.invalid">',
    "<!--",
    "]]>",
    "&lt;b&gt;&amp;",
    "&#60;script&#62;",
    "<|endoftext|>",
)
MARKDOWN = (
    "**bold**",
    "# heading",
    "[link](http://canary.invalid)",
    "![image](http://canary.invalid/x.png)",
    "`code`",
    "```",
    "~~gone~~",
    "---",
    "| a | b |",
    "1. one",
    "* one",
    "> quoted",
    "http://canary.invalid",
    "www.canary.invalid",
    "someone@canary.invalid",
    "$x^2$",
    "$$\\frac{1}{2}$$",
    "\\(x\\)",
    "\\href{javascript:alert(1)}{x}",
)
STREAMLIT = (
    ":red[red]",
    ":blue-background[blue]",
    ":material/home:",
    ":streamlit:",
    ":smile:",
    ":small[small]",
    "<-",
    "->",
    "<->",
    ":shortcode[x]",
)
INVISIBLE = (
    "admin",
    "ad\u200bmin",
    "ad\u00admin",
    "\ufeffadmin",
    "admin\u2060",
    "аdmin",  # begins with a Cyrillic letter
    "\u202enimda\u202c",
    "\u2066bidi\u2069",
    "\u200fright",
    "e\u0301",
    "é",
    "\u0301",
    "\u2028",
    "\u2029",
    "\u00a0",
    "\ue000",
    "\U000e0041",
    "\ufe0f",
    "\u3164",
)
CONTROL = (
    "\x00",
    "a\x00b",
    "\x07",
    "\x08",
    "\x1b[31m",
    "\x7f",
    "\x85",
    "\n",
    "\r",
    "\r\n",
    "\t",
    "\x0b",
    "\x0c",
    "\x1c",
)
QUOTES = (
    '"',
    "'",
    "''",
    '""',
    '","',
    "\\",
    "\\\\",
    "\\n",
    "\\u0041",
    "${x}",
    "{{x}}",
    "{% x %}",
    "%s",
    "%00",
    "'; DROP--",
)
FORMULAS = (
    "=cmd|'/c calc'!A1",
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1+1",
    " =1+1",
    "\r=1",
    "\uff1d1",
    '=HYPERLINK("http://canary.invalid")',
    "|x",
)
PATHS = (
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\x",
    "file:///etc/passwd",
    "null",
    "NaN",
    "undefined",
    "__proto__",
    "true",
)
BYTES = (b"\xe4", b"\xe4\xbd", b"\x80", b"ok\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xfe\xff")
TEXTS: tuple[str, ...] = tuple(
    dict.fromkeys((*MARKUP, *MARKDOWN, *STREAMLIT, *INVISIBLE, *CONTROL, *QUOTES, *FORMULAS, *PATHS, LONG))
)
NASTY: tuple[bytes, ...] = (*(text.encode() for text in TEXTS), *BYTES)
"""All of them, as bytes."""
NASTY_DISPLAYS: tuple[str, ...] = tuple(map(display, NASTY))


def nasty_tokenizer() -> PreTrainedTokenizerFast:
    """Splits text into as few of the nasty tokens as it can, and what is none of them into bytes."""
    alphabet = {byte: character for character, byte in byte_level_alphabet().items()}

    def piece(data: bytes) -> str:
        return "".join(alphabet[byte] for byte in data)

    names = dict.fromkeys([*(piece(data) for data in NASTY), *alphabet.values(), piece(b" the")])
    # Unigram takes the cheapest way: one nasty token rather than its bytes.
    scores = [(name, -1.0 if len(name) > 1 else -20.0) for name in names]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=len(scores) - 1))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def save_nasty(root: Path) -> Path:
    """A random model over the nasty tokens in ``root/models``, its catalogue in ``root/catalogue``."""
    tokenizer = nasty_tokenizer()
    folder = root / "models" / MODEL
    tokenizer.save_pretrained(folder)
    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 40,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**config), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
        # What is no nasty token is rarely at an end of a neuron.
        model.lm_head.weight[len(NASTY) :] *= 0.05
    model.save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    for text in (MARKUP[0], MARKDOWN[1], LONG):
        assert len(loaded(text)["input_ids"]) == 1, "a nasty text has to be one token"
    build(Checkpoint(MODEL, folder), root / "catalogue", depth=20)
    return root
