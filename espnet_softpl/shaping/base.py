"""What may change a teacher's label before the criterion sees it."""

import abc

from torch import Tensor

from espnet_softpl.core.registry import Registry, Stateful
from espnet_softpl.ctc import greedy
from espnet_softpl.labels.pseudo_label import PseudoLabel


class Shaping(Stateful, abc.ABC):
    """A change to a pseudo-label, which leaves the label it is given as it is.

    Subclasses implement `__call__` and take their settings as keyword arguments; a
    value that is out of its range raises ValueError. What they compute has no gradient,
    and is in float32 for half precision.
    """

    needs_prior: bool = False  # Whether `PseudoLabel.prior` is used,
    sets_frame_weight: bool = False  # and `frame_weight` set.
    makes_list: bool = False  # Whether transcripts are listed, for what comes after.
    keeps_transcripts: bool = False  # Whether transcripts stay right as they are.
    # Whether `__call__` gets a second argument, `relabel`: it labels the same audio
    # again by the teacher with dropout on, a fresh draw each time.
    needs_dropout: bool = False

    @abc.abstractmethod
    def __call__(self, label: PseudoLabel) -> PseudoLabel:
        """Return the changed labels of a batch."""


REGISTRY: Registry[Shaping] = Registry("pl_shaping", Shaping)

register = REGISTRY.register
available = REGISTRY.available
build = REGISTRY.build


def relabel(label: PseudoLabel, log_probs: Tensor) -> PseudoLabel:
    """Replace the posteriors, (B, T, V); read the transcript again, drop its list."""
    tokens, token_lengths = greedy(log_probs, label.lengths)
    return label._replace(
        log_probs=log_probs,
        tokens=tokens,
        token_lengths=token_lengths,
        list_tokens=None,
        list_lengths=None,
        list_scores=None,
    )
