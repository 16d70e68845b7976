"""From a stock seed to a running pseudo-labeling, by the printed command."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import pytest
import sentencepiece
import soundfile
import torch
import yaml
from espnet2.bin import pack
from espnet2.bin.asr_inference import Speech2Text
from espnet2.tasks.asr import ASRTask

from espnet_softpl import criteria, teacher
from espnet_softpl.bin import add_pl
from espnet_softpl.bin import train as train_bin
from espnet_softpl.commands import experiment
from espnet_softpl.commands import packed as commands_packed
from espnet_softpl.commands.add_pl import dry_run
from espnet_softpl.training.options import prefer_command_line
from espnet_softpl.training.task import SoftPLTask
from tests import ROOT
from tests.support.espnet_runs import HYBRID, RATE, Data, config, make_data, train

TINY = dict(num_iters_per_epoch=4, max_epoch=1)
DATA = Data(Path("data"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A recipe directory as asr.sh has it, with relative paths: data and a seed."""
    root = tmp_path_factory.mktemp("re cipe")
    before = os.getcwd()
    os.chdir(root)
    try:
        make_data(DATA.root)
        options = config(**DATA.options(unlabeled=False), **TINY)
        train(ASRTask, options, Path("exp/asr_seed"))
    finally:
        os.chdir(before)
    return root


@pytest.fixture
def here(recipe, monkeypatch) -> Path:
    """The recipe directory, as the current one."""
    monkeypatch.chdir(recipe)
    return recipe


def options(out: Path, *more: Any, exp: str | Path = "exp/asr_seed") -> list[str]:
    """Return the command line of add_pl; later options replace earlier ones."""
    wanted = ["--asr_exp", exp, "--unlabeled", "data/unlabeled"]
    wanted += ["--out", out / "conf dir/train_pl.yaml", "--exp_dir", out / "asr pl"]
    return [str(word) for word in (*wanted, *more)]


def call(capsys, *words: Any) -> tuple[dict[str, Any], list[str], str]:
    """Run add_pl; return the configuration, the command's words and all output."""
    command = [str(word) for word in words]
    add_pl.main(command)
    output = capsys.readouterr().out
    path = Path(command[command.index("--out") + 1])
    printed = shlex.split(output.splitlines()[-1])
    assert printed[:3] == ["python", "-m", "espnet_softpl.bin.train"]
    assert not list(path.parent.glob(".*"))
    return yaml.safe_load(path.read_text(encoding="utf-8")), printed[3:], output


def refusal(capsys, *words: Any) -> str:
    """Run add_pl on what it must refuse; return the message."""
    with pytest.raises(SystemExit) as caught:
        add_pl.main([str(word) for word in words])
    assert caught.value.code == 2
    return capsys.readouterr().err


def run_printed(words: list[str]) -> Path:
    """Run the printed training in this process; return the experiment."""
    train_bin.main(words)
    return Path(words[words.index("--output_dir") + 1])


def recognize(exp: Path, model: str = "valid.cer_ctc.ave.pth") -> str:
    """Recognize one utterance by stock ESPnet."""
    assert yaml.safe_load((exp / "config.yaml").read_text())["model"] == "espnet"
    decode = Speech2Text(
        str(exp / "config.yaml"), str(exp / model), beam_size=1, ctc_weight=1.0
    )
    audio, _ = soundfile.read("data/dev/dev-000.wav")
    return decode(audio)[0][0]


def changed_seed(tmp_path: Path, **changes: Any) -> Path:
    """Copy the seed, with another configuration; None removes a key."""
    exp = tmp_path / "changed"
    shutil.copytree("exp/asr_seed", exp, symlinks=True)
    config_file = exp / "config.yaml"
    values = {**yaml.safe_load(config_file.read_text()), **changes}
    config_file.write_text(yaml.safe_dump(values))
    return exp


def write_audio(directory: Path, **kinds: np.ndarray | tuple) -> Path:
    """Write audio files and their wav.scp; a tuple holds audio and its rate."""
    directory.mkdir(parents=True)
    lines = []
    for name, audio in kinds.items():
        audio, rate = audio if isinstance(audio, tuple) else (audio, RATE)
        soundfile.write(directory / f"{name}.wav", audio, rate)
        lines.append(f"{name} {directory}/{name}.wav\n")
    (directory / "wav.scp").write_text("".join(lines))
    return directory


