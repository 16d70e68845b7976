"""Leave out updates of the model that no label has taught anything.

If all labels of an update's mini-batches were dropped, the gradient is zero, but an
optimizer would still decay the weights and its moments, the learning rate go on, and
the teacher follow. slimIPL leaves such steps out, https://arxiv.org/abs/2010.11524.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

from espnet_softpl.monitors import statistics
from espnet_softpl.training.resume.snapshot import Training

logger = logging.getLogger(__name__)


def teaches(training: Training, update_steps: int) -> bool:
    """Tell whether any of the latest `update_steps` mini-batches has taught something.

    A labeled one has. Of an unlabeled one ESPnet's statistics tell, which are averaged
    over all processes: they decide alike.
    """
    stats = training.reporter.stats
    kept, weights = (
        [float(one.value) for one in stats.get(name, ())[-update_steps:]]
        for name in (statistics.KEPT.name, statistics.WEIGHT.name)
    )
    # NaN of a labeled mini-batch is not zero.
    return not kept or any(k != 0.0 and w != 0.0 for k, w in zip(kept, weights))


@contextlib.contextmanager
def only_taught(training: Training, update_steps: int) -> Iterator[None]:
    """Leave out steps of optimizers and schedulers that follow no learning."""
    skipped = 0

    def unless_empty(step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(step)  # With torch's mark that a scheduler knows it.
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal skipped
            if teaches(training, update_steps):
                return step(*args, **kwargs)
            skipped += 1
            return None

        return call

    parts = [*training.optimizers, *filter(None, training.schedulers)]
    before = [vars(part).get("step") for part in parts]
    for part in parts:
        part.step = unless_empty(part.step)
    try:
        yield
    finally:
        for part, step in zip(parts, before):
            # A scheduler's state is all that is in it: leave nothing there.
            del part.step
            if step is not None:
                part.step = step
    if skipped:
        logger.info(
            "Epoch %d: %d updates were left out: all their labels were dropped",
            training.epoch,
            skipped // len(parts) or 1,
        )
