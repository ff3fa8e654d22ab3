"""The table of pages, one row each: navigation, preloading, warming up, the glossary and the tests derive from it.

A page is its file in this folder, named like its row. The rows stand here because reading them must be quick: the
pages themselves import charts and tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from app.serving.frontend import NOTHING, Needs
from app.state import selections
from app.state.address import Selection


@dataclass(frozen=True, slots=True)
class Page:
    """One page.

    Attributes:
        name: of its file, and its path in the address (the start page's is empty).
        title: what the navigation says.
        icon: one of Streamlit's Material symbols.
        selection: its state in the address.
        needs: the pieces of Streamlit's frontend that it draws with.
        about: what one is looking at, in a few sentences.
        terms: of the glossary, that matter there.
    """

    name: str
    title: str
    icon: str
    selection: type[Selection] | None = None
    needs: Needs = NOTHING
    about: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The script, as Streamlit names it: relative to the folder of the main one."""
        return f"ui/pages/{self.name}.py"

    @property
    def module(self) -> str:
        """The script as a module."""
        return f"{__name__}.{self.name}"

    @property
    def path(self) -> str:
        """Of its address."""
        return "" if self.name == "start" else self.name


ADD = "add"
"""The page that is shown only to whoever may use it."""

_FILTERS = ("ButtonGroup", "Selectbox", "NumberInput", "Slider")
_CHARTS = ("ArrowVegaLiteChart", "embed", "vega-interpreter", "DownloadButton")
_PROMPT = ("p", "pz")

_ROWS = (
    Page(
        "start",
        "Neuron Atlas",
        ":material/hub:",
        about=(
            "One prompt, explained from its answer backwards: first the neurons that raised it (value neurons), then "
            "the earlier ones that switched those on (query neurons).",
            "Everything on these pages can be clicked: a token leads to its neurons, a neuron to its tokens, a prompt "
            "to both.",
        ),
        terms=("token", "residual stream", "value neurons", "query neurons", "promotes, suppresses", "nats"),
    ),
    Page(
        "search",
        "Search",
        ":material/search:",
        selections.SearchSelection,
        Needs(("TextInput", *_FILTERS), (*_CHARTS, "Checkbox"), ("q", "t")),
        about=(
            "Each row is one end of one neuron: the tokens it promotes, or those it suppresses. A search for a token "
            "ranks the neurons by how far it stands out at that end (z); a search for a concept, by how many of its "
            "tokens are there and how strongly.",
            "The catalogue alone answers; no prompt is involved. Only a prompt can tell whether a neuron was active. "
            "Where texts were read, each row says how often the neuron is active with that end.",
        ),
        terms=("FFN neuron", "attention neuron", "promotes, suppresses", "usual end", "z", "concept"),
    ),
    Page(
        "token",
        "Token",
        ":material/match_word:",
        selections.TokenSelection,
        Needs(("TextInput",), _CHARTS, ("q", "t")),
        about=(
            "One row of the unembedding: the tokens whose rows point the same way, and the neurons that have this "
            "token among the strongest of one of their ends.",
        ),
        terms=("token", "unembedding", "promotes, suppresses", "z"),
    ),
    Page(
        "neuron",
        "Neuron",
        ":material/scatter_plot:",
        selections.NeuronSelection,
        Needs(("TextInput",), (*_CHARTS, "TextArea", "ButtonGroup"), ("n",)),
        about=(
            "One neuron from three sides: what it writes (the tokens of both ends), when it is active (the texts of a "
            "corpus that activate it most, and any text to try it on) and what switches it on (the tokens that its key "
            "vector responds to most).",
            "Its tokens are the same whatever the prompt. Which of the two ends counts depends on the prompt: the sign "
            "of the activation decides. The end that is usually active stands first.",
        ),
        terms=(
            *("value vector", "promotes, suppresses", "activation", "sign rule", "active", "rate", "usual end"),
            *("excerpt", "sign case", "key vector", "z"),
        ),
    ),
    Page(
        "prompt",
        "Prompt",
        ":material/short_text:",
        selections.PromptSelection,
        Needs((), ("ButtonGroup", "Selectbox", "DownloadButton", "Checkbox"), _PROMPT),
        about=(
            "Which parts of the model raised the target: where (layers, heads, source positions), what (the neurons, "
            "with the tokens they raised here) and why (what switched them on).",
            "Bars to the right or upwards raised the target, the others lowered it; all are log-probability increases "
            "in nats. By score, the lists are proven to be the same as if every neuron had been scored; what a neuron "
            "does to the answer is measured.",
        ),
        terms=(
            "target",
            "log-probability increase",
            "nats",
            "head",
            "source position",
            "move",
            "value neurons",
            "suppressing neurons",
            "query neurons",
            "sign rule",
            "logit lens",
            "target against distractor",
            "proven",
            "measured effect",
            "control",
            "exhaustive",
            "conventions",
        ),
    ),
    Page(
        "compare",
        "Compare",
        ":material/compare_arrows:",
        selections.CompareSelection,
        Needs(("TextArea", "TextInput", "Button"), ("DownloadButton",), _PROMPT),
        about=(
            "Two explanations side by side, and what changed between them (Δ, second minus first): two prompts, "
            "targets or positions, or one prompt with parts of the model zeroed.",
            "Both use the first one’s scale of the final norm, so that their scores can be subtracted.",
        ),
        terms=("Δ", "log-probability increase", "nats", "activation", "zeroing", "value neurons"),
    ),
    Page(
        "steer",
        "Steer",
        ":material/tune:",
        selections.SteerSelection,
        Needs(("TextArea", "TextInput", "NumberInput", "Button"), ("DownloadButton",), _PROMPT),
        about=(
            "The same prompt twice: by the model as it is, and with parts of it zeroed, scaled or clamped at every "
            "position. What comes next in each, and how each continues the text.",
            "A factor does nothing to a neuron that is silent; clamp that one. Everything here is measured: it is the "
            "model’s own output, later layers included.",
        ),
        terms=("steering", "zeroing", "activation", "nats"),
    ),
    Page(
        "many",
        "Many prompts",
        ":material/format_list_bulleted:",
        selections.ManySelection,
        Needs(("TextArea", "Button", "ButtonGroup"), ("DownloadButton",), ("set", "ps", "psz")),
        about=(
            "Each prompt is explained on its own; the lists are then combined. A neuron that appears in many of them "
            "serves the task rather than one answer; or it serves any text, and is then marked as generic.",
            "With a second set, the neurons of a topic show: those that do more for the answers of the first set than "
            "for those of the second. Give each prompt a target, or the model may answer with “a” or “the”.",
        ),
        terms=(
            "value neurons",
            "suppressing neurons",
            "query neurons",
            "log-probability increase",
            "measured effect",
            "sign rule",
        ),
    ),
    Page(
        "saved",
        "Saved",
        ":material/bookmarks:",
        selections.SavedSelection,
        about=(
            "What was saved, with the state of its page. An explanation is kept with its figures: opening it shows "
            "what was seen, even if the model is not available. Comparisons, searches and neurons are asked anew.",
        ),
        terms=("catalogue, build", "target", "log-probability increase"),
    ),
    Page(
        "gallery",
        "Gallery",
        ":material/collections_bookmark:",
        selections.GallerySelection,
        about=("Explanations worth a look. Their figures are stored, so that no model is needed.",),
        terms=("target", "value neurons", "query neurons", "log-probability increase", "nats"),
    ),
    Page(
        "overview",
        "Overview",
        ":material/bar_chart:",
        selections.OverviewSelection,
        Needs((*_CHARTS, "ButtonGroup", "Slider")),
        about=(
            "The model as a whole: for each layer, how long its neurons’ value vectors are and how sharply they point "
            "to single tokens. Bands hold the middle half and nearly all of the layer’s neurons.",
            "The most peaked neurons are the easiest to read. Tokens that many neurons favour are often rare "
            "fragments that say little.",
        ),
        terms=(
            *("value vector", "z", "FFN neuron", "FFN neuron of an expert", "attention neuron", "promotes, suppresses"),
        ),
    ),
    Page(
        ADD,
        "Add a model",
        ":material/library_add:",
        selections.AddSelection,
        Needs(("TextInput", "Button"), ("Progress",), ("source",)),
        about=(
            "A model is looked at first, and what its build will take is shown: time, memory, disk. The build then "
            "projects every neuron through the unembedding, layer by layer, in the background.",
            "Finished layers are kept. A build that was stopped, or ended with the server, goes on from there.",
        ),
        terms=("catalogue, build", "FFN neuron", "attention neuron", "unembedding"),
    ),
)
PAGES: Mapping[str, Page] = {page.name: page for page in _ROWS}
"""By name, in the order of the navigation."""

ACCOUNT = Page("account", "Account", ":material/person:")
"""Shown beside them where the server offers sign-in."""
