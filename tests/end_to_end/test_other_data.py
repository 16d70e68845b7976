"""Training on data of other forms, directly and through the recipe."""

from __future__ import annotations

from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
from espnet2.train.dataset import ESPnetDataset

from espnet_softpl.data import tables
from espnet_softpl.data.usable_audio import UsableAudio
from espnet_softpl.training.task import SoftPLTask
from tests.support.audio_forms import (
    RATE,
    write_archive,
    write_features,
    write_lines,
    write_pipes,
    write_plain,
)
from tests.support.espnet_runs import (
    PL,
    Data,
    config,
    load,
    make_data,
    same_tensors,
    train,
)
from tests.support.recipe import copy_recipe
from tests.support.recipe import run as run_recipe

# ESPnet keeps archives open until the interpreter collects them.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


def read_entries(directory: Path) -> dict[str, str]:
    return tables.read_scp(directory / "wav.scp")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


def train_on(data: Data, scp: Path, kind: str, out: Path, **more) -> list[str]:
    """Train for an epoch on unlabeled data; return the utterances that are used."""
    options = config(**data.options(), **PL, max_epoch=1, **more)
    options["unlabeled_data_path_and_name_and_type"] = [[str(scp), "speech", kind]]
    del options["unlabeled_oracle_text"]
    exp = train(SoftPLTask, options, out)
    return list(tables.read_lengths(exp / "unlabeled_shape"))


@pytest.mark.parametrize("form", ["flac", "kaldi"])
def test_training_on_archives_is_that_on_files(
    data: Data, tmp_path: Path, form: str
) -> None:
    """Bit for bit, as all samples have 16 bits; Kaldi's WAV has another level."""
    names = tables.read_scp(data.path("unlabeled", "wav.scp"))
    audio = {key: soundfile.read(path, dtype="int16") for key, path in names.items()}
    scp = tmp_path / "wav.scp"
    whole = {key: (rate, samples) for key, (samples, rate) in audio.items()}
    more = {}
    if form == "flac":
        whole = {key: (samples, rate) for key, (samples, rate) in audio.items()}
        more = dict(write_function="soundfile", write_kwargs={"format": form})
    kaldiio.save_ark(str(tmp_path / "wav.ark"), whole, scp=str(scp), **more)
    if form == "kaldi":
        with pytest.raises(SystemExit):
            train_on(data, scp, "kaldi_ark", tmp_path / "refused")
        return
    used = train_on(data, scp, "kaldi_ark", tmp_path / "ark")
    assert used == list(names)
    plain = Path(data.path("unlabeled", "wav.scp"))
    assert train_on(data, plain, "sound", tmp_path / "files") == used
    columns = train_on(data, plain, "multi_columns_sound", tmp_path / "columns")
    assert columns == used
    models = [load(tmp_path / n / "1epoch.pth") for n in ("ark", "files", "columns")]
    assert same_tensors(*models[:2]) and same_tensors(*models[1:])


def test_bad_entries_of_archives_are_left_out(
    data: Data, tmp_path: Path, caplog
) -> None:
    source = write_archive(tmp_path / "ark", "flac", seed=50, count=20)
    entries = read_entries(source)
    ark = next(iter(entries.values())).rpartition(":")[0]
    pickled = str(tmp_path / "p.ark")
    kaldiio.save_ark(pickled, {"a": 1}, write_function="pickle")
    bad = {"gone": f"{tmp_path}/no.ark:7", "off": f"{ark}:5", "code": f"{pickled}:2"}
    entries |= bad
    scp = write_lines(tmp_path / "wav.scp", entries)
    with caplog.at_level("WARNING"):
        used = train_on(data, scp, "kaldi_ark", tmp_path / "exp", pl_max_bad_share=0.2)
    assert len(used) == 20 and not bad.keys() & set(used)
    assert "3 unlabeled utterances are left out" in caplog.text
    assert "pickle, which is never loaded" in caplog.text


def test_a_pickle_is_not_loaded_either_where_lengths_are_given(tmp_path: Path) -> None:
    entries = read_entries(write_archive(tmp_path / "ark", "flac", seed=60))
    pickled = str(tmp_path / "p.ark")
    kaldiio.save_ark(pickled, {"a": np.zeros(9600)}, write_function="pickle")
    scp = write_lines(tmp_path / "wav.scp", {**entries, "code": f"{pickled}:2"})
    dataset = ESPnetDataset([(str(scp), "speech", "kaldi_ark")])
    usable = UsableAudio(dataset, {"code": 9600}, sample_rate=RATE)
    assert usable["ark-0"][1]["usable"] == 1
    assert usable["code"][1]["usable"] == 0


def test_training_on_features(data: Data, tmp_path: Path, capsys) -> None:
    more: dict = dict(frontend=None, frontend_conf=None, input_size=20)
    for part, key in (("labeled", "train"), ("dev", "valid")):
        text = data.path(part, "text")
        names = list(tables.read_scp(text))
        scp = write_features(tmp_path / f"{part}.scp", names, 20, seed=len(part))
        spec = [[str(scp), "speech", "kaldi_ark"], [text, "text", "text"]]
        more[f"{key}_data_path_and_name_and_type"] = spec
        shape = dict.fromkeys(names, "60,20")
        shapes = [str(write_lines(tmp_path / f"{part}_shape", shape))]
        more[f"{key}_shape_file"] = [*shapes, data.path(part, "text_shape")]
    names = [f"u{number:02d}" for number in range(12)]
    scp = write_features(tmp_path / "u.scp", names, 20, seed=9)
    short = write_features(tmp_path / "short.scp", ["short"], 20, seed=8)
    value = tables.read_scp(short)["short"]
    with scp.open("a") as file:
        file.write(f"short {value}[0:5]\n")
    more["pl_max_bad_share"] = 0.2
    used = train_features(data, scp, tmp_path / "exp", more)
    assert used == names  # Six frames make no two frames of the encoder.
    with pytest.raises(SystemExit):
        plain = Path(data.path("unlabeled", "wav.scp"))
        train_features(data, plain, tmp_path / "refused", more)
    assert "but the model takes features of dimension 20" in capsys.readouterr().err