NOISE = 0.1 * np.random.default_rng(0).standard_normal(RATE)


# From an experiment.


def test_the_printed_command_trains_from_the_seed(here, tmp_path, capsys) -> None:
    values, command, output = call(capsys, *options(tmp_path))
    assert "--resume true" in output and f"'{tmp_path}/asr pl'" in output
    assert values["init_param"] == ["exp/asr_seed/valid.cer_ctc.ave.pth"]
    assert values["optim_conf"]["lr"] == 0.0015
    assert "#   optim_conf.lr: 0.003 -> 0.0015:" in (
        tmp_path / "conf dir/train_pl.yaml"
    ).read_text(encoding="utf-8")
    exp = run_printed(command)
    assert isinstance(recognize(exp), str)
    assert isinstance(recognize(exp, "teacher.pth"), str)
    log = yaml.safe_load((exp / "config.yaml").read_text())
    assert log["pl_criterion"] == "hard_ctc" and log["num_iters_per_epoch"] == 4


@pytest.mark.slow
def test_the_printed_line_is_for_a_shell(here, tmp_path, capsys) -> None:
    """With spaces in its paths, and no file edited."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    add_pl.main(options(tmp_path))
    line = capsys.readouterr().out.splitlines()[-1]
    subprocess.run(["bash", "-c", line], env=environment, check=True)
    assert (tmp_path / "asr pl/valid.cer_ctc.ave.pth").exists()


def test_all_else_is_as_the_seed_has_it(here, tmp_path, capsys) -> None:
    _, command, _ = call(capsys, *options(tmp_path))
    ours = vars(SoftPLTask.get_parser().parse_args(command))
    theirs = yaml.safe_load(Path("exp/asr_seed/config.yaml").read_text())
    different = {
        key
        for key, value in theirs.items()
        if key in ours and pl_plain(ours[key]) != pl_plain(value)
    }
    expected = {"config", "output_dir", "optim_conf", "resume", "init_param", "ngpu"}
    assert different <= expected | {"required", "version", "dist_backend"}


def pl_plain(value: Any) -> Any:
    return yaml.safe_load(yaml.safe_dump(value))


def test_a_run_from_elsewhere_is_told_where_to_run(
    recipe, tmp_path, capsys, monkeypatch
) -> None:
    (tmp_path / "unlabeled").mkdir()
    audio = write_audio(tmp_path / "unlabeled/a", a=NOISE)
    monkeypatch.chdir(tmp_path)
    message = refusal(
        capsys, *options(tmp_path, exp=recipe / "exp/asr_seed"), "--unlabeled", audio
    )
    assert "train_data_path_and_name_and_type: data/labeled/wav.scp" in message
    assert f"relative to {recipe}: run this command, and the training, there" in message


def test_hybrids_keep_their_criterion_beside_ours(here, tmp_path, capsys) -> None:
    best = [["valid", "acc", "max"]]
    exp = train(
        ASRTask,
        config(
            **DATA.options(unlabeled=False),
            **TINY,
            **HYBRID,
            best_model_criterion=best,
            patience=3,
        ),
        tmp_path / "hybrid",
    )
    values, command, output = call(capsys, *options(tmp_path, exp=exp))
    assert values["init_param"] == [str(exp / "valid.acc.ave.pth")]
    assert values["best_model_criterion"] == [["valid", "cer_ctc", "min"], *best]
    assert "patience: 3 -> none" in output and "patience" not in values
    assert isinstance(recognize(run_printed(command), "valid.acc.ave.pth"), str)


@pytest.fixture(scope="module")
def bpe_seed(recipe) -> Path:
    """A seed with BPE and global statistics, which are in files of their own."""
    before = os.getcwd()
    os.chdir(recipe)
    try:
        Path("bpe").mkdir()
        lines = [line.split(maxsplit=1)[1] for line in open("data/labeled/text")]
        Path("bpe/text").write_text("".join(lines))
        sentencepiece.SentencePieceTrainer.train(
            input="bpe/text", model_prefix="bpe/bpe", vocab_size=12, minloglevel=2
        )
        pieces = [line.split("\t")[0] for line in open("bpe/bpe.vocab")][3:]
        tokens = ["<blank>", "<unk>", *pieces, "<sos/eos>"]
        Path("bpe/tokens.txt").write_text("\n".join(tokens) + "\n")
        changes = dict(
            DATA.options(unlabeled=False),
            **TINY,
            token_type="bpe",
            bpemodel="bpe/bpe.model",
            token_list="bpe/tokens.txt",
        )
        stats = config(**changes)
        train(ASRTask, stats, Path("exp/stats"), "--collect_stats", "true")
        changes.update(
            normalize="global_mvn",
            normalize_conf=dict(stats_file="exp/stats/train/feats_stats.npz"),
            train_shape_file=["exp/stats/train/speech_shape"],
            valid_shape_file=["exp/stats/valid/speech_shape"],
        )
        train(ASRTask, config(**changes), Path("exp/asr_bpe"))
    finally:
        os.chdir(before)
    return Path("exp/asr_bpe")


def test_a_seed_with_bpe_and_statistics(here, bpe_seed, tmp_path, capsys) -> None:
    values, command, _ = call(capsys, *options(tmp_path, exp=bpe_seed))
    assert values["bpemodel"] == "bpe/bpe.model" and values["token_type"] == "bpe"
    assert values["normalize_conf"]["stats_file"] == "exp/stats/train/feats_stats.npz"
    assert isinstance(recognize(run_printed(command)), str)


def test_data_given_anew_are_measured_as_espnet_does(
    here, bpe_seed, tmp_path, capsys
) -> None:
    values, command, output = call(
        capsys,
        *options(tmp_path, exp=bpe_seed),
        *("--labeled", "data/labeled", "--valid", "data/dev"),
    )
    assert "train_shape_file: given anew" in output
    for part, theirs in (("train", "train"), ("valid", "valid")):
        for file, other in zip(
            values[f"{part}_shape_file"], ("speech_shape", "text_shape"), strict=True
        ):
            lines = open(file).read().splitlines()
            expected = open(f"exp/stats/{theirs}/{other}").read().splitlines()
            if other == "text_shape":  # asr.sh adds the size of the vocabulary.
                size = len(open("bpe/tokens.txt").read().split())
                expected = [f"{line},{size}" for line in expected]
            assert sorted(lines) == sorted(expected)
    assert str(tmp_path / "asr pl_data/train/text_shape") in values["train_shape_file"]
    run_printed(command)


def test_moved_files_are_found_again(here, bpe_seed, tmp_path, capsys) -> None:
    shutil.move("bpe", "moved bpe")
    try:
        message = refusal(capsys, *options(tmp_path, exp=bpe_seed))
        assert "bpemodel: bpe/bpe.model   (give --moved bpe/bpe.model NEW)" in message
        moved = ("--moved", "bpe/", "moved bpe")
        values, _, _ = call(capsys, *options(tmp_path, *moved, exp=bpe_seed))
        assert values["bpemodel"] == "moved bpe/bpe.model"
    finally:
        shutil.move("moved bpe", "bpe")


def test_a_configuration_for_asr_sh(here, tmp_path, capsys) -> None:
    """asr.sh names the data on the command line, too; they replace the file's."""
    values, command, _ = call(capsys, *options(tmp_path))
    for part in ("train", "valid"):
        for spec in values[f"{part}_data_path_and_name_and_type"]:
            command += [f"--{part}_data_path_and_name_and_type", ",".join(spec)]
        for path in values[f"{part}_shape_file"]:
            command += [f"--{part}_shape_file", path]
    command += ["--fold_length", "80000", "--fold_length", "150", "--token_list"]
    command += ["data/tokens.txt"]
    args = SoftPLTask.get_parser().parse_args(command)
    assert len(args.train_data_path_and_name_and_type) == 4
    prefer_command_line(args)
    assert len(args.train_data_path_and_name_and_type) == 2
    assert args.fold_length == [80000, 150]
    once = pl_plain(vars(args))
    prefer_command_line(args)
    assert pl_plain(vars(args)) == once
    run_printed(command)


