"""Replace the greedy transcript by a sampled one."""

import torch

from espnet_softpl.core.ranges import positive
from espnet_softpl.ctc import collapse
from espnet_softpl.ctc.sampling import sample_paths
from espnet_softpl.labels.pseudo_label import PseudoLabel
from espnet_softpl.shaping.base import Shaping, register


@register("sample")
class Sample(Shaping):
    """Take a transcript sampled from the teacher's frames.

    y <- collapse(pi), pi_t ~ softmax(log p_T(t) / temperature) for each frame. The
    posteriors stay as they are. The sample is made once, with the label, so a label
    cache keeps it. `sampled_ctc` draws again at every step.

    Use: against one transcript for as long as a cache keeps it.

    Source: "Continuous Pseudo-Labeling from the Start"
    (https://arxiv.org/abs/2210.08711), which finds that sampled transcripts stabilize
    training without a supervised phase. The temperature is ours.

    Known failure: at a temperature of 1 a weak teacher's samples have many stray
    tokens.

    Args:
        temperature: Greater than 0; towards 0 the greedy transcript.
    """

    def __init__(self, temperature: float = 0.3) -> None:
        self.temperature = positive("temperature", temperature)

    @torch.no_grad()
    def __call__(self, label: PseudoLabel) -> PseudoLabel:
        """See `Shaping.__call__`."""
        paths = sample_paths(label.log_probs, label.lengths, 1, self.temperature)
        tokens, token_lengths = collapse(paths.squeeze(1), label.lengths)
        return label._replace(tokens=tokens, token_lengths=token_lengths)