def train_features(data: Data, scp: Path, out: Path, more: dict) -> list[str]:
    options = {**config(**data.options(), **PL), **more, "max_epoch": 1}
    options = {key: value for key, value in options.items() if value is not None}
    options["unlabeled_data_path_and_name_and_type"] = [
        [str(scp), "speech", "kaldi_ark"]
    ]
    del options["unlabeled_oracle_text"]
    exp = train(SoftPLTask, options, out)
    return list(tables.read_lengths(exp / "unlabeled_shape"))


def test_refusals_before_training(data: Data, tmp_path: Path, capsys) -> None:
    stereo = write_plain(tmp_path / "two", 4, seed=70, channels=2)
    ark = write_archive(tmp_path / "ark", "flac", seed=71)
    cases = [
        (stereo, "sound", "2 channels, but audio must have one"),
        (stereo, "variable_columns_sound", "must have one channel"),
        (ark, "sound", "needs the type kaldi_ark"),
        (write_pipes(tmp_path / "pipes", 72), "kaldi_ark", "--allow_pipes true"),
        (stereo, "npy", "unlabeled_shape_file: must be given"),
    ]
    for directory, kind, message in cases:
        with pytest.raises(SystemExit) as ended:
            train_on(data, directory / "wav.scp", kind, tmp_path / "exp")
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error, error


# From end to end

# In Hz, by letter; the first has its accent apart.
LETTERS = {"\u03b1\u0301": 300, "\u03b2": 700, "\u03b3": 1200, "\u03b4": 1700}
SLOW = 12000  # Hz; the recipe is asked for 8000.


def say(sentence: list[str], rng: np.random.Generator) -> np.ndarray:
    """Make a tone for each letter, and silence for a space."""
    time = np.arange(int(0.1 * SLOW)) / SLOW
    tones = [np.sin(2 * np.pi * LETTERS.get(letter, 0) * time) for letter in sentence]
    audio = 0.3 * np.concatenate(tones)
    return (audio + 0.01 * rng.standard_normal(audio.size)).astype(np.float32)


def write_spoken(directory: Path, count: int, seed: int) -> Path:
    """Write a recording of two channels with sentences in one, cut by `segments`."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True)
    texts, segments, audio = {}, {}, []
    at = 0
    for number in range(count):
        words = [list(rng.choice(list(LETTERS), 3)) for _ in range(2)]
        spoken = say([*words[0], " ", *words[1]], rng)
        name = f"{directory.name}-{number:02d}"
        texts[name] = " ".join("".join(word) for word in words)
        end = at + len(spoken)
        segments[name] = f"tape {at / SLOW:.4f} {end / SLOW:.4f} B"
        audio.append(spoken)
        at = end
    tape = np.concatenate(audio)
    both = np.stack([0.2 * rng.standard_normal(tape.size), tape], axis=1)
    soundfile.write(directory / "tape.flac", both, SLOW)
    write_lines(directory / "wav.scp", {"tape": str(directory / "tape.flac")})
    write_lines(directory / "segments", segments)
    write_lines(directory / "text", texts)
    return directory


@pytest.mark.slow
def test_a_language_in_segments_at_another_rate_from_end_to_end(tmp_path: Path) -> None:
    """Greek with apart accents, BPE, segments, two channels, 12 kHz: until PL."""
    recipe = copy_recipe(tmp_path)
    sizes = {"labeled": 16, "unlabeled": 12, "dev": 4, "test": 4}
    options: list[object] = ["--corpus", "greek", "--fs", 8000, "--resample"]
    for seed, (part, count) in enumerate(sizes.items()):
        directory = write_spoken(tmp_path / "tapes" / part, count, seed)
        options += ["--test_dirs" if part == "test" else f"--{part}_dir", directory]
    tiny = "--max_epoch 1 --num_iters_per_epoch 3 --encoder_conf output_size=32 "
    tiny += "--encoder_conf num_blocks=1 --encoder_conf linear_units=64"
    options += ["--token_type", "bpe", "--nbpe", 20, "--train_args", tiny]
    options += ["--pl_config", "hard_ctc", "--run_control", "false", "--stop_stage", 9]
    result = run_recipe(recipe, *options, timeout=300)
    assert result.returncode == 0, result.stdout
    dump, exp = recipe / "dump" / "greek", recipe / "exp" / "greek"
    assert len(read_entries(dump / "org" / "test")) == 4
    lengths = tables.read_lengths(dump / "unlabeled" / "utt2num_samples")
    assert set(lengths.values()) == {5600}  # 0.7 s at 8 kHz.
    tokens = (dump / "token_list" / "bpe" / "tokens.txt").read_text().split()
    assert "\u03ac" in "".join(tokens) and "\u0301" not in "".join(tokens)
    stats = load(exp / "seed1" / "hard_ctc" / "checkpoint.pth")["reporter"]["stats"]
    assert 0.0 < stats[1]["train"]["pl_cer"] and stats[1]["train"]["pl_unusable"] == 0
