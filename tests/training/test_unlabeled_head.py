"""The CTC head of unlabeled batches."""

from __future__ import annotations

import torch

from espnet_softpl.training import unlabeled_head
from tests.training.test_model import labeled_batch, make_model, unlabeled_batch


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
