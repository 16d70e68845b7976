"""Base models, transcripts and channels that cannot work are refused by name."""

from __future__ import annotations

import argparse
import logging
import os
import types
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from espnet_softpl.core.errors import UserError
from espnet_softpl.training import inputs
from tests.training.test_checks import options

TOKENS = ["<blank>", "<unk>", "<space>", "A", "B", "<sos/eos>"]


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def write_base(path: Path, **more) -> Path:
    state = {"encoder.w": torch.zeros(2, 3), "ctc.ctc_lo.bias": torch.zeros(2)}
    torch.save({**state, **more}, path)
    return path


def test_a_base_model_runs_no_code(tmp_path) -> None:
    evil = write_base(tmp_path / "evil.pth", x=Evil(tmp_path / "was_run"))
    with pytest.raises(UserError, match="init_param: .*evil.pth cannot be read"):
        inputs.check_base_models(options(init_param=[f"{evil}:encoder:encoder"]))
    # In a stock training too: ESPnet would load it.
    cmd = ["--output_dir", str(tmp_path / "exp"), "--token_list", "x"]
    from espnet_softpl.training.task import SoftPLTask

    args = SoftPLTask.get_parser().parse_args([*cmd, "--init_param", str(evil)])
    data = [("text", "text", "text")]
    args.train_data_path_and_name_and_type = data
    args.valid_data_path_and_name_and_type = data
    with pytest.raises(SystemExit) as end:
        SoftPLTask.check_required_command_args(args)
    assert end.value.code == 2 and not (tmp_path / "was_run").exists()


def torn(file: Path) -> None:
    file.write_bytes(write_base(file).read_bytes()[:300])


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda file: file.write_bytes(b""), "cannot be read"),
        (lambda file: file.write_text("lr: 0.1\n"), "cannot be read"),
        (torn, "cannot be read"),
        (lambda file: torch.save([1, 2], file), "no model of ESPnet"),
        (lambda file: torch.save({"epoch": 3}, file), "no model of ESPnet"),
        (lambda file: os.mkfifo(file), "does not exist"),
        (lambda file: file.mkdir(), "is a directory, not a file"),
    ],
)
def test_what_is_no_model(tmp_path, write, message) -> None:
    write(tmp_path / "m.pth")
    with pytest.raises(UserError, match=f"^init_param: .*{message}") as error:
        inputs.check_base_models(options(init_param=[str(tmp_path / "m.pth")]))
    assert "\n" not in str(error.value)


def test_other_tokens_are_taken_with_the_encoder_alone(tmp_path) -> None:
    base = write_base(tmp_path / "m.pth")
    text = yaml.safe_dump({"token_list": ["<blank>", "X"]})
    (tmp_path / "config.yaml").write_text(text)
    for part in (":encoder:encoder", ":::ctc", ":encoder:encoder:ctc"):
        args = options(init_param=[f"{base}{part}"])
        inputs.check_base_tokens(args, ["<blank>", "Y"])
    for part in ("", ":ctc:ctc", ":::encoder"):
        args = options(init_param=[f"{base}{part}"])
        with pytest.raises(UserError, match="m.pth:::ctc,decoder,joint_network$"):
            inputs.check_base_tokens(args, ["<blank>", "Y"])
    # ESPnet excludes what begins with "", and that is everything.
    for part in (":encodr:encoder", ":::", ":::ctc,"):
        with pytest.raises(UserError, match="takes no parameter.*parts are ctc, enc"):
            inputs.check_base_models(options(init_param=[f"{base}{part}"]))


@pytest.mark.parametrize("part", ["", ":::ctc,decoder"])
def test_a_model_of_other_tokens_is_transferred(tmp_path, caplog, part) -> None:
    """As `asr.sh --pretrained_model FILE --ignore_init_mismatch true` asks for."""
    base = write_base(tmp_path / "m.pth")
    text = yaml.safe_dump({"token_list": ["<blank>", "X"]})
    (tmp_path / "config.yaml").write_text(text)
    wanted = dict(init_param=[f"{base}{part}"], ignore_init_mismatch=True)
    inputs.check_base_tokens(options(**wanted), ["<blank>", "X", "Y"])
    assert "the CTC head, by which the teacher labels, starts again" in caplog.text
    caplog.clear()
    later = options(**wanted, pl_schedule_conf={"start_step": 9})
    inputs.check_base_tokens(later, ["<blank>", "X", "Y"])
    if part:
        inputs.check_base_tokens(later, ["<blank>", "Y"])
    else:  # ESPnet would load them: the sizes are the same.
        with pytest.raises(UserError, match="2 tokens that differ from id 1 on"):
            inputs.check_base_tokens(later, ["<blank>", "Y"])
        inputs.check_base_tokens(options(**wanted), ["<blank>", "X"])
    assert not caplog.text


def test_a_base_model_of_other_shapes(tmp_path) -> None:
    base = write_base(tmp_path / "m.pth")
    model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(3, 2, bias=False)})
    args = options(init_param=[f"{base}:encoder:encoder"], ignore_init_mismatch=False)
    with pytest.raises(UserError, match="1 of 1 parameters do not fit.*encoder.w"):
        inputs.check_base_fits(args, model)
    args.ignore_init_mismatch = True
    inputs.check_base_fits(args, model)
    model["encoder"].w = torch.nn.Parameter(torch.zeros(2, 3))
    args.ignore_init_mismatch = False
    inputs.check_base_fits(args, model)


