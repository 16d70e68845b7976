"""The model's forward on labeled and unlabeled batches, without a trainer."""

from __future__ import annotations

import argparse
import math

import pytest
import torch
from espnet2.tasks.asr import ASRTask

from espnet_softpl import criteria, filters, shaping, teacher
from espnet_softpl.criteria.base import weighted_mean
from espnet_softpl.monitors.statistics import ALWAYS
from espnet_softpl.teacher.generator import PseudoLabelGenerator
from espnet_softpl.training import unlabeled_head
from espnet_softpl.training.batch import UnlabeledBatch
from espnet_softpl.training.engine import PseudoLabeling
from espnet_softpl.training.model import SoftPLModel, frames_of
from espnet_softpl.training.schedule import Scheduled
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


def test_the_teacher_hears_clean_audio_and_the_student_augmented() -> None:
    model = make_model()
    heard = []
    model.specaug.register_forward_hook(lambda *_: heard.append("augmented"))
    with torch.no_grad():
        label = model.pl.generator(model, *batch()[1:3])
    assert heard == []
    model(**unlabeled_batch())
    assert heard == ["augmented"]
    again = model.pl.generator(model, *batch()[1:3])
    assert torch.equal(label.log_probs, again.log_probs)  # no dropout either
    assert not label.log_probs.requires_grad
    assert model.training and model.encoder.training


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


def test_lambda_scales_the_loss_and_not_its_statistic() -> None:
    torch.manual_seed(1)
    one, first, _ = make_model()(**unlabeled_batch())
    torch.manual_seed(1)
    two, second, _ = make_model()(**unlabeled_batch(weight=0.25))
    torch.testing.assert_close(two, 0.25 * one)
    assert torch.equal(first["loss_pl"], second["loss_pl"])


def test_all_labels_dropped_still_has_a_graph() -> None:
    model = make_model(min_tokens=10_000, **HYBRID)
    loss, stats, _ = model(**unlabeled_batch())
    loss.backward()
    assert float(loss) == 0.0 and float(stats["pl_kept"]) == 0.0
    encoder_grads = [p.grad for p in model.encoder.parameters()]
    assert all(g is not None and not g.any() for g in encoder_grads)


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


def test_statistics_come_from_the_teacher() -> None:
    model = make_model()
    with torch.no_grad():
        model.ctc.ctc_lo.weight.zero_()
        model.ctc.ctc_lo.bias.zero_()
        model.ctc.ctc_lo.bias[0] = 9.0
    _, stats, _ = model(**unlabeled_batch())
    assert float(stats["pl_blank_share"]) == float(stats["pl_empty_share"]) == 1.0
    assert float(stats["pl_mutual_information"]) == pytest.approx(0.0, abs=1e-6)


def test_engine_without_oracle_or_filter() -> None:
    model = make_model()
    model.pl = PseudoLabeling(
        criterion=Scheduled(criteria.HardCTC, {}),
        generator=PseudoLabelGenerator(teacher.build("student")),
    )
    _, stats, _ = model(**unlabeled_batch())
    assert math.isnan(float(stats["pl_wer"])) and float(stats["pl_kept"]) == 1.0
    model.pl.filters = [("tokens", filters.build("tokens", min_tokens=10_000))]
    assert float(model(**unlabeled_batch())[1]["pl_kept"]) == 0.0


def with_step(fields: dict, step: int) -> dict:
    return dict(fields, pl_step=step)


def test_settings_are_those_of_the_step() -> None:
    ramp = {"from": 1.0, "to": 0.0, "steps": 100}
    for step, name in ((0, "hard_ctc"), (100, "soft_ce"), (500, "soft_ce")):
        torch.manual_seed(1)
        conf = {"alpha": ramp}
        model = make_model("blend", pl_criterion_conf=conf)
        _, blended, _ = model(**with_step(unlabeled_batch(), step))
        torch.manual_seed(1)
        _, single, _ = make_model(name)(**with_step(unlabeled_batch(), step))
        torch.testing.assert_close(blended["loss_pl"], single["loss_pl"])


CONSISTENCY = dict(
    pl_criterion_conf={
        "parts": [
            {"criterion": "hard_ctc"},
            {
                "criterion": "consistency",
                "weight": 0.2,
                "criterion_conf": {"labeled_weight": 1.0},
            },
        ]
    }
)


@pytest.mark.parametrize("changes", [{}, HYBRID], ids=["ctc", "hybrid"])
def test_two_views_of_a_batch_are_augmented_differently(changes) -> None:
    model = make_model("consistency", **changes)
    label = model.pl.generator(model, *batch()[1:3])
    (first, _), seen = model.pl._student_views(model, batch(), label, 0)
    one = first.log_probs
    assert one.shape == seen.second_view.shape == label.log_probs.shape
    assert (one[2] - seen.second_view[2]).abs().max() > 0.01
    loss, stats, weight = model(**unlabeled_batch())
    loss.backward()
    assert float(stats["loss_pl"]) > 0 and int(weight) == 3


