"""Criteria: the loss of a student against a pseudo-label, one file each.

Letters of shapes as in `espnet_softpl.ctc`; K samples or paths, N transcripts.
"""

from espnet_softpl.criteria.base import (
    REGISTRY,
    PLCriterion,
    available,
    build,
    register,
)
from espnet_softpl.criteria.best_path_ce import BestPathCE
from espnet_softpl.criteria.blend import Blend
from espnet_softpl.criteria.consistency import Consistency
from espnet_softpl.criteria.hard_ctc import HardCTC, hard_ctc
from espnet_softpl.criteria.masked_kl import MaskedKL
from espnet_softpl.criteria.nbest_ctc import NBestCTC
from espnet_softpl.criteria.occupancy_ce import OccupancyCE
from espnet_softpl.criteria.sampled_ctc import SampledCTC
from espnet_softpl.criteria.sampled_path_ce import SampledPathCE
from espnet_softpl.criteria.soft_ce import SoftCE, soft_ce
from espnet_softpl.criteria.soft_ctc import SoftCTC
from espnet_softpl.criteria.viterbi_ce import ViterbiCE
from espnet_softpl.labels.pseudo_label import PseudoLabel
