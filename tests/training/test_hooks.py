"""Time masks of SpecAugment: seen from outside, and in frames of the encoder."""

from __future__ import annotations

import pytest
import torch
from espnet2.asr.specaug.specaug import SpecAug
from espnet2.layers.mask_along_axis import MaskAlongAxis, mask_along_axis

from espnet_softpl.training import hooks
from espnet_softpl.training.hooks import DropoutSwitch
from tests.training.test_model import batch, labeled_batch, make_model, unlabeled_batch

ALL_MASKS = dict(
    apply_time_warp=False,
    freq_mask_width_range=[2, 6],
    time_mask_width_range=[5, 12],
    num_time_mask=2,
)


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("freq", [True, False])
def test_masks_are_those_that_were_drawn(zero, freq, monkeypatch) -> None:
    specaug = SpecAug(**ALL_MASKS, apply_freq_mask=freq, replace_with_zero=zero)
    drawn = []
    forward = MaskAlongAxis.forward

    def spy(self, spec, lengths=None):
        """Mask ones with the same draws: what becomes 0 is masked."""
        if self.mask_axis == "time":
            state, sizes = torch.get_rng_state(), (self.mask_width_range, 1)
            ones = torch.ones_like(spec)
            masked, _ = mask_along_axis(ones, lengths, *sizes, self.num_mask)
            drawn.append(masked[..., 0] == 0)
            torch.set_rng_state(state)
        return forward(self, spec, lengths)

    monkeypatch.setattr(MaskAlongAxis, "forward", spy)
    features = torch.randn(3, 60, 10)
    features[1, 40:] = 0.0  # Padding.
    features[2, 10:20] = -5.0  # Digital silence: equal in all bins, and not masked.
    before = features.clone()
    with hooks.recorded_masks(specaug) as masks:
        specaug(features, torch.tensor([60, 40, 60]))
    assert len(masks) == len(drawn) == 1
    for b, length in enumerate((60, 40, 60)):
        assert torch.equal(masks[0][b, :length], drawn[0][b, :length])
    assert masks[0].any() and not masks[0].all()
    assert not torch.equal(features, before)  # It writes into its input.


def test_nothing_is_left_behind_even_by_an_error() -> None:
    specaug = SpecAug(**ALL_MASKS)
    with pytest.raises(RuntimeError, match="stop"):
        with hooks.recorded_masks(specaug):
            raise RuntimeError("stop")
    assert not specaug._forward_hooks and not specaug._forward_pre_hooks
    with hooks.recorded_masks(None) as masks:
        pass
    assert masks == []


@pytest.mark.parametrize(
    ("features", "frames", "middles"),
    [
        (15, 4, [2, 6, 10, 14]),
        (15, 3, [2, 7, 12]),
        (12, 12, list(range(12))),
        (11, 6, [1, 3, 5, 7, 9, 10]),
        (7, 1, [3]),
        (1, 1, [0]),
    ],
)
def test_frames_are_those_of_their_middle(features, frames, middles) -> None:
    for f in range(features):
        masks = torch.zeros(1, features, dtype=torch.bool)
        masks[0, f] = True
        found = hooks.masks_of_encoder(masks, frames)[0]
        assert found.nonzero().flatten().tolist() == [
            t for t, middle in enumerate(middles) if middle == f
        ]


class Fixed(torch.nn.Module):
    """Masks the same features of every utterance, others in the second view."""

    def forward(self, feats, lengths=None):
        """Mask in place, as ESPnet's does."""
        feats[:3, 9:20] = 0.0
        feats[3:, 22:28] = 0.0
        return feats, lengths


def blend(*names: str) -> dict:
    """Return the settings of a blend of criteria."""
    return {"pl_criterion_conf": {"parts": [{"criterion": name} for name in names]}}