@pytest.mark.parametrize("changes", [{}, HYBRID], ids=["ctc", "hybrid"])
def test_the_labeled_side_of_consistency(changes) -> None:
    still = dict(specaug=None, encoder_conf=dict(config()["encoder_conf"]))
    for rate in ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate"):
        still["encoder_conf"][rate] = 0.0
    torch.manual_seed(1)
    plain = make_model("hard_ctc", **{**changes, **still})
    torch.manual_seed(1)
    model = make_model("blend", **{**changes, **still}, **CONSISTENCY)
    # Two views that are equal: the stock loss, and nothing to agree upon.
    if not changes:
        expected, _, _ = plain(**labeled_batch())
        loss, _, weight = model(**labeled_batch())
        torch.testing.assert_close(loss, expected)
        assert int(weight) == 3
    augmented = make_model("blend", **changes, **CONSISTENCY)
    loss, stats, _ = augmented(**labeled_batch())
    loss.backward()
    assert list(stats) == list(augmented.statistics_keys())
    # The statistics of the parts are stock; the sum has the agreement on top.
    stock = {k: float(stats[k]) for k in ("loss_ctc", "loss_att") if k in stats}
    weight = 0.3 if changes else 1.0
    parts = weight * stock["loss_ctc"] + (1 - weight) * stock.get("loss_att", 0.0)
    assert float(stats["loss"]) > parts + 1e-4


def test_regularizers_are_added_to_the_criterion() -> None:
    torch.manual_seed(1)
    _, plain, _ = make_model("soft_ce")(**unlabeled_batch())
    torch.manual_seed(1)
    conf = dict(pl_regularizer=["mean_entropy"], pl_regularizer_conf={"weight": 0.5})
    _, more, _ = make_model("soft_ce", **conf)(**unlabeled_batch())
    # Minus half of an entropy, for each of some twenty frames.
    assert float(more["loss_pl"]) < float(plain["loss_pl"]) - 1.0


def test_the_prior_comes_from_labeled_batches() -> None:
    conf = dict(pl_regularizer=["prior_kl"], pl_regularizer_conf={"weight": 1.0})
    model = make_model("hard_ctc", **conf)
    assert model.pl.make(model, batch(), step=0).label.prior is None
    model(**labeled_batch())
    prior = model.pl.prior.value
    assert prior.shape == (len(TOKENS),)
    assert float(prior.sum()) == pytest.approx(1.0, abs=1e-5)
    model(**unlabeled_batch())
    assert torch.equal(model.pl.prior.value, prior)
    assert make_model("hard_ctc").pl.prior is None  # Nobody asks for it.


def test_shaping_changes_the_label_but_not_the_monitors() -> None:
    torch.manual_seed(1)
    _, plain, _ = make_model("soft_ce")(**unlabeled_batch())
    torch.manual_seed(1)
    conf = dict(
        pl_shaping=["sharpen", "utterance_confidence"],
        pl_shaping_conf={
            "sharpen": {"temperature": 0.1},
            "utterance_confidence": {"threshold": 1.0},
        },
    )
    _, shaped, _ = make_model("soft_ce", **conf)(**unlabeled_batch())
    assert torch.equal(plain["pl_frame_entropy"], shaped["pl_frame_entropy"])
    assert float(shaped["pl_kept"]) == 0.0 and float(plain["pl_kept"]) == 1.0


def test_the_head_of_unlabeled_batches() -> None:
    model = make_model("soft_ce", pl_separate_head=True)
    stock = make_model("soft_ce").state_dict()
    assert list(model.state_dict()) == list(stock)
    assert len(list(model.parameters())) == len(list(make_model().parameters())) + 2
    with torch.no_grad():  # A seed is loaded after the model is built.
        model.ctc.ctc_lo.bias.fill_(1.0)
    model(**unlabeled_batch())[0].backward()
    head = unlabeled_head.of(model)
    assert torch.equal(head.bias, model.ctc.ctc_lo.bias)
    assert head.weight.grad is not None and model.ctc.ctc_lo.weight.grad is None
    model.zero_grad()
    model(**labeled_batch())[0].backward()
    assert head.weight.grad is None and model.ctc.ctc_lo.weight.grad is not None
    with torch.no_grad():
        head.bias.fill_(5.0)
    model(**unlabeled_batch())  # It starts from the other only once.
    assert (head.bias == 5.0).all()
    state = model.pl.state_dict(model)
    again = make_model("soft_ce", pl_separate_head=True)
    again.load_state_dict(model.state_dict())
    assert not (unlabeled_head.of(again).bias == 5.0).any()
    again.pl.load_state_dict(state, again)
    assert (unlabeled_head.of(again).bias == 5.0).all()
    labeler = model.pl.generator.teacher.module(model)
    assert list(labeler.state_dict()) == list(stock)


def test_disagreement_and_vocabulary_are_watched() -> None:
    model = make_model("soft_ce", who="student")
    _, stats, _ = model(**unlabeled_batch())
    assert 0.0 <= float(stats["pl_disagreement"]) <= 1.0
    with torch.no_grad():
        model.ctc.ctc_lo.weight.zero_()
        model.ctc.ctc_lo.bias.zero_()
        model.ctc.ctc_lo.bias[3] = 9.0
    _, stats, _ = model(**unlabeled_batch())
    assert float(stats["pl_vocabulary"]) == pytest.approx(1.0)
    assert float(stats["pl_disagreement"]) == 0.0


def test_every_shaping_runs_in_the_model() -> None:
    for name in shaping.available():
        model = make_model("hard_ctc", pl_shaping=[name])
        model(**labeled_batch())
        loss, _, _ = model(**unlabeled_batch())
        assert torch.isfinite(loss), name


@pytest.mark.parametrize("name", criteria.available())
def test_every_criterion_runs_in_the_model(name) -> None:
    model = make_model(name)
    loss, stats, _ = model(**unlabeled_batch())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in model.parameters())
