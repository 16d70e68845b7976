"""Offline pseudo-labels: those of a training, as files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_softpl.bin import export, label
from espnet_softpl.commands import label as commands_label
from espnet_softpl.commands.label import PROGRESS, Progress
from espnet_softpl.core.errors import UserError
from espnet_softpl.ctc import frame_mask
from espnet_softpl.data.tables import read_scp
from espnet_softpl.teacher import Teacher
from espnet_softpl.teacher.generator import PseudoLabelGenerator
from espnet_softpl.training.model import SoftPLModel
from espnet_softpl.training.task import SoftPLTask
from tests.support.disks import fill
from tests.support.espnet_runs import PL, RATE, config, load, same_tensors, train
from tests.support.labeling import (
    check_refusal,
    label_in_process,
    labeler_of,
    read_text,
    write_audio,
)


def test_what_is_written(data, base_model, tmp_path) -> None:
    scp = data.path("unlabeled", "wav.scp")
    out = tmp_path / "labels"
    wanted = ["tokens", "confidence"]
    conf = ["--pl_filter_conf", "confidence.threshold=0.6"]
    found = label_in_process(base_model, scp, out, "--pl_filter", *wanted, *conf)
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


# In a mini-batch with a longer utterance the audio is followed by zeros, which the last
# windows of the spectrum see; at the end of the longest one they see its reflection.
# That moves log-posteriors of this model by up to 0.18. A label without a frame whose
# two best tokens lie closer together than twice that is the same in every mini-batch.
CLEAR = 0.4


def clear_texts(labeler, speech, lengths) -> list[str | None]:
    """Label a mini-batch; None for a transcript that hangs on a near tie."""
    label = PseudoLabelGenerator(Teacher())(labeler.model, speech, lengths)
    best, second = label.log_probs.topk(2, dim=-1).values.unbind(-1)  # (B, T) each
    near = (best - second < CLEAR) & frame_mask(label.lengths, best.size(1))
    rows = zip(label.tokens.tolist(), label.token_lengths.tolist(), near.any(1))
    return [
        None if tied else " ".join(labeler.to_text(tokens[:count]).split())
        for tokens, count, tied in rows
    ]


def test_they_are_the_labels_of_a_training(
    data, base_model, tmp_path, monkeypatch
) -> None:
    """Bit for bit on the same mini-batch; the files have the same transcripts."""
    heard: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    ctc_outputs = SoftPLModel.ctc_outputs

    def recorded(self, speech, speech_lengths, *more, **layers):
        outputs = ctc_outputs(self, speech, speech_lengths, *more, **layers)
        if not any(part.requires_grad for part in self.parameters()):  # The teacher.
            heard.append((speech.clone(), speech_lengths.clone(), outputs.log_probs))
        return outputs

    options = {**PL, "pl_teacher": "frozen", "pl_teacher_conf": {}}
    with monkeypatch.context() as patch:
        patch.setattr(SoftPLModel, "ctc_outputs", recorded)
        exp = train(
            SoftPLTask,
            config(**data.options(), **options, max_epoch=2, num_iters_per_epoch=10),
            tmp_path / "pl",
            "--init_param",
            str(base_model / "valid.cer_ctc.ave.pth"),
        )
    scp = data.path("unlabeled", "wav.scp")
    keys = {
        soundfile.read(file, dtype="float32")[0].tobytes(): key
        for key, file in read_scp(scp).items()
    }
    out = tmp_path / "labels"
    label_in_process(exp, scp, out, "--which", "teacher", "--pl_filter")
    texts = read_text(out / "text")
    compared: dict[str, bool] = {}
    with labeler_of(exp, "teacher") as labeler:
        for speech, lengths, log_probs in heard:
            again = labeler.model.ctc_outputs(speech, lengths)
            assert torch.equal(again.log_probs, log_probs)
            found = clear_texts(labeler, speech, lengths)
            for row, length, text in zip(speech.numpy(), lengths.tolist(), found):
                key = keys[row[:length].tobytes()]
                compared[key] = text is not None
                assert text in (None, texts[key])
    assert len(heard) == 10 and compared.keys() == set(keys.values())
    assert sum(compared.values()) >= 0.3 * len(compared)


def test_shards_together_are_the_whole(data, base_model, tmp_path, capsys) -> None:
    """Bit for bit, dropout included, what cannot be read, and one begun again."""
    scp = tmp_path / "wav.scp"
    lines = Path(data.path("unlabeled", "wav.scp")).read_text()
    scp.write_text(f"{lines}zz {tmp_path}/missing.wav\n")
    more = ["--batch_bins", 40000, "--pl_max_bad_share", 0.5, "--pl_filter"]
    more += ["tokens", "dropout_agreement"]
    whole = label_in_process(base_model, scp, tmp_path / "whole", *more)
    out, more = tmp_path / "out", [*more, "--num_shards", 3]
    for shards in ([2], [0, 1, 2]):
        words = ["--asr_exp", base_model, "--wav_scp", scp, "--out", out]
        words += ["--num_workers", 0, *more, "--shard", *shards]
        label.main([str(word) for word in words])
    parts = [out / f"shard{shard}of3" for shard in range(3)]
    for name in ("text", "wav.scp", "confidence", "dropped"):
        joined = "".join((part / name).read_text() for part in parts)
        assert sorted(joined.splitlines()) == sorted(
            (tmp_path / "whole" / name).read_text().splitlines()
        )
    counts = [yaml.safe_load((part / "label.yaml").read_text()) for part in parts]
    for key in ("utterances", "kept"):
        assert sum(count[key] for count in counts) == whole[key]
    assert all(0 < count["utterances"] < 21 for count in counts)
    message = "--shard: 3 is not in 0 to 2, the shards of --num_shards 3"
    check_refusal(base_model, scp, out, [*more, "--shard", 3], message, capsys)


def test_bad_audio_is_counted(base_model, tmp_path, capsys) -> None:
    """Missing, torn, empty, too short; each alone, and in the way of no other."""
    sizes = (8000, 8000, 8000, 0, 100, 9000, *range(8100, 8700, 100))
    scp = write_audio(tmp_path, *sizes)
    (tmp_path / "1.wav").unlink()
    whole = (tmp_path / "2.wav").read_bytes()
    (tmp_path / "2.wav").write_bytes(whole[:20])
    out = tmp_path / "labels"
    message = r"3 of 12 utterances \(25.0%\) cannot be read"
    check_refusal(base_model, scp, out, [], message, capsys)
    assert not out.exists()
    more = ["--pl_filter", "--pl_max_bad_share"]
    message = r"4 of 12 utterances \(33.3%\) cannot be used"
    check_refusal(base_model, scp, out, [*more, 0.3], message, capsys)
    summary = label_in_process(base_model, scp, out, *more, 0.4)
    assert summary["dropped"] == {"unusable": 4} and summary["kept"] == 8
    bad = dict.fromkeys(["utt1", "utt2", "utt3", "utt4"], "unusable")
    assert read_scp(out / "dropped") == bad
    texts = read_text(out / "text")
    assert read_scp(out / "confidence").keys() == texts.keys()
    # What is left is labeled as if it were alone.
    clear = 0
    with labeler_of(base_model, "student") as labeler:
        for key in texts:
            audio = soundfile.read(read_scp(scp)[key], dtype="float32")[0]
            speech, length = torch.tensor(audio)[None], torch.tensor([audio.size])
            (text,) = clear_texts(labeler, speech, length)
            assert text in (None, texts[key])
            clear += text is not None
    assert clear >= 4


def test_audio_that_goes_bad_under_way(base_model, tmp_path) -> None:
    """Its header was read; its samples are gone when their turn comes."""
    scp = write_audio(tmp_path, 8000, 8000)
    audio = commands_label.read_audio(str(scp), "sound", None, RATE)
    (tmp_path / "0.wav").unlink()
    words = ["--asr_exp", base_model, "--wav_scp", scp, "--out", tmp_path / "out"]
    words += ["--num_workers", 0, "--pl_max_bad_share"]
    with labeler_of(base_model, "student") as labeler:
        for most in (0.4, 0.5):
            args = label.get_parser().parse_args([str(word) for word in (*words, most)])
            if most == 0.4:
                with pytest.raises(UserError, match=r"1 of 2 .* cannot be used"):
                    commands_label.label_set(labeler, audio, {}, args)
        counts = commands_label.label_set(labeler, audio, {}, args)
    assert counts["dropped"]["unusable"] == 1


def test_other_kinds_of_data(base_model, tmp_path, capsys) -> None:
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
    check_refusal(base_model, arrays, out, more, message, capsys)
    shapes = tmp_path / "shape"
    shapes.write_text("utt0 8000\nutt1 9000\n")
    label_in_process(base_model, arrays, out, *more, "--shape_file", shapes)
    label_in_process(base_model, scp, tmp_path / "sound", "--pl_filter")
    assert read_text(out / "text") == read_text(tmp_path / "sound/text")


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
    data, base_model, tmp_path, changes, message, capsys
) -> None:
    exp = tmp_path / "exp"
    shutil.copytree(base_model, exp, symlinks=True)
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


def test_a_posterior_that_is_no_number_labels_nothing(data, base_model) -> None:
    with labeler_of(base_model, "student") as labeler:
        assert same_tensors(
            labeler.model.state_dict(), load(base_model / "valid.cer_ctc.ave.pth")
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


def test_another_sample_rate_is_refused(base_model, tmp_path, capsys) -> None:
    scp = write_audio(tmp_path, 8000, rate=8000)
    message = "0.wav has 8000 Hz, the model wants 16000 Hz"
    check_refusal(base_model, scp, tmp_path / "out", [], message, capsys)


@pytest.mark.slow
def test_a_full_disk_ends_it_and_it_goes_on(data, base_model, small_disk, capsys):
    """Half of a table is never left; what was labeled before need not be again."""
    scp, statuses = data.path("unlabeled", "wav.scp"), []
    whole = label_in_process(base_model, scp, data.root / "whole")
    for free in (0, 4096, 8192, 12288, 16384, 20480, 40960):
        fill(small_disk, free)
        try:
            label_in_process(base_model, scp, out := small_disk / "out")
            statuses.append(0)
        except SystemExit as end:
            statuses.append(end.code)
            assert "No space left" in (error := capsys.readouterr().err), error
            for file in out.glob("[!.]*"):
                wanted = data.root / "whole" / file.name
                assert file.read_bytes() == wanted.read_bytes()
    assert statuses[0] == 4 and statuses[-1] == 0 and set(statuses) == {0, 4}
    assert yaml.safe_load((out / "label.yaml").read_text()) == whole
    assert not list(small_disk.rglob(".*"))


def files_of(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(out.iterdir())}


def test_an_archive_labels_as_its_experiment(data, base_model, tmp_path) -> None:
    scp = data.path("unlabeled", "wav.scp")
    archive = tmp_path / "model.zip"
    export.main(["--asr_exp", str(base_model), "--out", str(archive)])
    for exp, out in ((base_model, "one"), (archive, "two")):
        label_in_process(exp, scp, tmp_path / out)
    one, two = (files_of(tmp_path / out) for out in ("one", "two"))
    assert str(archive) in two.pop("label.yaml") and one.pop("label.yaml")
    assert one == two


@pytest.mark.slow
@pytest.mark.parametrize("after, torn", [(0, True), (1, False), (3, True)])
def test_a_killed_run_goes_on(data, base_model, tmp_path, monkeypatch, after, torn):
    """With filters that draw; the files are those of a run that was not killed."""
    scp = data.path("unlabeled", "wav.scp")
    args = ["--batch_bins", 50000, "--pl_filter", "tokens", "dropout_agreement"]
    args += ["--pl_filter_conf", "dropout_agreement.samples=1"]
    exp = tmp_path / "exp"
    shutil.copytree(base_model, exp, symlinks=True)
    conf = yaml.safe_load((exp / "config.yaml").read_text())
    conf["encoder_conf"]["dropout_rate"] = 0.3
    (exp / "config.yaml").write_text(yaml.safe_dump(conf))
    label_in_process(exp, scp, tmp_path / "whole", *args)
    add = Progress.add

    def killed(self, number, records):
        if len(self.done) == after:
            raise KeyboardInterrupt
        add(self, number, records)

    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "add", killed)
        with pytest.raises(SystemExit, match="130"):
            label_in_process(exp, scp, out, *args)
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
    label_in_process(exp, scp, out, *args)
    assert files_of(out) == files_of(tmp_path / "whole")
    total = len(labeled) + after
    label_in_process(exp, scp, out, *args)  # Nothing is left to do.
    assert len(labeled) + after == total > after


def test_half_precision_gives_nearly_the_same(data, base_model, tmp_path) -> None:
    scp, texts, rates = data.path("unlabeled", "wav.scp"), [], []
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        found = label_in_process(base_model, scp, out, "--precision", precision)
        assert found["precision"] == precision
        texts.append(read_scp(out / "text", empty=True))
        rates.append([float(rate) for rate in read_scp(out / "confidence").values()])
    assert rates[0] != rates[1]
    assert rates[0] == pytest.approx(rates[1], abs=0.05)
    same = [texts[0].get(key) == text for key, text in texts[1].items()]
    assert sum(same) > 0.7 * len(same)


def test_labels_of_an_earlier_version_are_left_alone(
    data, base_model, tmp_path
) -> None:
    scp, out = data.path("unlabeled", "wav.scp"), tmp_path / "labels"
    label_in_process(base_model, scp, out)
    lines = (out / "label.yaml").read_text().splitlines(keepends=True)
    earlier = "".join(line for line in lines if not line.startswith("precision"))
    (out / "label.yaml").write_text(earlier)
    label_in_process(base_model, scp, out)
    assert (out / "label.yaml").read_text() == earlier


def test_labels_of_other_settings_are_not_mixed(
    data, base_model, tmp_path, capsys
) -> None:
    scp, out = data.path("unlabeled", "wav.scp"), tmp_path / "labels"
    label_in_process(base_model, scp, out)
    before = files_of(out)
    best = (base_model / "valid.cer_ctc.ave.pth").resolve().name
    other_epoch = {"1epoch.pth": "2epoch.pth", "2epoch.pth": "1epoch.pth"}[best]
    for more, message in (
        (["--pl_filter"], r"pl_filter \['tokens'\], this run has \[\]"),
        (["--student", other_epoch], "sha256_of_model"),
        (["--batch_bins", 1000], "batch_bins 4000000, this run has 1000"),
        (["--precision", "bfloat16"], "precision 'float32', this run has 'bfloat16'"),
    ):
        check_refusal(base_model, scp, out, more, message, capsys)
    other = data.path("dev", "wav.scp")
    check_refusal(base_model, other, out, [], "sha256_of_wav_scp", capsys)
    assert files_of(out) == before
    (out / "label.yaml").unlink()
    (out / PROGRESS).write_text(json.dumps({"seed": 1}) + "\n")
    check_refusal(base_model, scp, out, [], "name another --out", capsys)


@pytest.mark.parametrize("line", [b'[0, [{"id', b'{"s\xffed": 1}'])
def test_progress_that_is_damaged_is_refused(tmp_path, line) -> None:
    (tmp_path / PROGRESS).write_bytes(b'{"seed": 1}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"\.progress is damaged: .*; remove it"):
        Progress(tmp_path, {"seed": 1})