@pytest.mark.parametrize("views", [1, 2])
def test_the_criterion_gets_the_masks_of_what_the_student_heard(views) -> None:
    model = make_model("blend", **blend("masked_kl", *["consistency"] * (views - 1)))
    model.specaug = Fixed()
    label = model.pl.generator(model, *batch()[1:3])
    _, seen = model.pl._student_views(model, batch(), label, 0)
    frames = label.log_probs.size(1)
    # Four features make a frame; the middles are 2, 6, 10, 14, 18, 22, 26.
    first = [t in (2, 3, 4) for t in range(frames)]
    assert seen.masked.tolist() == [first] * 3
    if views == 2:
        second = [t in (5, 6) for t in range(frames)]
        assert seen.second_masked.tolist() == [second] * 3
    else:
        assert seen.second_masked is None
    assert not model.specaug._forward_hooks


def test_masked_frames_of_the_model_are_what_it_learns_from() -> None:
    """With a teacher and a student that differ in masks only."""
    model = make_model("masked_kl", "student")
    model.specaug = Fixed()
    _, stats, _ = model(**unlabeled_batch())
    assert float(stats["loss_pl"]) > 0.0
    model.specaug = torch.nn.Identity()
    model.specaug.forward = lambda feats, lengths: (feats, lengths)
    loss, stats, _ = model(**unlabeled_batch())
    assert float(stats["loss_pl"]) == 0.0
    loss.backward()  # No mask teaches nothing, and has a graph.


def test_nobody_asks_nothing_is_recorded() -> None:
    model = make_model("soft_ce")
    label = model.pl.generator(model, *batch()[1:3])
    _, seen = model.pl._student_views(model, batch(), label, 0)
    assert seen.masked is None and seen.second_masked is None


def test_the_head_of_unlabeled_batches() -> None:
    model = make_model("soft_ce", pl_separate_head=True)
    stock = make_model("soft_ce").state_dict()
    assert list(model.state_dict()) == list(stock)
    assert len(list(model.parameters())) == len(list(make_model().parameters())) + 2
    with torch.no_grad():  # A seed is loaded after the model is built.
        model.ctc.ctc_lo.bias.fill_(1.0)
    model(**unlabeled_batch())[0].backward()
    head = hooks.head_of(model)
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
    assert not (hooks.head_of(again).bias == 5.0).any()
    again.pl.load_state_dict(state, again)
    assert (hooks.head_of(again).bias == 5.0).all()
    labeler = model.pl.generator.teacher.module(model)
    assert list(labeler.state_dict()) == list(stock)


class Stack(torch.nn.Module):
    """Layers that drop, one that does not, and a rate for whole layers."""

    def __init__(self, layer_drop: float = 0.3) -> None:
        super().__init__()
        self.layer_drop_rate = layer_drop
        self.parts = torch.nn.ModuleList(
            [
                torch.nn.Dropout(0.5),
                torch.nn.Dropout(0.0),
                torch.nn.LSTM(4, 4, num_layers=2, dropout=0.4),
            ]
        )

    def rates(self) -> list[float]:
        """Return all rates."""
        first, none, recurrent = self.parts
        return [first.p, none.p, recurrent.dropout, self.layer_drop_rate]


def test_rates_change_and_come_back() -> None:
    model = Stack()
    switch = DropoutSwitch(model, dropout=0.1, layer_drop=0.2, start_step=5)
    assert model.rates() == [0.5, 0.0, 0.4, 0.3]
    for step in (5, 6):
        switch.at(step)
        assert model.rates() == [0.1, 0.0, 0.1, 0.2]
    switch.at(4)
    assert model.rates() == [0.5, 0.0, 0.4, 0.3]


def test_none_leaves_a_kind_as_it_is() -> None:
    model = Stack()
    DropoutSwitch(model, dropout=None, layer_drop=0.1).at(0)
    assert model.rates() == [0.5, 0.0, 0.4, 0.1]
    DropoutSwitch(torch.nn.Linear(2, 2), None, None).at(0)


def test_nothing_to_change_is_refused() -> None:
    with pytest.raises(ValueError, match="layer_drop is 0.1, but the model was built"):
        DropoutSwitch(Stack(layer_drop=0.0), dropout=0.1, layer_drop=0.1)
