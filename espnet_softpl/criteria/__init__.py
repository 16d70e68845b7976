"""Criteria: the loss of a student against a pseudo-label, one file each."""

from espnet_softpl.criteria.base import (
    PLCriterion,
    PseudoLabel,
    available,
    build,
    register,
)
from espnet_softpl.criteria.hard_ctc import HardCTC, hard_ctc
from espnet_softpl.criteria.soft_ce import SoftCE, soft_ce

__all__ = [
    "HardCTC",
    "PLCriterion",
    "PseudoLabel",
    "SoftCE",
    "available",
    "build",
    "hard_ctc",
    "register",
    "soft_ce",
]
