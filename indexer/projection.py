"""Value vectors -> their most promoted and most suppressed tokens, and the statistics of their logits. Pure tensors.

The plain way is one float32 product with the whole unembedding and two sorts. Where the CPU multiplies bf16 matrices
faster than float32 ones, the product only *screens*: it proposes candidates, whose logits are then computed in
float32. Nothing is taken on trust: with v a value vector, c_j a (centred) row of the unembedding, and v', c_j' their
bf16 roundings,

    |v·c_j - screened_j| <= |v - v'| max|c_j| + |v'| max|c_j - c_j'| + rounding of the product,

so once the k-th best float32 logit is at least the best screened value left out plus that bound, the list is proven
to be that of float32. Neurons where it is not are done again with more candidates, and at last the plain way.

Mean and standard deviation over the vocabulary need no logits: with m the mean row and S the rows' covariance, they
are v·m and sqrt(v·S·v).
"""

import time
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from indexer.unembedding import Unembedding

GROUPED = (
    16  # tokens a group when looking for candidates: the k largest entries lie in the k groups with the largest maxima
)
FIRST_SPARE = 62  # candidates beyond k in the first round: enough for all but a few neurons in a hundred
SECOND_FACTOR = 12  # candidates in the second round, times k


@dataclass(frozen=True, eq=False)
class Projection:
    """What the catalogue stores of a batch of neurons.

    Attributes:
        top_tokens, top_logits: [neuron, k]; highest logits first.
        bottom_tokens, bottom_logits: [neuron, k]; lowest logits first.
        mean, std: [neuron]; of the logits over the whole vocabulary (population), in logits.
        norm: [neuron]; length of the value vector itself.
    """

    top_tokens: Int[Tensor, "neuron k"]
    top_logits: Float[Tensor, "neuron k"]
    bottom_tokens: Int[Tensor, "neuron k"]
    bottom_logits: Float[Tensor, "neuron k"]
    mean: Float[Tensor, " neuron"]
    std: Float[Tensor, " neuron"]
    norm: Float[Tensor, " neuron"]


