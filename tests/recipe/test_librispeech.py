"""The presets of full-size LibriSpeech: legal, true heads, run on a miniature."""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from espnet2.bin.asr_inference import get_parser
from espnet2.tasks.asr import ASRTask

from espnet_softpl.training import checks
from espnet_softpl.training.config import PLConfig
from espnet_softpl.training.task import SoftPLTask
from tests import ROOT
from tests.support import librispeech_runs
from tests.support.librispeech_runs import SMALL
from tests.support.recipe import (
    RECIPE,
    chain,
    copy_recipe,
    environment,
    joined,
    read_config,
    run,
)

MODELS = RECIPE / "conf" / "models"
CORPORA = ("librispeech_100", "librilight_10")
NAMES = ("conformer_ctc", "e_branchformer", "slimipl")
FILES = sorted(MODELS.rglob("*.yaml"))
CONTROLS = [file for file in FILES if file.name == "train_control.yaml"]
WARMUPS = [file for file in FILES if file.name == "train_warmup.yaml"]
# Keys in which a PL configuration may differ from its warm-up.
TRAINING = {"num_iters_per_epoch", "max_epoch", "optim_conf", "scheduler_conf"}


def name_of(file: Path) -> str:
    return file.relative_to(MODELS).as_posix()


def read(file: Path) -> dict[str, Any]:
    return read_config(file)


def origin(file: Path, key: str) -> Path:
    """Return the file that sets a key: this one, or the nearest that it is based on."""
    files = reversed(chain(file))
    return next(f for f in files if key in yaml.safe_load(f.read_text("utf-8")))


def head(file: Path) -> str:
    """Return the opening comment as one line."""
    lines = file.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in lines)
    return " ".join(" ".join(lines).replace("#", " ").split())


def parse(file: Path, *more: str) -> argparse.Namespace:
    """Read a configuration with the parser of the task that trains it."""
    task = SoftPLTask if "pl_criterion" in read(file) else ASRTask
    with tempfile.TemporaryDirectory() as directory:
        whole = str(joined(file, Path(directory)))
        return task.get_parser().parse_args(["--config", whole, *more])


over_files = pytest.mark.parametrize("file", FILES, ids=name_of)
over_published = pytest.mark.parametrize(
    "file", [file for file in FILES if file not in CONTROLS], ids=name_of
)


def test_every_model_has_a_warm_up_and_hard_and_soft_labels() -> None:
    assert tuple(path.stem for path in sorted(MODELS.glob("*.sh"))) == NAMES
    directories = {file.parent for file in FILES}
    assert {name_of(file.parent) for file in WARMUPS} == {
        name_of(directory) for directory in directories
    }
    assert {path.relative_to(MODELS).parts[0] for path in directories} == set(NAMES)
    for directory in directories:
        found = {read(file).get("pl_criterion") for file in directory.glob("*.yaml")}
        assert {None, "hard_ctc"} < found and len(found) == 3


@over_published
def test_the_head_has_command_source_deviations_and_what_was_run(file: Path) -> None:
    text = head(file)
    model = file.relative_to(MODELS).parts[0]
    corpus = "librilight_10" if file.parent.name == "ll10" else "librispeech_100"
    assert f"./run.sh --corpus {corpus} --model {model} " in text
    assert re.search(r"Source: |Pseudo-labeling: as k2-fsa/icefall", text)
    assert re.search(r"(published|there) -> here: why", text)
    assert text.count(" -> ") >= 4
    assert "Not run: no GPU was at hand." in text
    assert (ROOT / "docs/librispeech.md").is_file()


@over_files
def test_it_is_legal(file: Path) -> None:
    args = parse(file)
    assert args.specaug_conf["apply_time_warp"] is False
    updates = args.num_iters_per_epoch * args.max_epoch // args.accum_grad
    seconds = args.batch_bins // 16000
    comment = f"# Training: {updates} updates, each of {args.accum_grad} mini-batches"
    assert (
        f"{comment} of up to {seconds} s of audio."
        in origin(file, "max_epoch").read_text()
    )
    if "pl_criterion" in read(file):
        checks.check_options(args)


@over_files
def test_a_criterion_for_frames_is_one_line(file: Path) -> None:
    if "pl_criterion" in read(file):
        args = parse(file, "--pl_criterion", "soft_ce")
        args.pl_criterion_conf = {}
        checks.check_options(args)