def test_a_file_alone_keeps_its_lists(here, tmp_path, capsys) -> None:
    values, command, _ = call(capsys, *options(tmp_path))
    args = SoftPLTask.get_parser().parse_args(command)
    prefer_command_line(args)
    assert args.train_shape_file == values["train_shape_file"]
    args = SoftPLTask.get_parser().parse_args(["--train_shape_file", "a"])
    prefer_command_line(args)
    assert args.train_shape_file == ["a"]


def test_features_from_kaldi_archives(here, tmp_path, capsys) -> None:
    directory = tmp_path / "feats"
    rng = np.random.default_rng(1)
    changes: dict[str, Any] = {}
    for part, ours in (("train", "labeled"), ("valid", "dev"), ("u", "unlabeled")):
        (directory / ours).mkdir(parents=True)
        ids = [line.split()[0] for line in open(f"data/{ours}/wav.scp")]
        feats = {uid: rng.standard_normal((60, 20), dtype=np.float32) for uid in ids}
        base = directory / ours / "feats"
        kaldiio.save_ark(f"{base}.ark", feats, scp=f"{base}.scp")
        shapes = "".join(f"{uid} 60,20\n" for uid in ids)
        (directory / ours / "feats_shape").write_text(shapes)
        changes[f"{part}_data_path_and_name_and_type"] = [
            [f"{base}.scp", "speech", "kaldi_ark"],
            [f"data/{ours}/text", "text", "text"],
        ]
        changes[f"{part}_shape_file"] = [f"{directory / ours}/feats_shape"]
    changes = {k: v for k, v in changes.items() if not k.startswith("u_")}
    exp = train(
        ASRTask,
        config(
            **changes,
            **TINY,
            token_list="data/tokens.txt",
            input_size=20,
            frontend=None,
        ),
        tmp_path / "seed",
    )
    wanted = options(tmp_path, "--unlabeled", directory / "unlabeled", exp=exp)
    values, command, _ = call(capsys, *wanted)
    assert values["unlabeled_shape_file"] == [f"{directory}/unlabeled/feats_shape"]
    run_printed(command)
    (directory / "unlabeled/feats_shape").unlink()
    wanted[wanted.index("--out") + 1] = str(tmp_path / "other.yaml")
    wanted += ["--exp_dir", str(tmp_path / "other")]
    assert "there must be a feats_shape beside it" in refusal(capsys, *wanted)


