"""Offline pseudo-labels: those of a training, as files, whatever happens."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.tasks.asr import ASRTask

from espnet_softpl import filters
from espnet_softpl.bin import export, label
from espnet_softpl.commands import label as commands_label
from espnet_softpl.commands.experiment import open_experiment
from espnet_softpl.commands.label_files import PROGRESS, Progress
from espnet_softpl.core.errors import UserError
from espnet_softpl.data.tables import read_scp
from espnet_softpl.teacher import Teacher
from espnet_softpl.teacher.generator import PseudoLabelGenerator
from espnet_softpl.training.model import SoftPLModel
from espnet_softpl.training.task import SoftPLTask
from tests.support.espnet_runs import (
    PL,
    RATE,
    Data,
    config,
    load,
    make_data,
    same_tensors,
    train,
)

read_text = functools.partial(read_scp, empty=True)
SEED = dict(num_iters_per_epoch=80, optim_conf=dict(lr=0.01), max_epoch=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def seed_model(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock experiment that says something about most audio."""
    out = tmp_path_factory.mktemp("seed") / "exp"
    return train(ASRTask, config(**data.options(unlabeled=False), **SEED), out)


def run(exp: Path, scp: str | Path, out: Path, *more: object) -> dict:
    """Label in this process; return the summary."""
    words = [
        "--asr_exp",
        exp,
        "--wav_scp",
        scp,
        "--out",
        out,
        "--num_workers",
        0,
        *more,
    ]
    label.main([str(word) for word in words])
    return yaml.safe_load((out / "label.yaml").read_text())


def files_of(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(out.iterdir())}


def test_what_is_written(data, seed_model, tmp_path) -> None:
    scp = data.path("unlabeled", "wav.scp")
    out = tmp_path / "labels"
    wanted = ["tokens", "confidence"]
    conf = ["--pl_filter_conf", "confidence.threshold=0.6"]
    found = run(seed_model, scp, out, "--pl_filter", *wanted, *conf)
    names = ["confidence", "dropped", "label.yaml", "text", "wav.scp"]
    assert [path.name for path in sorted(out.iterdir())] == names
    entries, kept = read_scp(scp), read_text(out / "text")
    dropped, sure = read_scp(out / "dropped"), read_scp(out / "confidence")
    assert kept and dropped and kept.keys() | dropped.keys() == entries.keys()
    assert not kept.keys() & dropped.keys() and set(dropped.values()) <= set(wanted)
    assert read_scp(out / "wav.scp") == {key: entries[key] for key in kept}
    assert list(kept) == [key for key in entries if key in kept]  # In order.
    assert sure.keys() == entries.keys()
    for key, value in sure.items():
        assert 0.0 < float(value) <= 1.0
        assert (dropped.get(key) == "confidence") <= (float(value) < 0.6)
        assert key not in kept or float(value) >= 0.6
    assert found["utterances"] == 20 and found["kept"] == len(kept)
    assert sum(found["dropped"].values()) == len(dropped)
    seconds = {key: soundfile.info(file).duration for key, file in entries.items()}
    assert found["hours"] == round(sum(seconds.values()) / 3600, 4)
    assert found["kept_hours"] == round(sum(seconds[k] for k in kept) / 3600, 4)


class Recorder(PseudoLabelGenerator):
    """The generator of a training that remembers what it made."""

    made: list = []

    def run(self, student, speech, speech_lengths, dropout=False):
        outputs = super().run(student, speech, speech_lengths, dropout)
        self.made.append((speech.clone(), speech_lengths.clone(), outputs.label))
        return outputs