class Projector:
    """Projects value vectors through one unembedding; prepared once, used for every layer.

    Args:
        unembedding: the model's folded unembedding.
        depth: how many tokens to keep at each end.
        screen: whether to screen in bf16; None measures which is faster here.
        chunk: neurons at a time; the memory in use is about chunk x V x (2 bytes screened, 4 bytes plain).
    """

    def __init__(
        self, unembedding: Unembedding, depth: int = 50, *, screen: bool | None = None, chunk: int = 512
    ) -> None:
        rows = unembedding.folded
        self.depth = min(depth, rows.shape[0])
        self.chunk = chunk
        self.mean_row = rows.mean(dim=0)
        self.rows = rows - self.mean_row
        self.covariance = (self.rows.T @ self.rows) / rows.shape[0]
        small = self.depth * SECOND_FACTOR * 2 > rows.shape[0]  # then sorting everything is cheaper
        self.screens = not small and (bf16_is_faster(rows.shape[1]) if screen is None else screen)
        self.unproven = 0  # neurons that needed more than the first round, of `seen`
        self.seen = 0
        if self.screens:
            self.screening = self.rows.bfloat16()
            self.largest_row = _longest(self.rows)
            self.largest_screening_row = self.largest_row * (1 + 2**-8)
            self.largest_rounding = _longest(self.rows, self.screening)

    def project(self, values: Float[Tensor, "neuron d"]) -> Projection:
        """The stored lists and statistics of `values`, in chunks."""
        values = values.contiguous()
        parts = [self._lists(values[start : start + self.chunk]) for start in range(0, values.shape[0], self.chunk)]
        top_tokens, top, bottom_tokens, bottom = (torch.cat(column) for column in zip(*parts, strict=True))
        mean = values @ self.mean_row
        variance = ((values @ self.covariance) * values).sum(dim=1)
        return Projection(
            top_tokens=top_tokens,
            top_logits=top + mean[:, None],
            bottom_tokens=bottom_tokens,
            bottom_logits=bottom + mean[:, None],
            mean=mean,
            std=variance.clamp_min(0).sqrt(),
            norm=values.norm(dim=1),
        )

    def _lists(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Top tokens and logits, bottom tokens and logits; logits less their mean."""
        if not self.screens:
            return self._plain(values)
        self.seen += values.shape[0]
        screened = values.bfloat16() @ self.screening.T
        lists, proven = self._screened(values, screened, self.depth + FIRST_SPARE)
        for candidates in (self.depth * SECOND_FACTOR, None):
            left = (~proven).nonzero().flatten()
            if not len(left):
                break
            if candidates is None:
                again, fine = self._plain(values[left]), torch.ones_like(left, dtype=torch.bool)
            else:
                self.unproven += len(left)
                again, fine = self._screened(values[left], screened[left], candidates)
            for kept, new in zip(lists, again, strict=True):
                kept[left] = new
            proven[left] = fine
        return lists

    def _plain(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits = values @ self.rows.T
        top, bottom = logits.topk(self.depth), logits.topk(self.depth, largest=False)
        return top.indices, top.values, bottom.indices, bottom.values

    def _screened(
        self, values: Tensor, screened: Tensor, candidates: int
    ) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The lists out of so many candidates an end, and for which neurons they are proven."""
        error = self._screening_error(values)
        high_left, high = candidate_tokens(screened, candidates, largest=True)
        low_left, low = candidate_tokens(screened, candidates, largest=False)
        # Each end is searched among both ends' candidates: every float32 logit at hand counts.
        tokens = torch.cat([high, low], dim=1).sort(dim=1).values
        exact = sampled_products(values, self.rows, tokens)
        top, bottom = exact.topk(self.depth), exact.topk(self.depth, largest=False)
        high_left, low_left = high_left.float(), low_left.float()
        proven = (high_left + error + high_left.abs() * 2**-8 <= top.values[:, -1]) & (
            low_left - error - low_left.abs() * 2**-8 >= bottom.values[:, -1]
        )
        lists = (tokens.gather(1, top.indices), top.values, tokens.gather(1, bottom.indices), bottom.values)
        return lists, proven

    def _screening_error(self, values: Tensor) -> Float[Tensor, " neuron"]:
        """The bound of the module's docstring, but for the final rounding of the product to bf16."""
        rounded = values.bfloat16().float()
        summed = values.shape[1] * 2**-24 * rounded.norm(dim=1) * self.largest_screening_row  # float32 accumulation
        error: Tensor = (values - rounded).norm(dim=1) * self.largest_row + rounded.norm(dim=1) * self.largest_rounding
        error += summed
        return error


def candidate_tokens(logits: Tensor, count: int, *, largest: bool) -> tuple[Tensor, Tensor]:
    """The `count` most extreme tokens of each row, and the last of their logits, which bounds all that were left out.

    Looks at the extremes of groups of tokens first, so that most tokens are read once and never sorted.
    """
    rows, vocabulary = logits.shape
    groups = vocabulary // GROUPED
    if groups <= count:
        found = logits.topk(count, dim=1, largest=largest)
        return found.values[:, -1], found.indices
    # Group g holds tokens g, g + groups, g + 2·groups, ...: the reduction then runs along contiguous memory.
    grouped = logits[:, : groups * GROUPED].unflatten(1, (GROUPED, groups))
    extremes = grouped.amax(dim=1) if largest else grouped.amin(dim=1)
    best = extremes.topk(count, dim=1, largest=largest, sorted=False).indices
    offsets = torch.arange(GROUPED, device=logits.device) * groups
    tokens = (best[:, None, :] + offsets[None, :, None]).flatten(1)
    rest = torch.arange(groups * GROUPED, vocabulary, device=logits.device).expand(rows, -1)
    tokens = torch.cat([tokens, rest], dim=1)
    found = logits.gather(1, tokens).topk(count, dim=1, largest=largest)
    return found.values[:, -1], tokens.gather(1, found.indices)


def sampled_products(
    values: Float[Tensor, "neuron d"], rows: Float[Tensor, "V d"], tokens: Int[Tensor, "neuron m"]
) -> Float[Tensor, "neuron m"]:
    """values[i] · rows[tokens[i, j]] in float32, without gathering the rows; `tokens` ascending in each row."""
    count, width = tokens.shape
    # torch calls its CSR tensors beta and says so once; what is used of them here is tested against the plain product.
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
    starts = torch.arange(0, (count + 1) * width, width, device=values.device)
    pattern = torch.sparse_csr_tensor(
        starts, tokens.flatten(), values.new_zeros(count * width), size=(count, rows.shape[0]), check_invariants=False
    )
    products: Tensor = torch.sparse.sampled_addmm(pattern, values, rows.T, beta=0).values()
    return products.view(count, width)


def bf16_is_faster(d_model: int) -> bool:
    """Whether a bf16 product beats a float32 one on this CPU by enough to pay for the re-scoring; measured, in 20 ms.

    On a GPU the plain way is fast enough and needs no proof.
    """
    if torch.cuda.is_available():
        return False
    left, right = torch.randn(64, d_model), torch.randn(4096, d_model)
    return _seconds(left, right) > 2 * _seconds(left.bfloat16(), right.bfloat16())


def _seconds(left: Tensor, right: Tensor) -> float:
    left @ right.T
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        left @ right.T
        best = min(best, time.perf_counter() - start)
    return best


def _longest(rows: Tensor, less: Tensor | None = None) -> float:
    """The largest norm of a row (of a row less `less`), in slices."""
    longest = 0.0
    for start in range(0, rows.shape[0], 8192):
        part = rows[start : start + 8192]
        difference = part if less is None else part - less[start : start + 8192].float()
        longest = max(longest, float(difference.norm(dim=1).max()))
    return longest
