"""CTC: the collapse map, alignments, likelihoods and searches, in torch.

Loops over frames also stand in kernels for the CPU (`kernels`).

The letters of shapes, here and in the rooms above: B utterances, T frames after
subsampling, V tokens, of which 0 is blank as in ESPnet, U labels of a transcript. Half
precision is computed in float32.
"""

from espnet_softpl.ctc.ops import (
    BLANK,
    PADDING,
    collapse,
    frame_mask,
    frequent_tokens,
    greedy,
    in_float32,
    min_frames,
    sharpen,
    weigh,
)