def test_they_are_the_labels_of_a_training(
    data, seed_model, tmp_path, monkeypatch
) -> None:
    """Bit for bit on the same mini-batch; the files have the same transcripts."""
    monkeypatch.setattr("espnet_softpl.training.build.PseudoLabelGenerator", Recorder)
    monkeypatch.setattr(Recorder, "made", [])
    ids: list[list[str]] = []
    forward = SoftPLModel._forward_unlabeled

    def watched(self, batch, *args):
        ids.append(list(batch.utt_id))
        return forward(self, batch, *args)

    monkeypatch.setattr(SoftPLModel, "_forward_unlabeled", watched)
    options = {**PL, "pl_teacher": "frozen", "pl_teacher_conf": {}}
    exp = train(
        SoftPLTask,
        config(**data.options(), **options, max_epoch=2, num_iters_per_epoch=10),
        tmp_path / "pl",
        "--init_param",
        str(seed_model / "valid.cer_ctc.ave.pth"),
    )
    assert len(ids) == len(Recorder.made) == 10
    out = tmp_path / "labels"
    scp = data.path("unlabeled", "wav.scp")
    run(exp, scp, out, "--which", "teacher", "--pl_filter")
    texts = read_text(out / "text")
    with labeler_of(exp, "teacher") as labeler:
        for keys, (speech, lengths, made) in zip(ids, Recorder.made):
            again = PseudoLabelGenerator(Teacher())(labeler.model, speech, lengths)
            assert torch.equal(again.log_probs, made.log_probs)
            assert torch.equal(again.tokens, made.tokens)
            rows = zip(keys, made.tokens.tolist(), made.token_lengths.tolist())
            for key, tokens, count in rows:
                said = labeler.to_text(tokens[:count])
                assert texts[key] == " ".join(said.split())
    assert len({key for keys in ids for key in keys}) == 20


@contextlib.contextmanager
def labeler_of(exp: Path, which: str) -> Iterator[commands_label.Labeler]:
    """Build the labeler of an experiment."""
    with open_experiment(exp) as experiment:
        weights = experiment.weights(which)
        trusted = [("tokens", filters.build("tokens"))]
        yield commands_label.build_labeler(experiment, weights, trusted)


def test_an_archive_labels_as_its_experiment(data, seed_model, tmp_path) -> None:
    scp = data.path("unlabeled", "wav.scp")
    archive = tmp_path / "model.zip"
    export.main(["--asr_exp", str(seed_model), "--out", str(archive)])
    for exp, out in ((seed_model, "one"), (archive, "two")):
        run(exp, scp, tmp_path / out)
    one, two = (files_of(tmp_path / out) for out in ("one", "two"))
    assert str(archive) in two.pop("label.yaml") and one.pop("label.yaml")
    assert one == two


@pytest.mark.parametrize("after, torn", [(0, True), (1, False), (3, True)])
def test_a_killed_run_goes_on(data, seed_model, tmp_path, monkeypatch, after, torn):
    """With filters that draw; the files are those of a run that was not killed."""
    scp = data.path("unlabeled", "wav.scp")
    args = ["--batch_bins", 50000, "--pl_filter", "tokens", "dropout_agreement"]
    args += ["--pl_filter_conf", "dropout_agreement.samples=1"]
    exp = tmp_path / "exp"
    shutil.copytree(seed_model, exp, symlinks=True)
    conf = yaml.safe_load((exp / "config.yaml").read_text())
    conf["encoder_conf"]["dropout_rate"] = 0.3
    (exp / "config.yaml").write_text(yaml.safe_dump(conf))
    run(exp, scp, tmp_path / "whole", *args)
    add = Progress.add

    def killed(self, number, records):
        if len(self.done) == after:
            raise KeyboardInterrupt
        add(self, number, records)

    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            run(exp, scp, out, *args)
    assert [path.name for path in out.iterdir()] == [PROGRESS]
    assert len((out / PROGRESS).read_text().splitlines()) == 1 + after
    if torn:
        with open(out / PROGRESS, "a") as file:
            file.write('[3, [{"id": "unlab')
    labeled = []
    call = commands_label.Labeler.__call__

    def counted(self, batch):
        labeled.append(1)
        return call(self, batch)

    monkeypatch.setattr(commands_label.Labeler, "__call__", counted)
    run(exp, scp, out, *args)
    assert files_of(out) == files_of(tmp_path / "whole")
    total = len(labeled) + after
    run(exp, scp, out, *args)  # Nothing is left to do.
    assert len(labeled) + after == total > after


def test_labels_of_other_settings_are_not_mixed(
    data, seed_model, tmp_path, capsys
) -> None:
    scp, out = data.path("unlabeled", "wav.scp"), tmp_path / "labels"
    run(seed_model, scp, out)
    before = files_of(out)
    best = (seed_model / "valid.cer_ctc.ave.pth").resolve().name
    other_epoch = {"1epoch.pth": "2epoch.pth", "2epoch.pth": "1epoch.pth"}[best]
    for more, message in (
        (["--pl_filter"], r"pl_filter \['tokens'\], this run has \[\]"),
        (["--student", other_epoch], "sha256_of_model"),
        (["--batch_bins", 1000], "batch_bins 4000000, this run has 1000"),
    ):
        check_refusal(seed_model, scp, out, more, message, capsys)
    other = data.path("dev", "wav.scp")
    check_refusal(seed_model, other, out, [], "sha256_of_wav_scp", capsys)
    assert files_of(out) == before
    (out / "label.yaml").unlink()
    (out / PROGRESS).write_text(json.dumps({"seed": 1}) + "\n")
    check_refusal(seed_model, scp, out, [], "name another --out", capsys)


