"""What changes in a configuration, what is noted, and that the page says so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from espnet_softpl import criteria, teacher
from espnet_softpl.commands import packed as commands_packed
from espnet_softpl.training.task import SoftPLTask
from tests import ROOT
from tests.support.add_pl_recipe import (
    call,
    changed_base,
    options,
)

PAGE = ROOT / "docs/add_pl.md"


@pytest.mark.parametrize("name", teacher.available())
def test_every_teacher_has_its_settings(here, tmp_path, capsys, name) -> None:
    values, _, _ = call(capsys, *options(tmp_path, "--teacher", name))
    assert values["pl_teacher"] == name and values["pl_guard"] == "stop"
    norm = values.get("pl_teacher_conf", {}).get("buffers")
    assert norm == ("copy" if name == "ema" else None)


def test_frames_must_stay_in_their_places(here, tmp_path, capsys) -> None:
    warped = dict(freq_mask_width_range=[0, 4], time_mask_width_ratio_range=[0.0, 0.1])
    exp = changed_base(tmp_path, specaug_conf=warped)
    values, _, output = call(capsys, *options(tmp_path, exp=exp))
    assert "apply_time_warp" not in values["specaug_conf"]
    assert "Note: specaug warps time" in output
    frames = ("--criterion", "soft_ce", "--overwrite")
    values, _, output = call(capsys, *options(tmp_path, *frames, exp=exp))
    assert values["specaug_conf"] == {**warped, "apply_time_warp": False}
    assert "Changed: specaug_conf.apply_time_warp" in output


def test_the_line_to_edit_takes_every_criterion(here, tmp_path, capsys) -> None:
    _, command, _ = call(capsys, *options(tmp_path))
    path = Path(command[1])
    text = path.read_text(encoding="utf-8")
    assert text.count("\npl_criterion: hard_ctc\n") == 1
    for name in criteria.available():
        edited = text.replace("pl_criterion: hard_ctc", f"pl_criterion: {name}")
        path.write_text(edited, encoding="utf-8")
        args = SoftPLTask.get_parser().parse_args(command)
        assert args.pl_criterion == name
        SoftPLTask.check_required_command_args(args)


def test_numbers_asked_for(here, tmp_path, capsys) -> None:
    exp = changed_base(tmp_path, multiprocessing_distributed=True, dist_world_size=8)
    wishes = ("--lr", "0.01", "--max_epoch", "7", "--unlabeled_steps", "5", "--ngpu")
    values, command, _ = call(capsys, *options(tmp_path, *wishes, "2", exp=exp))
    assert (values["optim_conf"]["lr"], values["max_epoch"]) == (0.01, 7)
    assert values["pl_schedule_conf"]["unlabeled_steps"] == 5
    assert " --ngpu 2 --multiprocessing_distributed true " in f"{shlex.join(command)} "


def test_keys_of_another_espnet_are_named(here, tmp_path, capsys) -> None:
    exp = changed_base(
        tmp_path,
        old_key=[1, 2],
        unset_key=None,
        wandb_id="theirs",
        scheduler="steplr",
        scheduler_conf=dict(step_size=5),
        model_conf=dict(ctc_weight=1.0, report_cer=False, report_wer=False),
    )
    values, _, output = call(capsys, *options(tmp_path, exp=exp))
    assert "has no such keys: old_key: [1, 2]\n" in output
    assert "scheduler steplr: its settings may count" in output
    assert values["model_conf"]["report_cer"] is True
    assert not values.keys() & {"old_key", "unset_key", "wandb_id", "dist_rank"}


def test_the_page_names_every_change(here, tmp_path, capsys) -> None:
    warped = dict(freq_mask_width_range=[0, 4], time_mask_width_ratio_range=[0.0, 0.1])
    exp = changed_base(
        tmp_path,
        specaug_conf=warped,
        patience=3,
        best_model_criterion=[["valid", "acc", "max"]],
        shuffle_within_batch=True,
        use_deepspeed=True,
        multiple_iterator=True,
        model_conf=dict(ctc_weight=1.0, report_cer=False, report_wer=False),
    )
    frames = ("--criterion", "soft_ce", "--labeled", "data/labeled")
    _, _, output = call(capsys, *options(tmp_path, *frames, exp=exp))
    changed = re.findall(r"^Changed: ([\w.]+): .* -> ", output, re.M)
    text = PAGE.read_text(encoding="utf-8").partition("## What it changes")[2]
    assert len(changed) == 8
    assert not [key for key in changed if f"`{key}`" not in text]
    assert commands_packed.INSTALL_ZOO.replace(" && ", "\n") in text