def test_audio_from_kaldi_archives(here, tmp_path, capsys) -> None:
    for part in ("labeled", "dev", "unlabeled"):
        directory = tmp_path / part
        directory.mkdir()
        if part != "unlabeled":
            shutil.copy(f"data/{part}/text", directory)
        base, lengths = directory / "wav", ""
        target = f"ark,scp:{base}.ark,{base}.scp"
        with kaldiio.WriteHelper(target, write_function="soundfile") as writer:
            for line in open(f"data/{part}/wav.scp"):
                uid, path = line.split()
                audio, rate = soundfile.read(path, dtype="int16")
                writer[uid] = audio, rate
                lengths += f"{uid} {len(audio)}\n"
        if part == "dev":  # Elsewhere they are read from the archives.
            (directory / "utt2num_samples").write_text(lengths)
    wanted = options(tmp_path, "--unlabeled", tmp_path / "unlabeled")
    anew = ("--labeled", tmp_path / "labeled", "--valid", tmp_path / "dev")
    values, command, output = call(capsys, *wanted, *anew)
    kinds = [spec[2] for spec in values["train_data_path_and_name_and_type"]]
    assert "20 utterances" in output and kinds == ["kaldi_ark", "text"]
    run_printed(command)


@pytest.mark.parametrize(
    "content, message",
    [
        ((RATE, np.zeros(RATE, np.int16)), "is a WAV file within an archive"),
        (np.zeros((60, 20), np.float32), "holds features, and the seed takes audio"),
        (None, "cannot be read"),
    ],
    ids=["wav", "features", "gone"],
)
def test_archives_that_cannot_be_used(here, tmp_path, capsys, content, message) -> None:
    base = tmp_path / "wav"
    with kaldiio.WriteHelper(f"ark,scp:{base}.ark,{base}.scp") as writer:
        writer["a"] = np.zeros((1, 1), np.float32) if content is None else content
    if content is None:
        Path(f"{base}.ark").unlink()
    (tmp_path / "utt2num_samples").write_text("a 16000\n")
    assert message in refusal(capsys, *options(tmp_path, "--unlabeled", f"{base}.scp"))


