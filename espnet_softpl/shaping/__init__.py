"""Shaping: changes to the teacher's label before the criterion."""

from espnet_softpl.shaping.align import Align
from espnet_softpl.shaping.base import REGISTRY, Shaping, available, build, register
from espnet_softpl.shaping.blank import ShiftBlank
from espnet_softpl.shaping.confidence import (
    FrameConfidence,
    TokenConfidence,
    UtteranceConfidence,
)
from espnet_softpl.shaping.lm_posterior import LMPosterior
from espnet_softpl.shaping.rescore import Rescore
from espnet_softpl.shaping.sample import Sample
from espnet_softpl.shaping.sharpen import Sharpen
from espnet_softpl.shaping.votes import Votes
