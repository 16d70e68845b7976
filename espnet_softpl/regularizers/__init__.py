"""Regularizers: terms added to any criterion's loss, one file each."""

from espnet_softpl.regularizers.base import REGISTRY, available, build, register
from espnet_softpl.regularizers.mean_entropy import MeanEntropy
from espnet_softpl.regularizers.prior_kl import PriorKL
