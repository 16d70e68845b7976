"""Bad audio of every kind, through ESPnet's own dataset and torch's loader."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.train.dataset import ESPnetDataset
from torch.utils.data import DataLoader

from espnet_softpl.core.errors import UserError, release
from espnet_softpl.data.usable_audio import (
    LONGEST_SILENCE,
    StrictAudio,
    UsableAudio,
    UsableShare,
    smallest_input,
)

RATE = 16000
SAMPLES = 4000
MIN_SAMPLES = 400
EXPECTED = 3000  # Samples by the shape file, of what cannot be used.


def total_samples(flac: bytes, total: int) -> bytes:
    """Change the number of samples in a FLAC header: 36 bits of its first block."""
    field = int.from_bytes(flac[18:26], "big")
    return flac[:18] + ((field >> 36 << 36) | total).to_bytes(8, "big") + flac[26:]


def write_files(root: Path) -> dict[str, Path]:
    """Write good and bad audio of every kind; return the files by utterance id."""
    rng = np.random.default_rng(1)
    audio = (0.1 * rng.standard_normal(SAMPLES)).astype(np.float32)
    not_a_number, infinite = audio.copy(), audio.copy()
    not_a_number[7], infinite[-1] = np.nan, -np.inf
    soundfile.write(root / "good.wav", audio, RATE)
    soundfile.write(root / "good.flac", audio, RATE)
    soundfile.write(root / "longer.wav", np.tile(audio, 2), RATE)
    soundfile.write(root / "no_samples.wav", audio[:0], RATE)
    soundfile.write(root / "short.wav", audio[: MIN_SAMPLES - 1], RATE)
    soundfile.write(root / "just.wav", audio[:MIN_SAMPLES], RATE)
    soundfile.write(root / "two_channels.wav", np.stack([audio, audio], 1), RATE)
    soundfile.write(root / "slow.wav", audio, RATE // 2)
    soundfile.write(root / "nan.wav", not_a_number, RATE, subtype="FLOAT")
    soundfile.write(root / "inf.wav", infinite, RATE, subtype="FLOAT")
    flac, wav = (root / "good.flac").read_bytes(), (root / "good.wav").read_bytes()
    (root / "torn.flac").write_bytes(flac[: len(flac) // 2])
    (root / "garbled.flac").write_bytes(flac[:2000] + b"\x55" * 900 + flac[2900:])
    (root / "unknown_length.flac").write_bytes(total_samples(flac, 0))
    (root / "huge.flac").write_bytes(total_samples(flac, 2**36 - 1))
    (root / "header.wav").write_bytes(wav[:44])
    (root / "empty.wav").write_bytes(b"")
    (root / "text.wav").write_text("This is no audio at all.\n" * 20)
    (root / "directory.wav").mkdir()
    (root / "link.wav").symlink_to("nowhere.wav")
    names = [path.name for path in root.iterdir()] + ["gone.wav"]
    return {name: root / name for name in sorted(names)}


GOOD = {"good.wav", "good.flac", "longer.wav", "just.wav"}
BAD = {
    "directory.wav": "",
    "empty.wav": "",
    "garbled.flac": "",
    "gone.wav": "gone.wav",
    "header.wav": "0 samples, but at least 400 are needed",
    "huge.flac": "",
    "inf.wav": "1 of 4000 samples are not finite",
    "link.wav": "",
    "nan.wav": "1 of 4000 samples are not finite",
    "no_samples.wav": "0 samples",
    "short.wav": "399 samples, but at least 400 are needed",
    "slow.wav": "16000 != 8000",
    "text.wav": "",
    "torn.flac": "",
    "two_channels.wav": "shape (4000, 2), but (N) is expected",
    "unknown_length.flac": "",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    return write_files(tmp_path_factory.mktemp("audio"))


def write_scp(path: Path, files: dict[str, Path]) -> str:
    path.write_text("".join(f"{uid} {file}\n" for uid, file in files.items()))
    return str(path)


def make_dataset(tmp_path: Path, files: dict[str, Path], **kwargs) -> ESPnetDataset:
    scp = write_scp(tmp_path / "wav.scp", files)
    return ESPnetDataset([(scp, "speech", "sound")], **kwargs)


def make_usable(tmp_path: Path, files: dict[str, Path], **kwargs) -> UsableAudio:
    lengths = dict.fromkeys(files, EXPECTED)
    return UsableAudio(
        make_dataset(tmp_path, files, **kwargs),
        lengths,
        min_samples=MIN_SAMPLES,
        sample_rate=RATE,
    )


def check_item(uid: str, data: dict[str, np.ndarray]) -> None:
    """Check one utterance against what was written."""
    assert data.keys() == {"speech", "usable"}
    assert data["speech"].dtype == np.float32 and data["speech"].ndim == 1
    assert data["usable"].tolist() == [int(uid in GOOD)]
    if uid in GOOD:
        assert len(data["speech"]) >= MIN_SAMPLES and data["speech"].any()
    else:
        assert len(data["speech"]) == EXPECTED and not data["speech"].any()


def test_every_kind_of_bad_audio_becomes_silence(files, tmp_path, caplog) -> None:
    assert set(files) == GOOD | set(BAD)
    dataset = make_usable(tmp_path, files)
    for _ in range(2):
        for uid in files:
            found, data = dataset[uid]
            assert found == uid
            check_item(uid, data)
    ours = [r for r in caplog.records if r.name == "espnet_softpl.data.usable_audio"]
    assert len(ours) == len(BAD)  # Once each, though read twice.
    for uid, reason in BAD.items():
        begin = f"Unlabeled utterance {uid} is left out: {files[uid]}: "
        said = [r.getMessage() for r in ours if r.getMessage().startswith(begin)]
        assert len(said) == 1 and reason in said[0], uid
        assert len(said[0]) > len(begin) and "\n" not in said[0]


def load_all(dataset: UsableAudio, files: dict[str, Path], **kwargs) -> list[str]:
    """Read all utterances in mini-batches of three, and check them."""
    uids = sorted(files)
    batches = [uids[i : i + 3] for i in range(0, len(uids), 3)]
    loader = DataLoader(
        dataset, batch_sampler=batches, collate_fn=CommonCollateFn(), **kwargs
    )
    seen = []
    for ids, batch in loader:
        assert batch["usable"].shape == (len(ids), 1)
        for row, uid in enumerate(ids):
            length = int(batch["speech_lengths"][row])
            speech = batch["speech"][row, :length].numpy()
            check_item(uid, {"speech": speech, "usable": batch["usable"][row]})
            seen.append(uid)
    return seen


@pytest.mark.parametrize("num_workers", [0, 1])
def test_through_the_loader(files, tmp_path, num_workers) -> None:
    dataset = make_usable(tmp_path, files)
    assert load_all(dataset, files, num_workers=num_workers) == sorted(files)


@pytest.mark.slow
def test_through_a_process_that_was_spawned(files, tmp_path) -> None:
    few = {uid: files[uid] for uid in ("good.wav", "nan.wav", "gone.wav")}
    dataset = make_usable(tmp_path, few)
    kwargs = dict(num_workers=1, multiprocessing_context="spawn")
    assert load_all(dataset, few, **kwargs) == sorted(few)


def test_through_espnets_factory_and_a_pickle(files, tmp_path) -> None:
    factory = SequenceIterFactory(
        dataset=make_dataset(tmp_path, files),
        batches=[["good.wav", "gone.wav"], ["nan.wav"]],
        collate_fn=CommonCollateFn(),
    )
    factory.dataset = UsableAudio(factory.dataset, dict.fromkeys(files, EXPECTED))
    marks = [batch["usable"].flatten().tolist() for _, batch in factory.build_iter(1)]
    assert marks == [[1, 0], [0]]
    copy = pickle.loads(pickle.dumps(factory.dataset))
    for uid in ("good.wav", "nan.wav"):
        check_item(*copy[uid])


def test_good_audio_is_espnets(files, tmp_path) -> None:
    plain, dataset = make_dataset(tmp_path, files), make_usable(tmp_path, files)
    for uid in GOOD:
        np.testing.assert_array_equal(
            dataset[uid][1]["speech"], plain[uid][1]["speech"]
        )


def test_the_first_file_does_not_decide_on_the_rate(files, tmp_path) -> None:
    dataset = make_usable(tmp_path, files)
    for uid, mark in (("slow.wav", 0), ("good.wav", 1)):
        assert dataset[uid][1]["usable"].tolist() == [mark]
    lengths = dict.fromkeys(files, EXPECTED)
    any_rate = UsableAudio(make_dataset(tmp_path, files), lengths)
    assert any_rate["slow.wav"][1]["usable"].tolist() == [1]


def test_silence_is_long_enough_and_not_too_long(files, tmp_path) -> None:
    lengths = {"gone.wav": 3, "huge.flac": 2**63 - 1, "empty.wav": LONGEST_SILENCE}
    dataset = UsableAudio(make_dataset(tmp_path, files), lengths, min_samples=50)
    found = {uid: len(dataset[uid][1]["speech"]) for uid in lengths}
    assert found == {"gone.wav": 50, "huge.flac": 50, "empty.wav": LONGEST_SILENCE}


def test_channels_and_features(files, tmp_path) -> None:
    lengths = dict.fromkeys(files, EXPECTED)
    stereo = UsableAudio(make_dataset(tmp_path, files), lengths, sample_shape=(2,))
    for uid, mark, shape in (
        ("two_channels.wav", 1, (SAMPLES, 2)),
        ("good.wav", 0, (EXPECTED, 2)),
        ("gone.wav", 0, (EXPECTED, 2)),
    ):
        data = stereo[uid][1]
        assert data["usable"].tolist() == [mark] and data["speech"].shape == shape


def test_kaldi_archives(tmp_path, caplog) -> None:
    features = np.random.default_rng(2).standard_normal((60, 8)).astype(np.float32)
    spec = f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp"
    with kaldiio.WriteHelper(spec) as writer:
        for uid in ("one", "two", "three"):
            writer(uid, features)
    ark = tmp_path / "a.ark"
    data = ark.read_bytes()
    start = data.index(b"two ") + 4
    broken = data[:start] + b"\xff\xfe" + data[start + 2 : -500]
    ark.write_bytes(broken)
    dataset = UsableAudio(
        ESPnetDataset([(f"{tmp_path}/a.scp", "speech", "kaldi_ark")]),
        dict.fromkeys(("one", "two", "three"), 70),
        sample_shape=(8,),
    )
    items = {uid: dataset[uid][1] for uid in ("one", "two", "three")}
    assert {uid: int(d["usable"][0]) for uid, d in items.items()} == {
        "one": 1,
        "two": 0,
        "three": 0,
    }
    assert items["one"]["speech"].shape == (60, 8)
    assert items["three"]["speech"].shape == (70, 8)
    assert f"three is left out: {ark}:" in caplog.text
    ark.unlink()
    assert dataset["one"][1]["usable"].tolist() == [0]
    assert "a.ark does not exist" in caplog.text


def scale(uid: str, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Preprocess as ESPnet may: scale the largest value, which must exist, to 1."""
    return {**data, "speech": data["speech"] / np.abs(data["speech"]).max()}


