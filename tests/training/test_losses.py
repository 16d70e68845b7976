"""What the host learns of an unlabeled mini-batch, before anything is learned of it."""

from __future__ import annotations

import pytest
import torch

from espnet_softpl.training.model import SoftPLModel
from tests.training.test_model import make_model, unlabeled_batch


@pytest.mark.parametrize("change", ["lengths", "frames"])
def test_frames_that_differ_from_the_labels_are_an_error(change, monkeypatch) -> None:
    model = make_model("soft_ce")
    outputs, calls = SoftPLModel.ctc_outputs, []

    def other_frames(self, *args, **named):
        found = outputs(self, *args, **named)
        calls.append(self)
        if self is not model:  # The teacher.
            return found
        if change == "frames":
            return found._replace(log_probs=found.log_probs[:, :-1])
        return found._replace(lengths=found.lengths - torch.tensor([0, 1, 0]))

    monkeypatch.setattr(SoftPLModel, "ctc_outputs", other_frames)
    with pytest.raises(RuntimeError, match="disagree on the number of frames: "):
        model(**unlabeled_batch())
    assert len(calls) == 2 and model.pl.kept_hours == 0.0
    monkeypatch.undo()
    model(**unlabeled_batch())
    assert model.pl.kept_hours == pytest.approx(28000 / 16000 / 3600)
