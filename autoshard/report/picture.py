"""A small drawing of how a tensor is cut."""

from __future__ import annotations

import math
from collections.abc import Mapping

from autoshard.report.table import Picture

_WIDTH, _HEIGHT = 48, 24  # px
_MOST = 8  # pieces drawn along a side; more would be a grey blur


def svg(picture: Picture, sizes: Mapping[str, int]) -> str:
    """The tensor as a rectangle, its last dimension to the right, all others downwards.

    Lines are cuts, the filled piece is what the first device holds. A side cut into more than 8
    pieces is drawn with 8.
    """
    cuts = [math.prod(sizes[axis] for axis in dim) for dim in picture.spec.dims]
    across = min(cuts[-1] if cuts else 1, _MOST)
    down = min(math.prod(cuts[:-1]), _MOST)
    width, height = _WIDTH / across, _HEIGHT / down
    paths = [f"M{k * width:g} 0V{_HEIGHT}" for k in range(1, across)]
    paths += [f"M0 {k * height:g}H{_WIDTH}" for k in range(1, down)]
    return (
        f'<svg width="{_WIDTH + 2}" height="{_HEIGHT + 2}" '
        f'viewBox="-1 -1 {_WIDTH + 2} {_HEIGHT + 2}" role="img">'
        f"<title>cut into {math.prod(cuts)}</title>"
        f'<rect width="{width:g}" height="{height:g}" class="mine"/>'
        f'<path d="M0 0H{_WIDTH}V{_HEIGHT}H0Z{"".join(paths)}"/></svg>'
    )
