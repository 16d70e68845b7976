"""What a step of the engine teaches and reports."""

from __future__ import annotations

import math

import pytest
import torch

from espnet_softpl import criteria, filters, teacher
from espnet_softpl.core.errors import CollapseError
from espnet_softpl.core.modules import dropouts
from espnet_softpl.teacher.generator import PseudoLabelGenerator
from espnet_softpl.training.engine import PseudoLabeling
from espnet_softpl.training.model import SoftPLModel
from espnet_softpl.training.schedule import Scheduled
from tests.cache.test_label_cache import cached_model, insertion, step_on
from tests.support.espnet_runs import HYBRID, config
from tests.support.models import INTER
from tests.training.test_model import batch, labeled_batch, make_model, unlabeled_batch


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


def test_a_restored_teacher_drops_as_much_as_before() -> None:
    """Votes, and agreement under dropout, are by the rates of pseudo-labeling."""
    conf = dict(pl_schedule_conf={"start_step": 2, "dropout": 0.3})
    model, resumed = make_model(**conf), make_model(**conf)
    model(**unlabeled_batch(), pl_step=2)
    resumed.pl.load_state_dict(model.pl.state_dict(model), resumed)
    teachers = [m.pl.generator.teacher.module(m) for m in (model, resumed)]
    rates = [[part.p for part in dropouts(each)] for each in teachers]
    assert rates[0] == rates[1] and set(rates[0]) == {0.3, 0.0}


def test_regularizers_are_added_to_the_criterion() -> None:
    torch.manual_seed(1)
    _, plain, _ = make_model("soft_ce")(**unlabeled_batch())
    torch.manual_seed(1)
    conf = dict(pl_regularizer=["mean_entropy"], pl_regularizer_conf={"weight": 0.5})
    _, more, _ = make_model("soft_ce", **conf)(**unlabeled_batch())
    # Minus half of an entropy, for each of some twenty frames.
    assert float(more["loss_pl"]) < float(plain["loss_pl"]) - 1.0


def test_a_regularizer_gets_the_views_that_it_wants() -> None:
    """Also a criterion in the place of one, and on labeled batches."""
    name = "espnet_softpl.criteria.consistency:Consistency"
    conf = dict(pl_regularizer=[name], pl_regularizer_conf={"labeled_weight": 0.5})
    torch.manual_seed(1)
    model = make_model("hard_ctc", **conf)
    assert model.pl.labeled_views(0) == 2
    assert model(**labeled_batch())[0].item() > 0.0
    views, label = model.pl._student_views(model, batch(), made(model), 0)
    assert len(views) == 2 and torch.equal(label.second_view, views[1].log_probs)


def made(model):
    """Label the unlabeled batch."""
    return model.pl.generator(model, *batch()[1:3])


def test_a_prior_that_is_wanted_later_acts_then() -> None:
    ramp = {"from": 0, "to": 4, "steps": 2}
    conf = dict(pl_shaping=["blank"], pl_shaping_conf={"prior_scale": ramp})
    model = make_model("soft_ce", "student", **conf)
    model(**labeled_batch())
    early, late = (model.pl.make(model, batch(), step) for step in (0, 2))
    plain = made(model).log_probs[0]
    torch.testing.assert_close(early.label.log_probs[0], plain)
    assert (late.label.log_probs[0] - plain).abs().max() > 0.1


class Asked(criteria.SoftCE):
    """Keeps what it is asked about the empty transcript."""

    seen: list[bool] = []

    def forward(self, log_probs, lengths, pseudo_label):
        """See `SoftCE.forward`."""
        self.seen.append(pseudo_label.excludes_empty)
        return super().forward(log_probs, lengths, pseudo_label)


@pytest.mark.parametrize("min_tokens", [0, 1])
def test_the_filter_tells_the_criterion_about_the_empty_transcript(min_tokens) -> None:
    """Of a label in a cache, and of one of another layer, too."""
    Asked.seen.clear()
    forms = dict(INTER, pl_interctc="own", pl_cache="slimipl")
    cache = {"size": 1, "probability": 0.0}
    name = f"{__name__}:Asked"
    model = cached_model(name, **forms, pl_cache_conf=cache, min_tokens=min_tokens)
    waiting = insertion("a", 1, 0, 0)
    model.pl.insert(model, [waiting], 0)
    step_on(model, "a", 1, slot=0, draw=1)
    assert Asked.seen == [min_tokens > 0] * 3


class LateDecoder(criteria.HardCTC):
    """A criterion that trains the decoder above a weight of 0."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.trains_decoder = weight > 0.0


def test_a_loss_that_comes_later_has_its_key_from_the_start() -> None:
    conf = {"weight": {"from": 0, "to": 1, "steps": 1}}
    name = f"{__name__}:LateDecoder"
    model = make_model(name, "student", **HYBRID, pl_criterion_conf=conf)
    early, late = (model(**with_step(unlabeled_batch(), s))[1] for s in (0, 1))
    assert list(early) == list(late) == list(model.statistics_keys())
    assert math.isnan(early["loss_pl_decoder"]) and late["loss_pl_decoder"] > 0.0


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


@pytest.mark.parametrize("name", criteria.available())
def test_every_criterion_runs_in_the_model(name) -> None:
    model = make_model(name)
    loss, stats, _ = model(**unlabeled_batch())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in model.parameters())


def break_weights(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(math.nan)


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_weights_that_are_not_finite_end_a_run_without_a_guard(who) -> None:
    model = make_model(pl_guard="none")
    model(**unlabeled_batch())
    module = model if who == "student" else model.pl.generator.teacher.module(model)
    break_weights(module)
    with pytest.raises(CollapseError, match=f"weights of the {who}: nan now") as end:
        model(**unlabeled_batch())
    assert "training is stopped: Collapse guard: alarm 1" in str(end.value)


def test_weights_that_are_not_finite_are_told_to_the_guard() -> None:
    model = make_model("soft_ce")
    model(**unlabeled_batch())
    assert model.pl.broken == ""
    break_weights(model)
    _, stats, _ = model(**unlabeled_batch())
    assert model.pl.broken == "weights of the student"
    assert float(stats["pl_kept"]) == 0.0 and float(stats["pl_unusable"]) == 1.0


def test_one_output_that_is_not_finite_ends_nothing(monkeypatch) -> None:
    """Half precision may overflow once; the weights are as they were."""
    model = make_model(pl_guard="none")
    model(**unlabeled_batch())
    before = SoftPLModel.ctc_outputs

    def overflow(self, *args, **named):
        outputs = before(self, *args, **named)
        return outputs._replace(log_probs=outputs.log_probs * math.nan)

    monkeypatch.setattr(SoftPLModel, "ctc_outputs", overflow)
    _, stats, _ = model(**unlabeled_batch())
    assert float(stats["pl_kept"]) == 0.0
    assert math.isinf(float(stats["pl_frame_entropy"]))


def test_a_label_that_is_not_finite_spares_the_others(monkeypatch) -> None:
    model = make_model("soft_ce", who="frozen")
    model(**unlabeled_batch())
    before = PseudoLabelGenerator.run

    def spoil(self, *args, **named):
        outputs = before(self, *args, **named)
        outputs.label.log_probs[1] = math.nan
        return outputs

    monkeypatch.setattr(PseudoLabelGenerator, "run", spoil)
    loss, stats, _ = model(**unlabeled_batch())
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert float(stats["pl_kept"]) == pytest.approx(2 / 3)
    assert math.isfinite(float(stats["pl_frame_entropy"]))
