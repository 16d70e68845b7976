"""What a teacher makes of a mini-batch."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_softpl import teacher
from espnet_softpl.teacher.generator import CTCOutputs, PseudoLabelGenerator, as_label
from tests.support.espnet_runs import HYBRID
from tests.training.test_model import batch, make_model, unlabeled_batch


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


def test_views_are_parted_in_order() -> None:
    whole = torch.arange(4.0).reshape(4, 1, 1)
    outputs = CTCOutputs(whole, torch.arange(4), whole + 10, (whole + 20, whole + 30))
    first, second = outputs.views(2)
    assert first.log_probs.flatten().tolist() == [0.0, 1.0]
    assert second.lengths.tolist() == [2, 3]
    assert second.encoder_out.flatten().tolist() == [12.0, 13.0]
    assert [layer.flatten().tolist() for layer in second.layers] == [
        [22.0, 23.0],
        [32.0, 33.0],
    ]
    (only,) = outputs.views(1)
    assert torch.equal(only.log_probs, whole) and len(only.layers) == 2


def test_a_label_is_the_best_token_of_every_frame() -> None:
    path = torch.tensor([[1, 1, 0, 2], [0, 0, 2, 2]])
    log_probs = torch.nn.functional.one_hot(path, 3).float().log_softmax(-1)
    label = as_label(log_probs, torch.tensor([4, 2]))
    assert label.token_lengths.tolist() == [2, 0]
    assert label.tokens[0, :2].tolist() == [1, 2]
    assert label.weight.tolist() == [1.0, 1.0] and label.log_probs is log_probs


class Silent(torch.nn.Module):
    """A model whose second layer says nothing about the first utterance."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(0.5)

    def ctc_outputs(self, speech, speech_lengths, layers):
        """Return what stands in the audio, as if it were scores."""
        blank = torch.zeros_like(speech)
        blank[..., 0] = 9.0
        between = (speech, torch.stack([blank[0], speech[1]])) if layers else ()
        scores = [part.log_softmax(-1) for part in (self.dropout(speech), *between)]
        return CTCOutputs(scores[0], speech_lengths, speech, tuple(scores[1:]))


def test_a_layer_that_outputs_nothing_is_not_trusted() -> None:
    scores = torch.full((2, 5, 3), -9.0)
    scores[..., 1] = 9.0
    model = Silent().train()
    generator = PseudoLabelGenerator(teacher.build("student"), layers=True)
    outputs = generator.run(model, scores, torch.tensor([5, 3]))
    assert [layer.weight.tolist() for layer in outputs.layers] == [[1, 1], [0, 1]]
    assert outputs.label.weight.tolist() == [1.0, 1.0]
    assert model.training and model.dropout.training
    # Eval mode, unless dropout is asked for; then again as before.
    torch.manual_seed(1)
    dropped = generator(model, scores, torch.tensor([5, 3]), dropout=True)
    assert not torch.equal(dropped.log_probs, outputs.label.log_probs)
    same = generator(model, scores, torch.tensor([5, 3]))
    assert torch.equal(same.log_probs, outputs.label.log_probs)


class Casts(TorchDispatchMode):
    """Counts conversions to another type."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operation, and count it if it converts."""
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("what", ["run", "force"])
def test_autocast_keeps_no_copies_that_were_made_without_gradient(what) -> None:
    """Whatever torch does with such copies: there are none."""
    model = make_model("hard_ctc", "student", **HYBRID)
    generator = model.pl.generator
    run = {
        "run": lambda: generator.run(model, *batch()[1:3]),
        "force": lambda: generator.force(model, outputs, outputs.label),
    }[what]
    outputs = generator.run(model, *batch()[1:3])
    counts = []
    with torch.autocast("cpu", torch.bfloat16):
        run()  # The first makes what encodes positions.
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            with Casts() as casts:
                run()
            counts.append(casts.count)
    assert counts[0] == counts[1] > 10
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**unlabeled_batch())[0]
    loss.backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not [name for name in missing if not name.startswith("criterion_att")]
