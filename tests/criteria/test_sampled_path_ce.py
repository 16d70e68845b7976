"""Cross-entropy to sampled paths: an estimate of the soft cross-entropy."""

import pytest

from espnet_softpl import criteria
from tests.criteria.test_base import tiny


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_it_estimates_the_soft_cross_entropy(temperature: float) -> None:
    student, label = tiny()
    conf = dict(temperature=temperature, num_samples=20_000)
    loss = criteria.build("sampled_path_ce", **conf)(student, label.lengths, label)
    teacher = (label.log_probs / temperature).log_softmax(-1)
    exact = criteria.soft_ce(student, label.lengths, teacher)
    # One standard error is about 0.01.
    assert loss.item() == pytest.approx(exact.item(), abs=0.05)