def check_refusal(exp, scp, out, more, message, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        run(exp, scp, out, *more)
    assert end.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error), error


def write_audio(root: Path, *lengths: int, rate: int = RATE) -> Path:
    """Write noise, and a wav.scp of it."""
    rng = np.random.default_rng(0)
    lines = []
    for index, length in enumerate(lengths):
        file = root / f"{index}.wav"
        soundfile.write(file, 0.1 * rng.standard_normal(length), rate)
        lines.append(f"utt{index} {file}\n")
    scp = root / "wav.scp"
    scp.write_text("".join(lines))
    return scp


def test_bad_audio_is_counted(seed_model, tmp_path, capsys) -> None:
    """Missing, torn, empty, too short; each alone, and in the way of no other."""
    scp = write_audio(tmp_path, 8000, 8000, 8000, 0, 100, 9000)
    (tmp_path / "1.wav").unlink()
    whole = (tmp_path / "2.wav").read_bytes()
    (tmp_path / "2.wav").write_bytes(whole[:20])
    out = tmp_path / "labels"
    message = r"3 of 6 utterances \(50.0%\) cannot be read"
    check_refusal(seed_model, scp, out, [], message, capsys)
    assert not out.exists()
    more = ["--pl_filter", "--pl_max_bad_share"]
    message = r"4 of 6 utterances \(66.7%\) cannot be used"
    check_refusal(seed_model, scp, out, [*more, 0.5], message, capsys)
    found = run(seed_model, scp, out, *more, 0.7)
    assert found["dropped"] == {"unusable": 4} and found["kept"] == 2
    bad = dict.fromkeys(["utt1", "utt2", "utt3", "utt4"], "unusable")
    assert read_scp(out / "dropped") == bad
    assert read_scp(out / "confidence").keys() == {"utt0", "utt5"}
    # What is left is labeled as if it were alone.
    alone = tmp_path / "alone.scp"
    alone.write_text("".join(scp.read_text().splitlines(True)[::5]))
    run(seed_model, alone, tmp_path / "alone", "--pl_filter")
    assert read_text(tmp_path / "alone/text") == read_text(out / "text")


def test_audio_that_goes_bad_under_way(data, seed_model, tmp_path) -> None:
    """Its header was read; its samples are gone when their turn comes."""
    scp = write_audio(tmp_path, 8000, 8000)
    found = commands_label.read_audio(str(scp), "sound", None, RATE)
    (tmp_path / "0.wav").unlink()
    with labeler_of(seed_model, "student") as labeler:
        args = (labeler, found, tmp_path / "out", {}, 10**6)
        with pytest.raises(UserError, match=r"1 of 2 .* cannot be used"):
            commands_label.label(*args, num_workers=0, max_bad_share=0.4)
        counts = commands_label.label(*args, num_workers=0, max_bad_share=0.5)
    assert counts["dropped"]["unusable"] == 1


def test_other_kinds_of_data(seed_model, tmp_path, capsys) -> None:
    scp = write_audio(tmp_path, 8000, 9000)
    more = ["--data_type", "npy", "--pl_filter"]
    lines = []
    for key, file in read_scp(scp).items():
        np.save(
            Path(file).with_suffix(".npy"), soundfile.read(file, dtype="float32")[0]
        )
        lines.append(f"{key} {Path(file).with_suffix('.npy')}\n")
    arrays = tmp_path / "npy.scp"
    arrays.write_text("".join(lines))
    out = tmp_path / "out"
    message = "--shape_file must be given for data of type 'npy'"
    check_refusal(seed_model, arrays, out, more, message, capsys)
    shapes = tmp_path / "shape"
    shapes.write_text("utt0 8000\nutt1 9000\n")
    run(seed_model, arrays, out, *more, "--shape_file", shapes)
    run(seed_model, scp, tmp_path / "sound", "--pl_filter")
    assert read_text(out / "text") == read_text(tmp_path / "sound/text")


