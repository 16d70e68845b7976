"""The task: what it refuses, and with which status it ends. Trainings: end_to_end."""

from __future__ import annotations

import argparse
import itertools
import re

import pytest
from espnet2.tasks.asr import ASRTask

from espnet_softpl.core.errors import CollapseError, UserError
from espnet_softpl.training.resume import checkpoints
from espnet_softpl.training.task import SoftPLTask
from tests.support.espnet_runs import PL, TOKENS, config, make_data, train
from tests.training.test_model import make_model


def parse(*words: str) -> argparse.Namespace:
    command = ["--output_dir", "unused", "--token_list", "tokens", *words]
    return SoftPLTask.get_parser().parse_args(command)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--pl_criterion", "hard"], "pl_criterion: unknown criterion 'hard'"),
        (["--pl_criterion", "soft_ce", "--pl_filter", "x"], "pl_filter: unknown"),
        (["--pl_criterion", "soft_ce", "--ngpu", "2"], "ngpu: several GPUs need"),
        (["--pl_criterion", "hard_ctc"], "token_list: tokens does not exist"),
    ],
)
def test_a_mistake_ends_it_with_one_line_and_status_2(words, message, capsys) -> None:
    words = [*words, "--dry_run", "true"]
    with pytest.raises(SystemExit) as end:
        SoftPLTask.check_required_command_args(parse(*words))
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_what_is_missing_is_said_in_a_line(capsys) -> None:
    """ESPnet shows all of its help."""
    with pytest.raises(SystemExit, match="2"):
        SoftPLTask.check_required_command_args(SoftPLTask.get_parser().parse_args([]))
    (line,) = capsys.readouterr().err.splitlines()
    assert "--output_dir and --token_list must be given, here or in --config" in line


def test_a_training_without_a_criterion_is_stock() -> None:
    args = parse("--dry_run", "true")
    SoftPLTask.check_required_command_args(args)
    vars(args).update(config(), token_list=TOKENS, pl_criterion=None)
    assert type(SoftPLTask.build_model(args)).__module__.startswith("espnet2.")


def test_a_training_without_a_criterion_needs_its_gpus_too(monkeypatch, capsys) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    data = [
        [f"--{part}_data_path_and_name_and_type", f"a,{name},text"]
        for part in ("train", "valid")
        for name in ("speech", "text")
    ]
    words = ["--ngpu", "1", *itertools.chain(*data)]
    with pytest.raises(SystemExit, match="2"):
        SoftPLTask.check_required_command_args(parse(*words))
    assert "ngpu: 1, but torch finds no GPUs here" in capsys.readouterr().err


@pytest.mark.slow
def test_the_teacher_is_told_the_length_of_the_run(tmp_path, caplog) -> None:
    """Also if only the data say how long an epoch is."""
    data = make_data(tmp_path / "data")
    options = config(**data.options(), **{**PL, "pl_teacher_conf": {}}, max_epoch=2)
    options["num_iters_per_epoch"] = None
    # An update without any label is left out, and the teacher would not see it.
    options["pl_filter_conf"] = {"min_tokens": 0}
    caplog.set_level("INFO")
    train(SoftPLTask, options, tmp_path / "exp")
    trained = SoftPLTask._config.teacher
    (told,) = re.findall(r"of the run's (\d+) optimizer steps", caplog.text)
    assert trained.steps_seen in (int(told), int(told) - 1)
    assert trained.decay == 0.5 ** (1 / max(int(told) / 15, 1.0))


@pytest.mark.parametrize(
    "error, status",
    [
        (UserError("a file is gone"), 2),
        (CollapseError("labels collapse"), 3),
        (OSError(28, "No space left on device"), 4),
    ],
)
def test_each_kind_of_end_has_its_status(
    error, status, capsys, monkeypatch, tmp_path
) -> None:
    def fail(args: argparse.Namespace) -> None:
        raise error

    monkeypatch.setattr(ASRTask, "main_worker", fail)
    args = parse("--pl_criterion", "hard_ctc")
    args.output_dir = str(tmp_path)
    with pytest.raises(SystemExit) as end:
        SoftPLTask.main_worker(args)
    assert end.value.code == status
    assert ": error: " in capsys.readouterr().err


def test_the_second_run_in_a_directory_writes_nothing(
    capsys, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(ASRTask, "main_worker", lambda _: pytest.fail("it began"))
    args = parse("--pl_criterion", "hard_ctc")
    args.output_dir = str(tmp_path)
    with checkpoints.sole_run(args), pytest.raises(SystemExit) as end:
        SoftPLTask.main_worker(args)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"another run trains in {tmp_path} (process " in line


def test_what_nobody_expected_is_a_traceback(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)

    def fail(args: argparse.Namespace) -> None:
        raise RuntimeError("a mistake in the code")

    monkeypatch.setattr(ASRTask, "main_worker", fail)
    with pytest.raises(RuntimeError, match="a mistake in the code"):
        SoftPLTask.main_worker(parse("--pl_criterion", "hard_ctc"))


def test_two_models_of_the_same_options_share_no_part() -> None:
    first, second = make_model().pl, make_model().pl
    assert first.generator.teacher is not second.generator.teacher
    assert first.guard is not second.guard
