"""Still pictures for saved notebooks: what a chart shows where no script runs.

A saved notebook is also read on sites and in viewers that run no JavaScript: a chart is an empty box there. The picture
stands in that box; the script that draws the live chart empties it first.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from typing import Any

__all__ = ["with_still"]

_BOX = re.compile(r'(<div id="altair-viz-\w+">)(?=</div>)')
"""Where Altair's page draws the chart."""

_PATH = re.compile(r' (?:d="|transform="translate\()[^"]*"')
_DIGITS = re.compile(r"(\.\d)\d+")
_LABEL = re.compile(r' (?:aria-[a-z]+|role)="[^"]*"')


def with_still(bundle: Any, svg: str, alt: str) -> Any:
    """A notebook's bundle with a picture beside the live chart.

    Args:
        bundle: from media type to content, as Altair makes it; or that with metadata, as a pair.
        svg: the picture. To keep notebooks light, coordinates are cut to a tenth of a pixel, and within a page the
            labels of its marks are left out: no reader of the screen looks into an image.
        alt: what it shows, in words.

    Returns:
        The bundle with the picture in the box of its page. A bundle without a page has it as an image of its own.
    """
    if isinstance(bundle, tuple):
        return with_still(bundle[0], svg, alt), *bundle[1:]
    if not isinstance(bundle, Mapping):
        return bundle
    light = _PATH.sub(lambda path: _DIGITS.sub(r"\1", path[0]), svg)
    page = bundle.get("text/html")
    if page is None:
        return {**bundle, "image/svg+xml": light}
    source = b64encode(_LABEL.sub("", light).encode()).decode()
    image = f'<img alt="{escape(alt)}" style="max-width: 100%" src="data:image/svg+xml;base64,{source}">'
    return {**bundle, "text/html": _BOX.sub(lambda box: box[0] + image, page, count=1)}
