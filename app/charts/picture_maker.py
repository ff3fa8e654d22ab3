"""Chart specifications into SVG and PNG, in a process of its own: ``python picture_maker.py < jobs.json``.

The converter is native code that ends its whole process where it meets something unforeseen, and keeps a JavaScript
engine of some 100 MB; neither may happen to a server. Imports nothing of this project, so that it starts quickly.
"""

import base64
import json
import re
import sys

SHARPNESS = 2.0
"""Pixels of a PNG for one of the SVG."""
_ALPHA = re.compile(r"rgba\((\d+), ?(\d+), ?(\d+), ?([\d.e-]+)\)")


def main() -> None:
    """Read a list of jobs, each {"spec", "flat", "png"}; write a list of texts, SVG or base64 of PNG.

    flat: translucent colours become those they look like on white, since not every program that opens an SVG knows
    the former.
    """
    import vl_convert

    made = []
    for job in json.load(sys.stdin.buffer):
        drawn = vl_convert.vegalite_to_svg(job["spec"], allowed_base_urls=[])
        if job["flat"]:
            drawn = _ALPHA.sub(_on_white, drawn)
        if job["png"]:
            drawn = base64.b64encode(vl_convert.svg_to_png(drawn, scale=SHARPNESS)).decode()
        made.append(drawn)
    sys.stdout.buffer.write(json.dumps(made).encode())


def _on_white(colour: re.Match[str]) -> str:
    *channels, share = map(float, colour.groups())
    return "rgb({}, {}, {})".format(*(round(255 + (one - 255) * share) for one in channels))


if __name__ == "__main__":
    main()