@over_files
def test_the_model_is_that_of_the_warm_up(file: Path) -> None:
    ours, warmup = read(file), read(file.parent / "train_warmup.yaml")
    keys = {key for key in {*ours, *warmup} if not key.startswith("pl_")}
    differing = {key for key in keys if ours.get(key) != warmup.get(key)}
    assert differing <= TRAINING
    control = read(file.parent / "train_control.yaml")
    if file not in WARMUPS:
        assert control == {k: v for k, v in ours.items() if not k.startswith("pl_")}


@pytest.mark.parametrize(
    ("name", "cache", "ratio", "dropout"),
    [("ls100", 100, (1, 4), 0.3), ("ll10", 1000, (1, 10), 0.5)],
)
@pytest.mark.parametrize("criterion", ["hard_ctc", "blend"])
def test_the_settings_of_slimipl(
    name: str, cache: int, ratio: tuple[int, int], dropout: float, criterion: str
) -> None:
    """Values of flashlight/wav2letter, recipes/slimIPL."""
    place = MODELS / "slimipl" / name
    args = parse(place / f"train_pl_{criterion}.yaml")
    # The published C counts updates, and four mini-batches make one here.
    conf = {"size": cache * args.accum_grad, "probability": 0.1}
    assert args.pl_cache == "slimipl" and args.pl_cache_conf == conf
    schedule = PLConfig.from_args(args).schedule
    assert (schedule.labeled_steps, schedule.unlabeled_steps) == ratio
    assert (schedule.dropout, schedule.layer_drop) == (0.1, 0.1)
    encoder = read(place / "train_warmup.yaml")["encoder_conf"]
    rates = {value for key, value in encoder.items() if key.endswith("_rate")}
    assert rates == {dropout}
    size = [encoder[key] for key in ("num_blocks", "output_size", "linear_units")]
    assert [*size, encoder["attention_heads"]] == [36, 768, 3072, 4]
    warmup = parse(place / "train_warmup.yaml")
    mini_batches = warmup.num_iters_per_epoch * warmup.max_epoch
    assert mini_batches // warmup.accum_grad == 20000
    # 16 GPUs of 200 s each make an update.
    assert args.accum_grad * args.batch_bins == 16 * 200 * 16000
    text = head(place / f"train_pl_{criterion}.yaml")
    assert f"C / p = {cache * 10} unlabeled updates" in text


@pytest.mark.slow
def test_the_full_models_can_be_built(tmp_path: Path) -> None:
    """On torch's device without memory; the E-Branchformer has ESPnet's 38.47 M."""
    sizes = {}
    for file in WARMUPS:
        vocab = 31 if "slimipl" in name_of(file) else 5000
        tokens = ["<blank>", "<unk>", *map(str, range(vocab - 3)), "<sos/eos>"]
        (tmp_path / "tokens.txt").write_text("\n".join(tokens) + "\n")
        pl = file.parent / "train_pl_hard_ctc.yaml"
        arguments = ["--output_dir", str(tmp_path), "--token_type", "char"]
        arguments += ["--token_list", str(tmp_path / "tokens.txt")]
        arguments += ["--normalize", "utterance_mvn", "--normalize_conf", "{}"]
        for path, task in ((file, ASRTask), (pl, SoftPLTask)):
            with torch.device("meta"):
                model = task.build_model(parse(path, *arguments))
            sizes[name_of(path.parent), task] = sum(
                parameter.numel() for parameter in model.parameters()
            )
    assert sizes["e_branchformer", ASRTask] / 1e6 == pytest.approx(38.47, abs=0.005)
    assert sizes["conformer_ctc", ASRTask] / 1e6 == pytest.approx(31.7, abs=0.05)
    for (name, _), size in sizes.items():
        assert size == sizes[name, ASRTask]
        if name.startswith("slimipl"):
            assert (
                f"# Model: CTC only, {size / 1e6:.0f} M parameters"
                in (MODELS / name / "train_warmup.yaml").read_text()
            )


