"""Features that teacher and student share, and those that they must not."""

from __future__ import annotations

import copy

import pytest
import torch
from espnet2.asr.frontend.default import DefaultFrontend

from espnet_softpl.training import features
from tests.training.test_model import batch, labeled_batch, make_model, unlabeled_batch


@pytest.fixture
def extracted(monkeypatch) -> list[tuple[int, ...]]:
    """Count what the front ends are given."""
    shapes: list[tuple[int, ...]] = []
    forward = DefaultFrontend.forward

    def counting(self, speech, lengths):
        shapes.append(tuple(speech.shape))
        return forward(self, speech, lengths)

    monkeypatch.setattr(DefaultFrontend, "forward", counting)
    return shapes


def learn(model, **changes) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Make an unlabeled step; return the loss and all gradients."""
    torch.manual_seed(2)
    model.zero_grad()
    loss, *_ = model(unlabeled=batch()._replace(**changes))
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("who", ["ema", "student"])
@pytest.mark.parametrize("criterion", ["soft_ce", "consistency", "masked_kl"])
def test_a_step_extracts_once_and_learns_the_same(
    criterion, who, extracted, monkeypatch
) -> None:
    torch.manual_seed(1)
    model = make_model(criterion, who)
    twin = copy.deepcopy(model)
    twin.pl = make_model(criterion, who).pl
    once = learn(model)
    assert extracted == [(3, 12000)]
    monkeypatch.setattr(features, "depend_on_audio_alone", lambda frontend: False)
    twice = learn(twin)
    assert len(extracted) == 3
    torch.testing.assert_close(once, twice, rtol=0, atol=0)
    assert float(once[0]) != 0.0


def test_two_views_of_a_labeled_batch_are_of_the_same_features(extracted) -> None:
    model = make_model("consistency", pl_criterion_conf={"labeled_weight": 1.0})
    loss, *_ = model(**labeled_batch())
    assert float(loss) > 0.0 and extracted == [(3, 12000)]


def test_augmented_audio_has_features_of_its_own(extracted) -> None:
    model = make_model("soft_ce")
    heard = batch().speech + 0.1
    learn(model, augmented=heard)
    assert len(extracted) == 2


def test_nothing_is_kept_after_a_step(extracted) -> None:
    model = make_model("soft_ce")
    fields = unlabeled_batch()
    for count in (1, 2):
        model(**fields)
        assert len(extracted) == count


def test_a_front_end_that_learns_or_differs_is_not_shared() -> None:
    shares = features.depend_on_audio_alone
    plain = DefaultFrontend(n_fft=64, hop_length=32, n_mels=8)
    assert shares(plain) and not shares(None)
    assert not shares(copy.deepcopy(plain).to(torch.bfloat16))
    learning = copy.deepcopy(plain)
    learning.scale = torch.nn.Parameter(torch.ones(1))
    assert not shares(learning)

    class Own(DefaultFrontend):
        pass

    assert not shares(Own(n_fft=64, hop_length=32, n_mels=8))