def test_several_unlabeled_sets_are_merged(here, tmp_path, capsys) -> None:
    more = write_audio(tmp_path / "more", a=NOISE, b=NOISE)
    both = ("--unlabeled", "data/unlabeled/wav.scp", more)
    values, command, output = call(capsys, *options(tmp_path, *both))
    assert "22 utterances" in output
    ((merged, _, kind),) = values["unlabeled_data_path_and_name_and_type"]
    assert merged == str(tmp_path / "asr pl_data/unlabeled/wav.scp") and kind == "sound"
    assert len(open(merged).readlines()) == 22
    again = ("--unlabeled", more, more, "--overwrite")
    assert "Ids must differ" in refusal(capsys, *options(tmp_path, *again))


@pytest.mark.parametrize("name", teacher.available())
def test_every_teacher_has_its_settings(here, tmp_path, capsys, name) -> None:
    values, _, _ = call(capsys, *options(tmp_path, "--teacher", name))
    assert values["pl_teacher"] == name
    norm = values.get("pl_teacher_conf", {}).get("buffers")
    assert norm == ("copy" if name == "ema" else None)


def test_frames_must_stay_in_their_places(here, tmp_path, capsys) -> None:
    warped = dict(freq_mask_width_range=[0, 4], time_mask_width_ratio_range=[0.0, 0.1])
    exp = changed_seed(tmp_path, specaug_conf=warped)
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
    exp = changed_seed(tmp_path, multiprocessing_distributed=True, dist_world_size=8)
    wishes = ("--lr", "0.01", "--max_epoch", "7", "--unlabeled_steps", "5", "--ngpu")
    values, command, _ = call(capsys, *options(tmp_path, *wishes, "2", exp=exp))
    assert (values["optim_conf"]["lr"], values["max_epoch"]) == (0.01, 7)
    assert values["pl_schedule_conf"]["unlabeled_steps"] == 5
    assert " --ngpu 2 --multiprocessing_distributed true " in f"{shlex.join(command)} "