# run.sh


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the recipe in which nothing has been run."""
    return copy_recipe(tmp_path_factory.mktemp("fresh"))


def commands(text: str, log: str) -> dict[str, str]:
    """Return the command lines that write a log, by system."""
    pattern = rf"^  \S+ .*/(\w+)/{log} .*$"
    return {found[1]: found[0] for found in re.finditer(pattern, text, re.MULTILINE)}


@pytest.mark.slow
@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize("corpus", CORPORA)
def test_every_preset_is_chosen_by_name(recipe: Path, corpus: str, model: str) -> None:
    result = run(recipe, "--corpus", corpus, "--model", model, "--dry_run", "--ngpu", 4)
    assert result.returncode == 0, result.stdout
    place = f"conf/models/{model}"
    if model == "slimipl":
        place += "/ll10" if corpus == "librilight_10" else "/ls100"
    soft = "blend" if model == "slimipl" else "soft_ctc"
    training = commands(result.stdout, "train.log")
    assert list(training) == ["warmup", "hard_ctc", soft]
    for name, line in training.items():
        file = "train_warmup" if name == "warmup" else f"train_pl_{name}"
        exp = f"exp/{corpus}_{model}"
        assert f" --config {exp}/conf/{name}.yaml " in line
        join = rf"join_config\.py {place}/{file}\.yaml --out {exp}/conf/{name}\.yaml"
        assert re.search(join, result.stdout)
        assert line.endswith("--ngpu 4 --multiprocessing_distributed true ")
        assert f"--output_dir exp/{corpus}_{model}/seed1/{name} " in line
        many = corpus == "librilight_10" and model != "slimipl" and name != "warmup"
        assert ("--pl_schedule_conf unlabeled_steps=10 " in line) == many
    tokens = re.search(r"tokens\.sh (\w+) .* (\d+) $", result.stdout, re.MULTILINE)
    wanted = ("char", "500") if model == "slimipl" else ("bpe", "5000")
    if corpus == "librilight_10":
        wanted = (wanted[0], "500")
    assert tokens.groups() == wanted
    decoding = re.findall(r"^  .* --gpu 1 .*asr_inference .*$", result.stdout, re.M)
    assert len(decoding) == 3 and all("--ngpu 1 " in line for line in decoding)
    statistics = re.findall(r"^  .*--collect_stats.*$", result.stdout, re.M)
    assert len(statistics) == 1 and " --gpu 0 " in statistics[0]


@pytest.mark.slow
def test_the_control_of_a_model_goes_on_with_its_warm_up(recipe: Path) -> None:
    more = ["--run_control", "true", "--dry_run", "--stage", 9, "--stop_stage", 9]
    for model in NAMES:
        options_ = ["--corpus", "librispeech_100", "--model", model, *more]
        text = run(recipe, *options_).stdout
        line = commands(text, "train.log")["control"]
        assert "/conf/control.yaml " in line and " --init_param " in line
        assert re.search(r"/train_control\.yaml --out \S+/conf/control\.yaml", text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "no"], "--model 'no' is none of: conformer_ctc e_branchformer"),
        (["--model", "../x"], "--model '../x' must be made of letters"),
        (
            ["--model", "conformer_ctc", "--pl_config", "mpl"],
            "no configuration 'conf/models/conformer_ctc/train_pl_mpl.yaml'",
        ),
    ],
)
def test_bad_models_are_refused(
    recipe: Path, arguments: list[str], message: str
) -> None:
    result = run(recipe, *arguments)
    assert result.returncode in (1, 2)
    assert message in result.stdout


@pytest.mark.parametrize(
    ("name", "lm"),
    [
        ("decode_beam", ""),
        ("decode_hybrid", ""),
        ("decode_lm", "--lm_train_config exp/lm/config.yaml --lm_file exp/lm/1.pth"),
        ("decode_ngram", "--ngram_file exp/lm/4gram.bin"),
    ],
)
def test_decoding_configurations_reach_the_decoder(
    recipe: Path, name: str, lm: str
) -> None:
    required = ["--output_dir", "exp"]
    required += ["--data_path_and_name_and_type", "wav.scp,speech,sound"]
    file = RECIPE / f"conf/{name}.yaml"
    known = get_parser().parse_args(["--config", str(file), *required])
    assert known.beam_size == 20
    arguments = ["--stage", 10, "--stop_stage", 10, "--dry_run"]
    arguments += ["--inference_config", f"conf/{name}.yaml", "--inference_args", lm]
    result = run(recipe, *arguments)
    assert result.returncode == 0, result.stdout
    lines = re.findall(r"^  .*asr_inference.*$", result.stdout, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        assert f"--config conf/{name}.yaml " in line and f" {lm}" in line


# The miniature


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LibriSpeech and Libri-light's ten hours, made of tones."""
    root = tmp_path_factory.mktemp("corpus")
    librispeech_runs.write_librispeech(root)
    librispeech_runs.write_finetuning(root)
    return root