def labeled(root: Path, *texts: str, channels: tuple[int, ...] = (1, 1)) -> dict:
    """Write a labeled set; return the options that name it."""
    tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "shape": []}
    for i, (text, count) in enumerate(zip(texts, channels)):
        file = root / f"{i}.wav"
        soundfile.write(file, [[0.0] * count] * 800, 16000)
        tables["wav.scp"].append(f"u{i} {file}")
        tables["text"].append(f"u{i} {text}")
        tables["shape"].append(f"u{i} 800")
    for name, lines in tables.items():
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "train_data_path_and_name_and_type": [
            (str(root / "wav.scp"), "speech", "sound"),
            (str(root / "text"), "text", "text"),
        ],
        "train_shape_file": [str(root / "shape")],
        "token_list": TOKENS,
    }


def test_transcripts_in_the_wrong_case(tmp_path, caplog) -> None:
    args = options(**labeled(tmp_path, "ab ba", "bb"))
    message = r"text: 85.7% of tokens are not in the token list; in lower case 85.7%; "
    with pytest.raises(UserError, match=message + "in upper case 0.0%"):
        inputs.check_labeled(args, "train")
    with caplog.at_level(logging.WARNING):
        inputs.check_labeled(options(**labeled(tmp_path, "AB BA", "BX")), "train")
    assert "14.3% of tokens are not in the token list" in caplog.text
    caplog.clear()
    inputs.check_labeled(options(**labeled(tmp_path, "AB BA", "")), "train")
    assert not caplog.text


def test_a_stereo_file_among_mono_ones(tmp_path) -> None:
    args = options(**labeled(tmp_path, "A", "B", channels=(1, 2)))
    with pytest.raises(UserError, match=r"channels differ: .*0.wav has 1; .*1.wav has"):
        inputs.check_labeled(args, "train")
    args.preprocessor_conf = {"force_single_channel": True}
    inputs.check_labeled(args, "train")
    args = options(**labeled(tmp_path, "A", "B", channels=(2, 2)))
    inputs.check_labeled(args, "train")


def test_utterances_of_a_shape_file_that_have_no_text(tmp_path) -> None:
    args = options(**labeled(tmp_path, "A", "B"))
    (tmp_path / "text").write_text("u0 A\n")
    with pytest.raises(
        UserError, match="1 utterances of .*shape are not in .*text: u1"
    ):
        inputs.check_labeled(args, "train")


@pytest.mark.parametrize("target", ["none", "transcript"])
def test_all_that_could_be_trained_is_frozen(target) -> None:
    parts = dict.fromkeys(("encoder", "ctc", "decoder"), torch.nn.Linear(1, 1))
    model = torch.nn.ModuleDict({k: torch.nn.Linear(1, 1) for k in parts})
    model.pl = types.SimpleNamespace(decoder_target=lambda _: target)
    args = argparse.Namespace(freeze_param=["encoder"], pl_criterion="hard_ctc")
    inputs.check_trainable(args, model)
    args.freeze_param = ["encoder.weight", "encoder.bias", "ctc"]
    if target == "none":
        with pytest.raises(UserError, match="freeze_param: .* leaves nothing"):
            inputs.check_trainable(args, model)
    else:
        inputs.check_trainable(args, model)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pl_filter": 0.5}, "pl_filter: must be a list of names, got 0.5"),
        ({"pl_shaping": [["a"]]}, "pl_shaping: must be a list of names"),
        ({"pl_criterion": ["hard_ctc"]}, "pl_criterion: must be a name"),
        ({"pl_cache_conf": "x"}, "pl_cache_conf: must be settings by name, got 'x'"),
        ({"pl_guard_conf": {1: 2}}, "pl_guard_conf: must be settings by name"),
    ],
)
def test_values_of_other_types(changes, message) -> None:
    with pytest.raises(UserError, match=message):
        inputs.check_types(options(**changes))
    inputs.check_types(options(pl_filter=["tokens"], pl_cache=None))


DATA = "unlabeled_data_path_and_name_and_type"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"init_param": "a.pth"}, "init_param: must be a list, got 'a.pth'"),
        ({"freeze_param": "encoder"}, "freeze_param: must be a list"),
        ({"train_shape_file": "speech_shape"}, "train_shape_file: must be a list"),
        ({DATA: "wav.scp"}, f"{DATA}: must be a list"),
        ({DATA: ["wav.scp"]}, "must list .FILE, NAME, TYPE., got 'wav.scp'"),
        ({DATA: [["wav.scp", "speech"]]}, "must list .FILE, NAME, TYPE., got .'wav"),
        ({DATA: [["wav.scp", 1, "sound"]]}, "must list .FILE, NAME, TYPE."),
        ({"encoder_conf": 3}, "encoder_conf: must be settings by name, got 3"),
        ({"optim_conf": {"lr": "1e-3"}}, "optim_conf: lr must be a number, .* '1e-3'"),
        ({"scheduler_conf": {"gamma": "0,5"}}, "scheduler_conf: gamma must be a num"),
    ],
)
def test_values_of_other_types_of_espnets_options(changes, message) -> None:
    with pytest.raises(UserError, match=message):
        inputs.check_stock_types(options(**changes))


def test_values_as_espnet_takes_them() -> None:
    good = {DATA: [("wav.scp", "speech", "sound")], "train_shape_file": []}
    inputs.check_stock_types(options(**good, scheduler_conf={"mode": "min"}))
