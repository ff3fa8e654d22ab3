"""Coarse comparison of two pictures of a page: is something large missing, or somewhere else?

A picture is cut into cells; of each the darkest and most colourful quarter counts as ink, so that a chart is told from
blank paper and a word in one font is much like that in another. Rows of cells may have moved up or down a little.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

SCALE = 8
"""Pixels of the page to one of its thumbnail, either way."""
CELL = 5
"""Pixels of a thumbnail to a cell: 40 of the page."""
DRIFT = 3
"""Cells by which a row may have moved: 120 pixels of the page."""
PATCH = 4
"""Cells either way: a patch of 160 pixels of the page, about half a small chart."""
FULL, EMPTY = 0.10, 0.018
"""Share of ink above which a patch is full, and below which it is empty."""
TALLER = 0.07
"""Change of the height that is not noticed."""


def thumbnail(picture: Image.Image) -> Image.Image:
    """An eighth of the size, in 16 greys of how much each place stands out of the background."""
    rgb = np.asarray(picture.convert("RGB"), dtype=np.float32)
    background = np.median(rgb.reshape(-1, 3), axis=0)
    ink = np.abs(rgb - background).max(axis=2)
    height, width = (size // SCALE * SCALE for size in ink.shape)
    blocks = ink[:height, :width].reshape(height // SCALE, SCALE, width // SCALE, SCALE)
    grey = blocks.mean(axis=(1, 3)).clip(0, 255).astype(np.uint8) // 16 * 16
    return Image.fromarray(grey)


def differences(reference: Image.Image, shown: Image.Image) -> list[str]:
    """What a person would notice at once, in words; nothing where the two are alike."""
    found = []
    if reference.width != shown.width:
        found.append(f"it is {shown.width * SCALE} pixels wide, and was {reference.width * SCALE}")
        return found
    if abs(shown.height - reference.height) > TALLER * reference.height:
        found.append(f"it is {shown.height * SCALE} pixels tall, and was {reference.height * SCALE}")
    for words, before, after in (("is missing", reference, shown), ("is new", shown, reference)):
        places = _lost(_patches(before), _patches(after))
        found += [f"what stands at about x {x}, y {y} {words}" for x, y in places[:5]]
    return found


def _patches(picture: Image.Image) -> NDArray[np.float32]:
    """Mean ink, 0 to 1, of the patch around each cell. [rows, columns]."""
    soft = picture.convert("L").filter(ImageFilter.BoxBlur(CELL * PATCH / 2))
    return np.asarray(soft, dtype=np.float32)[CELL // 2 :: CELL, CELL // 2 :: CELL] / np.float32(255)


def _lost(before: NDArray[np.float32], after: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Places that were full and have become empty, wherever in their neighbourhood one looks."""
    rows = np.arange(len(before))
    nearest = np.zeros_like(before)
    for shift in range(-DRIFT, DRIFT + 1):
        moved = after[(rows + shift).clip(0, len(after) - 1)]
        nearest = np.maximum(nearest, moved)
    lost = (before > FULL) & (nearest < EMPTY)
    return [(int(x) * CELL * SCALE, int(y) * CELL * SCALE) for y, x in zip(*lost.nonzero(), strict=True)]
