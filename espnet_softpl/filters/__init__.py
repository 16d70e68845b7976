"""Filters: which pseudo-labels are kept, as a factor per utterance."""

from espnet_softpl.filters.base import (
    REGISTRY,
    Candidate,
    Filter,
    apply,
    available,
    build,
    register,
)
from espnet_softpl.filters.beam_agreement import BeamAgreement
from espnet_softpl.filters.confidence import Confidence
from espnet_softpl.filters.dropout_agreement import DropoutAgreement
from espnet_softpl.filters.feasible import Feasible
from espnet_softpl.filters.rate import Rate
from espnet_softpl.filters.tokens import TokenCount
