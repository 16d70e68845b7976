"""CTC: the collapse map, alignments, likelihoods and searches, in pure torch."""

from espnet_softpl.ctc.ops import (
    BLANK,
    PADDING,
    collapse,
    frame_mask,
    greedy,
    in_float32,
    min_frames,
    sharpen,
    weigh,
)

__all__ = [
    "BLANK",
    "PADDING",
    "collapse",
    "frame_mask",
    "greedy",
    "in_float32",
    "min_frames",
    "sharpen",
    "weigh",
]
