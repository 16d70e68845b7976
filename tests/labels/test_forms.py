"""Who learns from a label beside the last layer's CTC, in a model."""

from __future__ import annotations

import math

import pytest
import torch

from tests.support.espnet_runs import HYBRID
from tests.support.models import (
    FORM_IDS,
    FORMS,
    HYBRIDS,
    INTER_HYBRID,
    batch,
    run,
    talking,
)
from tests.training.test_model import labeled_batch, unlabeled_batch


@HYBRIDS
def test_the_branches_are_weighed_as_espnet_weighs_them(kind) -> None:
    for target in ("transcript", "forced", "forced_soft", "none"):
        model = talking("soft_ce", pl_decoder=target, **kind)
        loss, stats, grads = run(model)
        parts = 0.3 * stats.get("loss_pl_ctc", stats["loss_pl"] / 0.3)
        if target != "none":
            parts = parts + 0.7 * stats["loss_pl_decoder"]
            assert float(stats["loss_pl_decoder"]) > 0.1
        torch.testing.assert_close(loss, parts)
        trained = [g is not None for n, g in grads.items() if n.startswith("decoder")]
        assert all(trained) == any(trained) == (target != "none")


def test_a_shared_model_has_no_gradient_from_soft_labels() -> None:
    kind = dict(INTER_HYBRID, pl_interctc="own", pl_decoder="forced_soft")
    _, _, grads = run(talking("soft_ce", **kind))
    assert max(float(grad.abs().max()) for grad in grads.values()) < 1e-5
    _, _, grads = run(talking("soft_ce", **dict(kind, pl_decoder="forced")))
    assert float(grads["decoder.output_layer.weight"].abs().max()) > 1e-2
    _, _, grads = run(talking("soft_ce", **dict(kind, pl_interctc="last")))
    assert float(grads["ctc.ctc_lo.weight"].abs().max()) > 1e-2


@pytest.mark.parametrize(
    "criterion, same", [("hard_ctc", "transcript"), ("soft_ce", "none")]
)
def test_auto_is_the_transcript_or_nothing(criterion, same) -> None:
    one = run(talking(criterion, **HYBRID))
    two = run(talking(criterion, pl_decoder=same, **HYBRID))
    assert torch.equal(one[0], two[0])
    for name, grad in one[2].items():
        assert (grad is None) == (two[2][name] is None), name
        assert grad is None or torch.equal(grad, two[2][name]), name
    assert ("loss_pl_decoder" in one[1]) == (criterion == "hard_ctc")


@pytest.mark.parametrize("forms", FORMS, ids=FORM_IDS)
@pytest.mark.parametrize("criterion", ["hard_ctc", "soft_ce"])
def test_a_weight_of_zero_removes_exactly(forms, criterion) -> None:
    """As if there were no such utterance, but for the size of the batch."""
    model = talking(criterion, **forms)
    for row in (0, 2):
        usable = torch.arange(3) != row
        noisy = batch().speech.clone()
        noisy[row] = 0.1 * torch.randn(12000)
        loss, _, grads = run(model, usable=usable)
        again, _, others = run(model, usable=usable, speech=noisy)
        torch.testing.assert_close(loss, again)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, others[name], atol=1e-5, rtol=1e-3)
    nothing = torch.zeros(3, dtype=torch.bool)
    loss, stats, grads = run(model, usable=nothing)
    assert float(loss) == float(stats["loss_pl"]) == 0.0
    assert not any(grad.any() for grad in grads.values() if grad is not None)


@pytest.mark.parametrize("forms", FORMS, ids=FORM_IDS)
def test_every_batch_reports_the_keys_of_the_forms(forms) -> None:
    model = talking(**forms).train()
    _, of_labeled, _ = model(**labeled_batch())
    _, of_unlabeled, _ = model(**unlabeled_batch())
    assert list(of_labeled) == list(of_unlabeled) == list(model.statistics_keys())
    added = {"loss_pl_ctc"}
    added |= {"loss_pl_interctc"} if "pl_interctc" in forms else set()
    decoder = forms.get("pl_decoder")
    added |= {"loss_pl_decoder"} if decoder else set()
    added |= {"pl_decoder_disagreement"} if decoder and "forced" in decoder else set()
    prefixes = ("loss_pl_", "pl_decoder")
    assert {key for key in of_labeled if key.startswith(prefixes)} == added
    for key in added:
        assert math.isnan(float(of_labeled[key]))
        assert math.isfinite(float(of_unlabeled[key])), key