def test_preprocessing_never_sees_what_it_cannot_take(files, tmp_path) -> None:
    dataset = make_usable(tmp_path, files, preprocess=scale)
    for uid in files:
        check_item(*dataset[uid])
    assert abs(dataset["good.wav"][1]["speech"]).max() == 1.0


def test_what_preprocessing_spoils_is_left_out(files, tmp_path) -> None:
    spoiled = {
        "cut": lambda uid, data: {"speech": data["speech"][: MIN_SAMPLES - 1]},
        "nan": lambda uid, data: {"speech": data["speech"] * np.float32("nan")},
    }
    for preprocess in spoiled.values():
        dataset = make_usable(tmp_path, files, preprocess=preprocess)
        uid, data = dataset["good.wav"]
        assert data["usable"].tolist() == [0] and len(data["speech"]) == EXPECTED


def test_mistakes_that_are_not_the_audios_still_end_the_run(files, tmp_path) -> None:
    def broken(uid: str, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise RuntimeError("a mistake in the preprocessing")

    with pytest.raises(RuntimeError, match="a mistake in the preprocessing"):
        make_usable(tmp_path, files, preprocess=broken)["good.wav"]
    dataset = make_usable(tmp_path, files)
    with pytest.raises(KeyError):
        dataset["not in wav.scp"]

    class Wrong(dict):
        def __getitem__(self, uid: str) -> np.ndarray:
            raise TypeError("a mistake in a reader")

    inner = make_dataset(tmp_path, files)
    inner.loader_dict["speech"] = Wrong()
    with pytest.raises(TypeError, match="a mistake in a reader"):
        UsableAudio(inner, dict.fromkeys(files, EXPECTED))["good.wav"]


def test_espnets_cache_does_not_hide_the_mark(files, tmp_path) -> None:
    dataset = make_usable(tmp_path, files, max_cache_size=1e9)
    for _ in range(3):
        for uid in files:
            check_item(*dataset[uid])


def test_a_file_that_comes_back_is_used(files, tmp_path) -> None:
    path = tmp_path / "later.wav"
    dataset = make_usable(tmp_path, {"later": path})
    assert dataset["later"][1]["usable"].tolist() == [0]
    path.write_bytes(files["good.wav"].read_bytes())
    assert dataset["later"][1]["usable"].tolist() == [1]


def make_strict(tmp_path: Path, files: dict[str, Path], **kwargs) -> StrictAudio:
    scp = write_scp(tmp_path / "wav.scp", files)
    text = tmp_path / "text"
    text.write_text("".join(f"{uid} 1 2 3\n" for uid in files))
    specs = [(scp, "speech", "sound"), (str(text), "text", "text_int")]
    return StrictAudio(ESPnetDataset(specs), sample_rate=RATE, **kwargs)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_labeled_audio_ends_the_run_with_the_reason(
    files, tmp_path, num_workers
) -> None:
    dataset = make_strict(tmp_path, files, min_samples=MIN_SAMPLES, sample_shape=())
    for uid in BAD if num_workers == 0 else ("gone.wav", "nan.wav"):
        loader = DataLoader(
            dataset,
            batch_sampler=[["good.wav"], [uid]],
            collate_fn=CommonCollateFn(),
            num_workers=num_workers,
        )
        batches = iter(loader)
        assert next(batches)[0] == ["good.wav"]
        with pytest.raises(UserError) as ended:
            next(batches)
        last = str(ended.value).strip().splitlines()[-1]
        del batches
        release(ended.value)  # Or the loader's process would be waited for.
        assert f"labeled utterance {uid}: {files[uid]}: " in last
        assert BAD[uid] in last


def test_labeled_audio_is_otherwise_espnets(files, tmp_path) -> None:
    dataset = make_strict(tmp_path, files)
    plain = make_dataset(tmp_path, files)
    for uid in (*GOOD, "short.wav"):
        found, data = dataset[uid]
        assert found == uid and list(data) == ["speech", "text"]
        np.testing.assert_array_equal(data["speech"], plain[uid][1]["speech"])
    with pytest.raises(UserError, match="^labeled utterance nan.wav: "):
        dataset["nan.wav"]
    # It could be in one mini-batch with the others.
    with pytest.raises(UserError, match=r"two_channels.wav: shape \(4000, 2\), but"):
        dataset["two_channels.wav"]
    dataset = make_strict(tmp_path, files)
    assert dataset["two_channels.wav"][1]["speech"].shape == (4000, 2)


def test_illegal_settings(files, tmp_path) -> None:
    inner = make_dataset(tmp_path, files)
    with pytest.raises(ValueError, match="min_samples must be an integer >= 1"):
        UsableAudio(inner, {}, min_samples=0)
    with pytest.raises(ValueError, match="sample_rate must be an integer >= 1"):
        UsableAudio(inner, {}, sample_rate=0)
    write_scp(tmp_path / "wav.scp", files)
    both = [(str(tmp_path / "wav.scp"), name, "sound") for name in ("speech", "noise")]
    with pytest.raises(ValueError, match="only 'speech' can be replaced"):
        UsableAudio(ESPnetDataset(both), {})
    with pytest.raises(ValueError, match="most must be a number in"):
        UsableShare(1.5)


def count_all(share: UsableShare, marks: list[int], batch: int = 4) -> int:
    """Count marks in mini-batches; return how many were seen when it stopped."""
    for start in range(0, len(marks), batch):
        part = marks[start : start + batch]
        ids = [f"utt{start + i}" for i in range(len(part))]
        try:
            share.count(ids, torch.tensor(part)[:, None])
        except UserError:
            return start + len(part)
    return -1


def test_a_disk_that_went_away_stops_the_run() -> None:
    assert count_all(UsableShare(0.01), [0] * 400) == 52  # The first 50, in batches.
    late = [1] * 2000 + [0] * 400
    assert count_all(UsableShare(0.01), late, 1) == 2026
    share = UsableShare(0.01)
    share.count(["good"] * 60, torch.ones(60, dtype=torch.bool))
    with pytest.raises(UserError) as stopped:
        share.count([f"bad{i}" for i in range(20)], torch.zeros(20, dtype=torch.bool))
    message = str(stopped.value)
    assert "20 of the last 80 unlabeled utterances (25.0%)" in message
    assert "at most 1.0% may (pl_max_bad_share)" in message
    assert "bad15, bad16, bad17, bad18, bad19." in message


def test_single_bad_files_are_skipped() -> None:
    """The share that is allowed does not stop a long run by chance."""
    rng = np.random.default_rng(4)
    marks = (rng.random(100_000) >= 0.01).astype(int).tolist()
    assert marks.count(0) > 900 and count_all(UsableShare(0.01), marks, 20) == -1
    assert count_all(UsableShare(0.01), [0] + [1] * 500, 1) == -1
    twice = (rng.random(100_000) >= 0.04).astype(int).tolist()
    assert 0 < count_all(UsableShare(0.01), twice, 20) < 5000


class Exact(UsableShare):
    """Without tolerance, of fewer utterances."""

    WINDOW = 100
    MARGIN = 0.0


def test_the_rule_without_tolerance() -> None:
    marks = [1] * 90 + [0] * 10 + [1] * 90 + [0] * 11
    assert count_all(Exact(0.1), marks, 1) == 201
    assert count_all(Exact(0.1), [0] * 6 + [1] * 43, 1) == -1
    assert count_all(Exact(0.1), [0] * 6 + [1] * 44, 1) == 50
    assert count_all(UsableShare(0.0), [1] * 60 + [0], 1) == 61
    assert count_all(UsableShare(1.0), [0] * 3000) == -1


def test_count_takes_one_mark_per_utterance() -> None:
    with pytest.raises(ValueError):
        UsableShare(0.1).count(["a", "b"], torch.ones(3))


class TooShortUttError(Exception):
    """As ESPnet's: neither a ValueError nor a RuntimeError."""


def subsampled(edge: int, stride: int) -> tuple[Callable[[int], int], list[int]]:
    """Return a count of frames that fails below an edge, and what it was asked."""
    asked: list[int] = []

    def count(samples: int) -> int:
        asked.append(samples)
        if samples < edge:
            raise TooShortUttError("too short")
        return (samples - edge) // stride

    return count, asked


@pytest.mark.parametrize("edge, stride", [(1, 1), (129, 128), (400, 1), (999, 640)])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_smallest_input(edge, stride, frames) -> None:
    count, asked = subsampled(edge, stride)
    found = smallest_input(count, 16000, frames)
    assert found == edge + frames * stride  # By the formula above.
    assert len(asked) <= 16 and min(asked) >= 1 and max(asked) == 16000


def test_smallest_input_at_the_ends() -> None:
    assert smallest_input(lambda samples: samples, 1) == 1
    assert smallest_input(lambda samples: samples // 64, 64) == 64
    with pytest.raises(ValueError, match="63 samples give 0 frames, 1 are needed"):
        smallest_input(lambda samples: samples // 64, 63)
    count, _ = subsampled(100, 1)
    with pytest.raises(TooShortUttError):
        smallest_input(count, 99)


def test_fifos_and_whole_numbers_in_training_data(tmp_path) -> None:
    fifo, loud = tmp_path / "fifo.wav", tmp_path / "loud.wav"
    os.mkfifo(fifo)
    soundfile.write(loud, 9000.0 * np.ones(800), RATE, subtype="FLOAT")
    checked = make_usable(tmp_path, {"fifo.wav": fifo, "loud.wav": loud})
    for uid in ("fifo.wav", "loud.wav"):
        assert checked[uid][1]["usable"] == [0]
