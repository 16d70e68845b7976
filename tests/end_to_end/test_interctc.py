"""Intermediate CTC layers on pseudo-labels, against plain sums."""

from __future__ import annotations

import math

import pytest
import torch

from espnet_softpl import criteria
from espnet_softpl.teacher.generator import as_label
from tests.support.models import INTER, batch, run, talking


def by_hand(model, criterion: str, target: str) -> torch.Tensor:
    """Compute the loss of last and intermediate layers from ESPnet's own encoder."""
    (last, between), lengths = model.encode(batch().speech, batch().speech_lengths)
    heads = [model.ctc.log_softmax(out) for out in (last, *(o for _, o in between))]
    own = [as_label(head.detach(), lengths) for head in heads]
    build = criteria.build(criterion)
    losses = []
    for head, label in zip(heads, own):
        used = own[0] if target == "last" else label
        losses.append(build(head, lengths, used).mean())
    return 0.6 * losses[0] + 0.4 * torch.stack(losses[1:]).mean()


@pytest.mark.parametrize("criterion", ["hard_ctc", "soft_ce", "best_path_ce"])
@pytest.mark.parametrize("target", ["last", "own"])
def test_layers_learn_as_computed_by_hand(criterion, target) -> None:
    model = talking(criterion, pl_interctc=target, **INTER)
    made = model.pl.make(model, batch(), step=0)
    assert all(int(layer.token_lengths.min()) > 0 for layer in made.layers)
    loss, stats, grads = run(model)
    expected = by_hand(model, criterion, target)
    torch.testing.assert_close(loss, expected.detach(), atol=1e-4, rtol=1e-5)
    model.zero_grad()
    expected.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, grads[name], atol=1e-4, rtol=1e-3, msg=name
        )
    parts = 0.6 * stats["loss_pl_ctc"] + 0.4 * stats["loss_pl_interctc"]
    torch.testing.assert_close(loss, parts)


def test_own_labels_and_those_of_the_last_layer_differ() -> None:
    losses = [
        run(talking("soft_ce", pl_interctc=target, **INTER))[1]["loss_pl_interctc"]
        for target in ("last", "own")
    ]
    # Cross-entropy is least where the target is what is said.
    assert float(losses[1]) < float(losses[0]) - 0.1
    plain = run(talking("soft_ce", **INTER))[1]
    assert "loss_pl_interctc" not in plain
    whole = run(talking("soft_ce", pl_interctc="own", **INTER))[1]
    torch.testing.assert_close(plain["loss_pl"], whole["loss_pl_ctc"])


@pytest.mark.parametrize("name", criteria.available())
@pytest.mark.parametrize("target", ["last", "own"])
def test_every_criterion_teaches_the_layers(name, target) -> None:
    model = talking(name, pl_interctc=target, **dict(INTER, specaug="specaug")).train()
    _, stats, grads = run(model)
    assert math.isfinite(float(stats["loss_pl_interctc"]))
    assert float(stats["loss_pl_interctc"]) > 0.0
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())


def test_two_views_of_a_layer_teach_each_other() -> None:
    """The second view of a layer is the layer's own, not the last one's."""
    forms = dict(INTER, specaug="specaug", pl_interctc="last")
    model = talking("consistency", **forms).train()
    views, label = model.pl._student_views(
        model, batch(), model.pl.make(model, batch(), 0).label, 0
    )
    made = model.pl.make(model, batch(), 0)
    found = model.pl._layers_loss(views, made, label, 0)
    criterion = criteria.build("consistency")
    expected = [
        criterion(one, label.lengths, label._replace(second_view=two)).mean()
        for one, two in zip(views[0].layers, views[1].layers)
    ]
    torch.testing.assert_close(found, torch.stack(expected).mean())
    assert (views[0].layers[0] - views[1].layers[0]).abs().max() > 1e-3


def test_a_layer_does_not_learn_that_there_is_nothing() -> None:
    """Where only its own transcript is empty; where all are, it may."""
    model = talking("hard_ctc", pl_interctc="own", **INTER)
    outputs = type(model).ctc_outputs

    def silent(*args, **kwargs):
        found = outputs(model, *args, **kwargs)
        if found.log_probs.requires_grad:  # The student's.
            return found
        for log_probs in found.layers:
            log_probs[1] = -9.0
            log_probs[1, :, 0] = -1e-3
        return found

    def all_silent(*args, **kwargs):
        found = silent(*args, **kwargs)
        if found.log_probs.requires_grad:
            return found
        return found._replace(log_probs=found.layers[0])

    for listen, trust in ((silent, [1.0, 0.0, 1.0]), (all_silent, [1.0, 1.0, 1.0])):
        model.ctc_outputs = listen
        layers = model.pl.make(model, batch(), 0).layers
        assert [layer.weight.tolist() for layer in layers] == [trust] * 2
        heads = outputs(model, batch().speech, batch().speech_lengths, layers=True)
        losses = torch.stack(
            [
                criteria.build("hard_ctc")(head, heads.lengths, layer)
                for head, layer in zip(heads.layers, layers)
            ]
        )
        assert losses.min() > 0.1
        expected = (losses * torch.tensor(trust)).mean().detach()
        torch.testing.assert_close(run(model)[1]["loss_pl_interctc"], expected)


def test_layers_use_the_stock_head_and_regularizers_are_added_once() -> None:
    forms = dict(INTER, pl_interctc="last")
    model = talking("soft_ce", pl_separate_head=True, **forms).train()
    _, _, grads = run(model)
    assert float(grads["unlabeled_head.weight"].abs().max()) > 0.0
    assert float(grads["ctc.ctc_lo.weight"].abs().max()) > 0.0
    plain = run(talking("soft_ce", **forms))[1]
    conf = dict(pl_regularizer=["mean_entropy"], pl_regularizer_conf={"weight": 0.5})
    more = run(talking("soft_ce", **forms, **conf))[1]
    assert torch.equal(plain["loss_pl_interctc"], more["loss_pl_interctc"])
    assert float(more["loss_pl_ctc"]) < float(plain["loss_pl_ctc"]) - 1.0