@pytest.fixture(scope="module")
def runs(
    corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, subprocess.CompletedProcess[str]]]:
    """One run of each model, twelve stages each."""
    return librispeech_runs.run_all(tmp_path_factory.mktemp("runs"), corpus)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("librilight_10", "e_branchformer"),
        ("librilight_10", "conformer_ctc"),
        ("librispeech_100", "slimipl"),
    ],
)
def test_the_data_of_the_miniature(
    recipe: Path, corpus: Path, name: str, model: str
) -> None:
    """Stages 1 to 3 of those presets that are not run from end to end."""
    small = next(preset for preset in SMALL if preset.model == model)
    small = librispeech_runs.dataclasses.replace(small, corpus=name)
    arguments = librispeech_runs.options_of(small, corpus)
    result = run(recipe, *arguments, "--stop_stage", 3)
    assert result.returncode == 0, result.stdout
    data = recipe / "data" / name
    counts = {
        part: len((data / part / "wav.scp").read_text().splitlines())
        for part in ("labeled", "unlabeled", "dev", "test")
    }
    # Libri-light's 14 chapters are part of the 960 h, and are dropped there.
    labeled, unlabeled = (28, 40 - 28) if name == "librilight_10" else (16, 24)
    assert counts == dict(labeled=labeled, unlabeled=unlabeled, dev=8, test=8)
    assert not (data / "unlabeled" / "text").exists()
    if model != "slimipl":
        perturbed = (data / "labeled_sp" / "wav.scp").read_text().splitlines()
        assert len(perturbed) == 3 * labeled


@pytest.mark.slow
@pytest.mark.parametrize("preset", SMALL, ids=lambda preset: preset.name)
def test_all_stages_of_a_preset(preset: librispeech_runs.Preset, runs: Any) -> None:
    recipe, result = runs[preset.model]
    assert result.returncode == 0, result.stdout
    headings = re.findall(r"^Stage (\d+): (?!done)", result.stdout, re.MULTILINE)
    assert headings == [str(number) for number in range(1, 13)]
    exp = recipe / "exp" / preset.name
    table = (exp / "RESULTS.md").read_text()
    for system in ("warmup", preset.pl):
        assert re.search(rf"^\| {system} \| 1 \| [\d.]+ ±", table, re.MULTILINE)
    for name in ("dev-clean", "dev-other", "test-clean", "test-other"):
        assert name in table
    conf = read(exp / "seed1" / preset.pl / "config.yaml")
    full = read(MODELS / preset.directory / f"train_pl_{preset.pl}.yaml")
    for key in ("encoder", "optim", "scheduler", "pl_criterion", "pl_teacher"):
        assert conf[key] == full[key].lower()  # As ESPnet writes it.
    assert (exp / "seed1" / preset.pl / f"{preset.pl}.zip").is_file()
    if preset.model == "conformer_ctc":
        log = (exp / "seed1" / preset.pl / "train.log").read_text()
        (kept,) = re.findall(r"1epoch results: .* pl_kept=([\d.e+-]+)", log)
        assert float(kept) > 0.1, "nothing was learned from unlabeled data"


@pytest.mark.slow
def test_decoding_with_a_neural_language_model(runs: Any, corpus: Path) -> None:
    recipe, result = runs["conformer_ctc"]
    assert result.returncode == 0, result.stdout
    dump = "dump/librispeech_100_conformer_ctc"
    small = "--lm_conf att_unit=16 --lm_conf embed_unit=16 --lm_conf unit=16 "
    small += "--lm_conf head=2 --lm_conf layer=1 --max_epoch 1 --num_workers 0 "
    small += "--use_tensorboard false --batch_bins 100000"
    words = ["local/train_lm.sh", f"{dump}/token_list/bpe", f"{dump}/labeled/text"]
    words += [f"{dump}/dev/text", "exp/lm", *small.split()]
    trained = subprocess.run(
        words,
        cwd=recipe,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert trained.returncode == 0, trained.stderr[-3000:]
    small_preset = next(p for p in SMALL if p.model == "conformer_ctc")
    lm = "--lm_train_config exp/lm/config.yaml --lm_file exp/lm/valid.loss.ave.pth"
    arguments = librispeech_runs.options_of(small_preset, corpus)
    arguments += ["--inference_config", "conf/decode_lm.yaml", "--train_jobs", 1]
    arguments += ["--inference_args", f"{lm} --beam_size 2", "--stage", 10]
    again = run(recipe, *arguments, "--stop_stage", 10, timeout=300)
    assert again.returncode == 0, again.stdout
    place = recipe / "exp/librispeech_100_conformer_ctc/seed1/warmup/decode"
    assert "lm_weight: 0.3" in (recipe / "conf/decode_lm.yaml").read_text()
    assert "lm" in (place / "log/decode.1.log").read_text()
    assert len((place / "text").read_text().splitlines()) == 16
