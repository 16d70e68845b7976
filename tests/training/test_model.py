"""The model's forward on labeled and unlabeled batches, without a trainer."""

from __future__ import annotations

import argparse
import math

import pytest
import torch
from espnet2.tasks.asr import ASRTask

from espnet_softpl.criteria.base import weighted_mean
from espnet_softpl.monitors.statistics import ALWAYS
from espnet_softpl.training.labeling import UnlabeledBatch
from espnet_softpl.training.model import SoftPLModel, frames_of
from espnet_softpl.training.task import SoftPLTask
from tests.support.espnet_runs import HYBRID, TOKENS, config

INTERCTC = dict(ctc_weight=1.0, interctc_weight=0.3)


def make_model(
    criterion: str = "hard_ctc", who: str = "ema", min_tokens: int = 0, **changes
) -> SoftPLModel:
    """Build a tiny model with an engine, in train mode; `pl_*` are its options."""
    parser = SoftPLTask.get_parser()
    args = parser.parse_args(["--output_dir", "unused"])
    for key, value in config(**changes).items():
        setattr(args, key, value)
    args.token_list = TOKENS
    args.pl_criterion = criterion
    args.pl_teacher = who
    args.pl_filter_conf = {"min_tokens": min_tokens}
    args.unlabeled_oracle_text = None
    return SoftPLTask.build_model(args).train()


def batch(weight: float = 1.0) -> UnlabeledBatch:
    generator = torch.Generator().manual_seed(3)
    speech = 0.1 * torch.randn(3, 12000, generator=generator)
    lengths = torch.tensor([12000, 9000, 7000])
    return UnlabeledBatch(["a", "b", "c"], speech, lengths, weight)


def unlabeled_batch(weight: float = 1.0) -> dict:
    return dict(unlabeled=batch(weight), utt_id=["a", "b", "c"])


def labeled_batch() -> dict:
    utt_id, speech, speech_lengths = batch()[:3]
    return dict(
        utt_id=utt_id,
        speech=speech,
        speech_lengths=speech_lengths,
        text=torch.tensor([[3, 4, 5], [3, 3, -1], [5, -1, -1]]),
        text_lengths=torch.tensor([3, 2, 1]),
    )


def test_it_has_the_names_and_shapes_of_the_stock_model() -> None:
    ours = make_model().state_dict()
    args = argparse.Namespace(**vars(SoftPLTask.get_parser().parse_args([])))
    for key, value in config().items():
        setattr(args, key, value)
    args.token_list = TOKENS
    stock = ASRTask.build_model(args).state_dict()
    assert list(ours) == list(stock)
    assert [v.shape for v in ours.values()] == [v.shape for v in stock.values()]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        HYBRID,
        {
            "model_conf": INTERCTC,
            "encoder_conf": dict(
                config()["encoder_conf"], num_blocks=2, interctc_layer_idx=[1]
            ),
        },
    ],
    ids=["ctc", "hybrid", "interctc"],
)
def test_every_batch_reports_the_same_keys_in_the_same_order(changes) -> None:
    model = make_model(**changes)
    _, of_labeled, _ = model(**labeled_batch())
    _, of_unlabeled, _ = model(**unlabeled_batch())
    assert list(of_labeled) == list(of_unlabeled) == list(model.statistics_keys())
    assert {statistic.name for statistic in ALWAYS} <= set(of_labeled)
    # What one kind of batch cannot know is NaN there, and nothing is NaN in both.
    for key in set(of_labeled) - {"pl_wer", "pl_cer", "pl_length_ratio"}:
        known = [math.isfinite(float(s[key])) for s in (of_labeled, of_unlabeled)]
        assert any(known), key
    assert math.isnan(float(of_labeled["loss_pl"]))
    assert math.isnan(float(of_unlabeled["loss_labeled"]))


def test_statistics_do_not_change_with_the_loss_in_place() -> None:
    """Regression: the trainer divides the loss in place by accum_grad."""
    model = make_model()
    for fields in (labeled_batch(), unlabeled_batch()):
        loss, stats, _ = model(**fields)
        before = float(stats["loss"])
        with torch.no_grad():
            loss /= 8
        assert float(stats["loss"]) == before


@pytest.mark.parametrize("who", ["ema", "student", "frozen"])
def test_gradients_reach_the_student_only(who) -> None:
    model = make_model("soft_ce", who)
    loss, _, weight = model(**unlabeled_batch())
    loss.backward()
    assert int(weight) == 3
    assert all(p.grad is not None for p in model.parameters())
    labeler = model.pl.generator.teacher.module(model)
    if labeler is not model:
        assert all(p.grad is None for p in labeler.parameters())
        own = {id(p) for p in labeler.parameters()}
        assert not own & {id(p) for p in model.parameters()}


def test_the_decoder_learns_from_hard_labels_in_a_hybrid() -> None:
    for criterion, expected in (("hard_ctc", True), ("soft_ce", False)):
        model = make_model(criterion, **HYBRID)
        model.ctc.ctc_lo.bias.data[3] = 5.0  # the teacher says something
        model(**unlabeled_batch())[0].backward()
        grads = [p.grad for p in model.decoder.parameters() if p.grad is not None]
        assert bool(grads) == expected


def test_weighted_mean_removes_exactly() -> None:
    losses = torch.tensor([1.0, math.inf, 3.0], requires_grad=True)
    mean = weighted_mean(losses, torch.tensor([1.0, 0.0, 0.5]))
    mean.backward()
    assert mean.item() == pytest.approx((1.0 + 1.5) / 3)
    torch.testing.assert_close(losses.grad, torch.tensor([1 / 3, 0.0, 0.5 / 3]))


def test_a_batch_is_labeled_or_unlabeled() -> None:
    model = make_model()
    for wrong in (
        dict(labeled_batch(), unlabeled=batch()),
        {k: v for k, v in labeled_batch().items() if not k.startswith("text")},
    ):
        with pytest.raises(ValueError, match="either text or is unlabeled"):
            model(**wrong)


def test_frames_of_counts_what_the_encoder_makes() -> None:
    model = make_model()
    _, lengths = model.ctc_log_probs(*batch()[1:3])
    for samples, length in zip(batch().speech_lengths, lengths):
        # ESPnet's subsampling may count one frame more in a padded batch.
        assert abs(frames_of(model, int(samples)) - int(length)) <= 1
