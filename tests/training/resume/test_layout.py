"""ESPnet's checkpoints are read without running code from them."""

from __future__ import annotations

from typing import Any

import torch

from espnet_softpl.training.resume.layout import load_checkpoint


def test_every_scheduler_and_optimizer_of_espnet_can_be_loaded(tmp_path) -> None:
    """No checkpoint of ESPnet's holds anything that would have to run code."""
    from espnet2.tasks.abs_task import optim_classes, scheduler_classes

    conf: dict[str, dict[str, Any]] = {
        "lambdalr": dict(lr_lambda=lambda step: 1.0),
        "steplr": dict(step_size=2),
        "multisteplr": dict(milestones=[2]),
        "exponentiallr": dict(gamma=0.9),
        "cosineannealinglr": dict(T_max=3),
        "noamlr": dict(model_size=256),
        "cycliclr": dict(base_lr=0.1, max_lr=0.2),
        "onecyclelr": dict(max_lr=0.1, total_steps=10),
        "cosineannealingwarmrestarts": dict(T_0=3),
        "cosineannealingwarmuprestarts": dict(first_cycle_steps=10),
        "tristagelr": dict(max_steps=10),
        "piecewiselinearwarmuplr": dict(
            warmup_steps_list=[0, 10], warmup_lr_list=[0.0, 1e-3]
        ),
        "exponentialdecaywarmup": dict(
            max_lr=0.1, min_lr=0.01, total_steps=10, warmup_steps=2
        ),
    }
    weight = torch.nn.Parameter(torch.ones(3))
    for cls in optim_classes.values():
        optimizer = cls([weight], lr=0.1)
        weight.grad = torch.ones(3)
        optimizer.step(lambda: weight.sum())
        torch.save({"state": optimizer.state_dict()}, tmp_path / "checkpoint.pth")
        assert load_checkpoint(tmp_path / "checkpoint.pth")["state"]["param_groups"]
    for name, cls in scheduler_classes.items():
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        state = cls(optimizer, **conf.get(name, {})).state_dict()
        torch.save({"state": state}, tmp_path / "checkpoint.pth")
        assert (
            load_checkpoint(tmp_path / "checkpoint.pth")["state"].keys() == state.keys()
        )