@pytest.mark.parametrize(
    "more, message",
    [
        (["--pl_filter", "token"], "unknown filter 'token'. Did you mean 'tokens'"),
        (
            ["--pl_filter", "rate", "--pl_filter_conf", "min_ratio=0.5"],
            "pl_filter: rate as it is set learns from the labeled",
        ),
        (
            ["--pl_filter", "confidence", "--pl_filter_conf", "max_error=0.1"],
            "pl_filter: confidence as it is set learns from the labeled",
        ),
        (["--pl_filter", "confidence"], "exactly one of threshold and max_error"),
        (["--which", "teacher"], "trained without pseudo-labels"),
        (["--batch_bins", 0], "0 is not at least 1"),
        (["--num_workers", -1], "--num_workers must be at least 0"),
        (["--pl_max_bad_share", 2], r"2 is not in \[0, 1\]"),
        (["--ngpu", 2], "invalid choice: 2"),
        (["--wav_scp", "gone.scp"], "gone.scp does not exist"),
        (["--asr_exp", "gone"], "gone/config.yaml does not exist"),
    ],
)
def test_what_cannot_work_is_refused(
    data, seed_model, tmp_path, more, message, capsys
) -> None:
    scp, out = data.path("unlabeled", "wav.scp"), tmp_path / "out"
    check_refusal(seed_model, scp, out, more, message, capsys)
    assert not out.exists()


def test_a_gpu_that_is_not_there(data, seed_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    scp = data.path("unlabeled", "wav.scp")
    message = "torch finds no GPU"
    check_refusal(seed_model, scp, tmp_path / "out", ["--ngpu", 1], message, capsys)


def test_another_sample_rate_is_refused(seed_model, tmp_path, capsys) -> None:
    scp = write_audio(tmp_path, 8000, rate=8000)
    message = "0.wav has 8000 Hz, the model wants 16000 Hz"
    check_refusal(seed_model, scp, tmp_path / "out", [], message, capsys)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_conf": {"ctc_weight": 0.0}}, "labels come from the CTC head"),
        ({"model": "pit_espnet"}, "labels come from the CTC head"),
        ({"token_type": "phn"}, "transcripts need char, bpe or word, got 'phn'"),
        ({"encoder_conf": {"num_blocks": 1}}, "do not fit the model"),
    ],
)
def test_models_that_cannot_label(
    data, seed_model, tmp_path, changes, message, capsys
) -> None:
    exp = tmp_path / "exp"
    shutil.copytree(seed_model, exp, symlinks=True)
    conf = yaml.safe_load((exp / "config.yaml").read_text())
    (exp / "config.yaml").write_text(yaml.safe_dump({**conf, **changes}))
    scp = data.path("unlabeled", "wav.scp")
    check_refusal(exp, scp, tmp_path / "out", [], message, capsys)


def test_batches_are_of_like_length_and_bounded() -> None:
    rng = np.random.default_rng(1)
    lengths = {f"u{i:02d}": int(n) for i, n in enumerate(rng.integers(1, 100, 50))}
    lengths["long"] = 1000
    batches = commands_label.batches_of(lengths, 300)
    assert sorted(key for batch in batches for key in batch) == sorted(lengths)
    assert batches[0] == ["long"]
    for batch in batches[1:]:
        assert len(batch) * max(lengths[key] for key in batch) <= 300
    flat = [lengths[key] for batch in batches for key in batch]
    assert flat == sorted(flat, reverse=True)
    shuffled = dict(sorted(lengths.items(), key=lambda item: item[0][::-1]))
    assert commands_label.batches_of(shuffled, 300) == batches


def test_a_posterior_that_is_no_number_labels_nothing(data, seed_model) -> None:
    with labeler_of(seed_model, "student") as labeler:
        assert same_tensors(
            labeler.model.state_dict(), load(seed_model / "valid.cer_ctc.ave.pth")
        )
        labeler.model.ctc.ctc_lo.bias.data[0] = float("nan")
        speech = torch.randn(2, 8000)
        batch = dict(
            speech=speech,
            speech_lengths=torch.tensor([8000, 7000]),
            usable=torch.ones(2, 1),
        )
        for record in labeler(batch):
            assert record["reason"] == "unusable" and record["confidence"] == 0.0
