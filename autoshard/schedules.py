"""In which order microbatches go through the stages of a pipeline: the names there are."""

from __future__ import annotations

GPIPE, ONE_F_ONE_B, CIRCULAR = ("gpipe", "1f1b", "circular")

# Name -> in words.
SCHEDULES = {
    # Huang et al. 2019, arXiv:1811.06965.
    GPIPE: "all forward, then all back",
    # Narayanan et al. 2019, arXiv:1806.03377: fewer are kept for the way back at once.
    ONE_F_ONE_B: "one back for each that goes forward",
    # Narayanan et al. 2021, arXiv:2104.04473, section 2.2, there interleaved: shorter ticks, and so
    # a smaller bubble, for more hand-off and weights that move to where they are needed.
    CIRCULAR: "round several times, all forward, then all back",
}