def test_keys_of_another_espnet_are_named(here, tmp_path, capsys) -> None:
    exp = changed_seed(
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


def test_long_audio_is_noted(here, tmp_path, capsys) -> None:
    long = write_audio(tmp_path / "long", long=np.tile(NOISE, 5))
    _, _, output = call(capsys, *options(tmp_path, "--unlabeled", long))
    assert "the longest 5.0 s" in output and "Cut unlabeled audio" in output


# What is refused.


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(model_conf=dict(ctc_weight=0.0)), "so it has no CTC head"),
        (dict(model="maskctc"), "the seed's model is 'maskctc'"),
        (dict(token_list=["a", "<blank>"]), "the first token must be '<blank>'"),
        (dict(token_list=None), "holds no token_list"),
        (dict(use_adapter=True), "adapters are not supported"),
        (dict(multi_task_dataset=True), "multi_task_dataset"),
        (dict(multiple_iterator=True), "give them whole by --labeled"),
        (dict(iterator_type="chunk"), "needs 'sequence'"),
        (dict(frontend="s3prl"), "the seed's model cannot be built here"),
        (dict(frontend_conf=dict(fs="8k")), "has 16000 Hz, and the seed's front end "),
        (dict(encoder_conf=dict(ctc_trim=True)), "encoder_conf.ctc_trim"),
        (
            dict(normalize="global_mvn", normalize_conf=dict(stats_file="gone.npz")),
            "normalize_conf.stats_file: gone.npz   (give --moved gone.npz NEW)",
        ),
        (
            dict(valid_shape_file=["gone/speech_shape"]),
            "valid_shape_file: gone/speech_shape   (give --valid DIR)",
        ),
        (
            dict(decoder="rnn", model_conf=dict(ctc_weight=0.5)),
            "are not those of the configured model",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "_".join(value),
)
def test_a_seed_that_cannot_be_used(here, tmp_path, capsys, changes, message) -> None:
    exp = changed_seed(tmp_path, **changes)
    before = sorted(tmp_path.iterdir())
    assert message in refusal(capsys, *options(tmp_path, exp=exp))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "audio, message",
    [
        (dict(a=(NOISE, 8000)), "a.wav has 8000 Hz, and the seed's front end takes"),
        (dict(a=np.stack([NOISE, NOISE], 1)), "has 2 channels"),
        (dict(a=NOISE[:0]), "cannot be used"),
        ({"dev-000": NOISE}, "are in the validation data too: dev-000"),
        ({}, "is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "audio",
)
def test_audio_that_cannot_be_used(here, tmp_path, capsys, audio, message) -> None:
    directory = write_audio(tmp_path / "audio", **audio)
    wanted = options(tmp_path, "--unlabeled", directory)
    assert message in refusal(capsys, *wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audio"]


def test_data_directories_that_espnet_cannot_read(here, tmp_path, capsys) -> None:
    directory = write_audio(tmp_path / "audio", a=NOISE)
    wanted = options(tmp_path, "--unlabeled", directory)
    (directory / "segments").write_text("a-1 a 0.0 0.5\n")
    assert "has a file 'segments'" in refusal(capsys, *wanted)
    (directory / "segments").unlink()
    (directory / "wav.scp").write_text("a sox a.sph -t wav - |\n")
    assert "1 entries are commands" in refusal(capsys, *wanted)
    (directory / "wav.scp").write_text("a data/wav.ark:17\n")
    assert "cannot be read" in refusal(capsys, *wanted)
    (directory / "utt2num_samples").write_text("b 16000\n")
    assert "lacks a of" in refusal(capsys, *wanted)
    both = options(tmp_path, "--unlabeled", "data/unlabeled", directory)
    (directory / "utt2num_samples").write_text("a 16000\n")
    assert "give one sort" in refusal(capsys, *both)


def test_labeled_data_that_are_not_whole(here, tmp_path, capsys) -> None:
    directory = write_audio(tmp_path / "audio", a=NOISE, b=NOISE)
    wanted = options(tmp_path, "--labeled", directory)
    assert "text does not exist" in refusal(capsys, *wanted)
    (directory / "text").write_text("a A B\nc A\n")
    assert "1 utterances have audio and are not in text: b" in refusal(capsys, *wanted)
    (directory / "text").write_text("a A B\nb A\n")
    (directory / "b.wav").unlink()
    assert "Labeled audio must be whole" in refusal(capsys, *wanted)
    missing = options(tmp_path, "--valid", tmp_path / "nowhere")
    assert "no such directory" in refusal(capsys, *missing)


def test_labeled_audio_that_is_gone(here, tmp_path, capsys) -> None:
    scp = tmp_path / "wav.scp"
    scp.write_text(Path("data/dev/wav.scp").read_text().replace("data/dev", "gone"))
    data = [[str(scp), "speech", "sound"], ["data/dev/text", "text", "text"]]
    exp = changed_seed(tmp_path, valid_data_path_and_name_and_type=data)
    message = refusal(capsys, *options(tmp_path, exp=exp))
    assert "4 of 4 files that were tried" in message and "(or give --valid)" in message


@pytest.mark.parametrize(
    "words, message",
    [
        (["--unlabeled_steps", "0"], "--unlabeled_steps must be at least 1"),
        (["--lr", "nan"], "--lr must be a number above 0"),
        (["--ngpu", "-1"], "--ngpu must be at least 0"),
        (["--criterion", "hard_ct"], "Did you mean 'hard_ctc'?"),
        (["--init_param", "nowhere.pth"], "nowhere.pth does not exist"),
        (
            ["--init_param", "exp/asr_seed/checkpoint.pth"],
            "ESPnet's state of a training",
        ),
        (["--init_param", "data/tokens.txt"], "cannot be read as the parameters"),
        (["--out", "data/tokens.txt"], "exists; give another --out"),
        (["--exp_dir", "exp/asr_seed"], "holds a training already"),
        (["--unlabeled", "nowhere"], "nowhere does not exist"),
        (["--out", "data/tokens.txt/pl.yaml"], "File exists: 'data/tokens.txt'"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_options_that_cannot_be(here, tmp_path, capsys, words, message) -> None:
    assert message in refusal(capsys, *options(tmp_path, *words))
    assert not list(tmp_path.iterdir())


def test_an_experiment_without_a_model(here, tmp_path, capsys) -> None:
    message = refusal(capsys, *options(tmp_path, exp=tmp_path / "no exp"))
    assert "config.yaml does not exist" in message
    (tmp_path / "bare").mkdir()
    shutil.copy("exp/asr_seed/config.yaml", tmp_path / "bare")
    message = refusal(capsys, *options(tmp_path, exp=tmp_path / "bare"))
    assert "holds no trained model" in message


def test_parameters_are_chosen_by_the_head_that_labels(tmp_path) -> None:
    order = ["latest.pth", "3epoch.pth", "valid.loss.best.pth", "valid.acc.ave.pth"]
    found = []
    for name in (*order, "valid.cer_ctc.ave_5best.pth", "valid.cer_ctc.ave.pth"):
        (tmp_path / name).touch()
        both = [
            experiment.find_checkpoint(tmp_path, ctc_only).name for ctc_only in (0, 1)
        ]
        found.append(both)
    assert found[0] == found[1] == ["latest.pth", "latest.pth"]
    assert found[2] == ["valid.loss.best.pth"] * 2
    assert found[3] == ["valid.acc.ave.pth", "valid.loss.best.pth"]
    assert found[5] == ["valid.cer_ctc.ave.pth"] * 2
    for path in tmp_path.glob("[lv]*.pth"):
        path.unlink()
    assert experiment.find_checkpoint(tmp_path, True).name == "3epoch.pth"


# Archives and the model zoo.


@pytest.fixture(scope="module")
def packed(recipe, bpe_seed) -> Path:
    """The seed as espnet2.bin.pack packs it."""
    before = os.getcwd()
    os.chdir(recipe)
    try:
        for name in ("seed.zip", "seed.tgz"):
            command = ["asr", "--outpath", name, "--asr_train_config"]
            command += [str(bpe_seed / "config.yaml"), "--asr_model_file"]
            command += [str(bpe_seed / "valid.cer_ctc.ave.pth"), "--option"]
            command += ["bpe/bpe.model", "--option", "exp/stats/train/feats_stats.npz"]
            pack.main(command)
    finally:
        os.chdir(before)
    return recipe


ANEW = ("--labeled", "data/labeled", "--valid", "data/dev")


def from_archive(out: Path, archive: Any, *more: Any) -> list[str]:
    """Return the command line of add_pl for an archive."""
    wanted = options(out, *ANEW, "--unpack_dir", out / "unpacked", *more)
    return ["--archive", str(archive), *wanted[2:]]


@pytest.mark.parametrize("name", ["seed.zip", "seed.tgz"])
def test_a_packed_model(packed, here, tmp_path, capsys, name) -> None:
    wanted = from_archive(tmp_path, name)
    values, command, _ = call(capsys, *wanted)
    root = tmp_path / "unpacked"
    assert values["bpemodel"] == str(root / "bpe/bpe.model")
    stats = str(root / "exp/stats/train/feats_stats.npz")
    assert values["normalize_conf"]["stats_file"] == stats
    (parameters,) = values["init_param"]
    assert Path(parameters).is_relative_to(root)
    theirs = dry_run.load_state(Path("exp/asr_bpe/valid.cer_ctc.ave.pth"))
    ours = dry_run.load_state(Path(parameters))
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    run_printed(command)
    before = (root / "bpe/bpe.model").stat().st_mtime_ns
    (tmp_path / "asr pl/checkpoint.pth").unlink()
    call(capsys, *wanted, "--overwrite")
    assert (root / "bpe/bpe.model").stat().st_mtime_ns == before
    (root / "meta.yaml").write_text("other: true\n")
    assert "exists and is not what" in refusal(capsys, *wanted, "--overwrite")


def test_a_packed_model_has_no_data(
    packed, here, tmp_path, capsys, monkeypatch
) -> None:
    shutil.copy("seed.zip", tmp_path)
    for path in ("unlabeled", "dev"):
        shutil.copytree(f"data/{path}", tmp_path / "audio" / path)
    audio = (tmp_path / "audio/unlabeled/wav.scp").absolute()
    monkeypatch.chdir(tmp_path)
    command = ["--archive", "seed.zip", "--unlabeled", audio, "--out", "pl.yaml"]
    message = refusal(capsys, *command)
    assert "A packed model comes without data: give --labeled DIR --valid" in message
    assert Path("exp/seed/meta.yaml").is_file() and not Path("pl.yaml").exists()


def test_a_model_of_the_zoo(packed, here, tmp_path, capsys, monkeypatch) -> None:
    """A stand-in for the downloader: this test has no network."""
    asked = []

    class Downloader:
        def __init__(self, cachedir=None):
            asked.append(cachedir)

        def download(self, name):
            if name == "a/unknown":
                raise OSError("no such repository")
            asked.append(name)
            # An archive, or what Hugging Face has: a directory with the same files.
            return "seed.zip" if name == "an/archive" else str(tmp_path / "unpacked")

    module = types.ModuleType("espnet_model_zoo.downloader")
    module.ModelDownloader = Downloader
    monkeypatch.setitem(sys.modules, "espnet_model_zoo", types.ModuleType("zoo"))
    monkeypatch.setitem(sys.modules, "espnet_model_zoo.downloader", module)
    wanted = from_archive(tmp_path, "", "--cache_dir", "cache")[2:]
    first, _, _ = call(capsys, "--model_tag", "an/archive", *wanted)
    second, _, _ = call(capsys, "--model_tag", "user/model", *wanted, "--overwrite")
    assert first == second
    assert asked == [Path("cache"), "an/archive", Path("cache"), "user/model"]
    message = refusal(capsys, "--model_tag", "a/unknown", *wanted, "--overwrite")
    assert "cannot be downloaded: no such repository" in message
    monkeypatch.setitem(sys.modules, "espnet_model_zoo.downloader", None)
    message = refusal(capsys, "--model_tag", "user/model", *wanted, "--overwrite")
    assert "pip install --no-deps espnet_model_zoo && pip install" in message


# The documentation.

PAGE = ROOT / "docs/add_pl.md"


def blocks(kind: str) -> list[str]:
    """Return the code blocks of the page."""
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"```{kind}\n(.*?)```", text, re.S)


def without_numbers(text: str) -> list[str]:
    return re.sub(r"[\d.]+( h\b| min\b)?", "0", text).splitlines()


def test_the_commands_of_the_page(packed, tmp_path, capsys, monkeypatch) -> None:
    """Run in a directory that has what the page's reader has."""
    for name in ("data", "bpe"):
        shutil.copytree(packed / name, tmp_path / name)
    (tmp_path / "exp").mkdir()
    conformer = tmp_path / "exp/asr_train_conformer"
    shutil.copytree(packed / "exp/asr_seed", conformer, symlinks=True)
    shutil.copy(packed / "seed.zip", tmp_path / "asr_train_conformer.zip")
    monkeypatch.chdir(tmp_path)
    Path("dump/raw").mkdir(parents=True)
    for theirs, ours in (("train", "labeled"), ("dev", "dev"), ("unlabeled",) * 2):
        Path("dump/raw", theirs).symlink_to(Path("data", ours).absolute())
    ran = 0
    for block in blocks("sh"):
        if "needs the network" in block:
            continue
        words = shlex.split(block.replace("\\\n", " "))
        assert words[:3] == ["python", "-m", "espnet_softpl.bin.add_pl"]
        if "--archive" in words:
            shutil.rmtree(conformer)
        _, command, output = call(capsys, *words[3:])
        run_printed(command)
        if not ran:
            (shown,) = blocks("text")
            assert without_numbers(output) == without_numbers(shown)
        ran += 1
    assert ran == 2


def test_the_page_names_every_change(here, tmp_path, capsys) -> None:
    warped = dict(freq_mask_width_range=[0, 4], time_mask_width_ratio_range=[0.0, 0.1])
    exp = changed_seed(
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
