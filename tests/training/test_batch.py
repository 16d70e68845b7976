"""An unlabeled mini-batch on its way to the model."""

from __future__ import annotations

import torch
from espnet2.torch_utils.device_funcs import to_device
from torch.distributed.utils import _to_kwargs

from espnet_softpl.training.batch import UnlabeledBatch
from tests.training.test_model import batch


def test_espnet_moves_it_and_it_stays_what_it_is() -> None:
    full = batch(0.3)._replace(usable=torch.tensor([True, False, True]), slot=4, draw=9)
    fields = dict(unlabeled=full, insertions=[full, batch()], pl_step=7)
    moved = to_device(fields, "meta")
    assert moved["pl_step"] == 7
    for before, after in zip(
        (fields["unlabeled"], *fields["insertions"]),
        (moved["unlabeled"], *moved["insertions"]),
        strict=True,
    ):
        assert type(after) is UnlabeledBatch
        assert after.utt_id == before.utt_id == ["a", "b", "c"]
        kept = [(part.weight, part.slot, part.draw) for part in (before, after)]
        assert kept[0] == kept[1]
        tensors = [part for part in after if isinstance(part, torch.Tensor)]
        assert all(tensor.device.type == "meta" for tensor in tensors)
        assert len(tensors) == 2 + (before.usable is not None)


def test_torch_hands_it_to_a_process_of_its_own() -> None:
    """What DistributedDataParallel does with the keyword arguments of the model."""
    fields = dict(unlabeled=batch(), insertions=[batch()], pl_step=7)
    _, (same,) = _to_kwargs((), fields, torch.device("meta"), False)
    assert type(same["unlabeled"]) is UnlabeledBatch and same["pl_step"] == 7
    assert same["unlabeled"].utt_id == ["a", "b", "c"]
    assert same["unlabeled"].speech.device.type == "meta"
    assert [type(part) for part in same["insertions"]] == [UnlabeledBatch]
