"""A corpus of LibriSpeech's shape, made of tones, and the recipe run on it."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import shutil
import subprocess
from pathlib import Path

import numpy as np
import soundfile

from tests.support.recipe import copy_recipe, run

RATE = 16000
PITCHES = {letter: 250.0 * 1.45**number for number, letter in enumerate("ABCDEF")}
SETS = {  # Speakers of each set.
    "train-clean-100": range(100, 108),
    "train-clean-360": range(200, 204),
    "train-other-500": range(300, 308),
    "dev-clean": range(400, 402),
    "dev-other": range(410, 412),
    "test-clean": range(500, 502),
    "test-other": range(510, 512),
}
# A model of a few thousand weights, one epoch of four mini-batches.
TINY = (
    "--num_workers 0 --accum_grad 2 --num_iters_per_epoch 4 --max_epoch 1 "
    "--batch_bins 150000 --valid_batch_bins 400000 --keep_nbest_models 1 "
    "--use_tensorboard false --encoder_conf output_size=16 "
    "--encoder_conf attention_heads=2 --encoder_conf linear_units=16 "
    "--encoder_conf num_blocks=2"
)


@dataclasses.dataclass(frozen=True)
class Preset:
    """One of the six presets, and what makes it small."""

    corpus: str
    model: str
    directory: str  # Of its configurations, below conf/models.
    pl: str
    train_args: str = TINY
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its directory's name below exp/."""
        return f"{self.corpus}_{self.model}"


SMALL = (
    Preset(
        "librilight_10",
        "slimipl",
        "slimipl/ll10",
        "blend",
        # A model this small says nothing, at which the guard would end it.
        options=("--pl_args", "--pl_cache_conf size=2 --pl_guard warn"),
    ),
    Preset(
        "librispeech_100",
        "conformer_ctc",
        "conformer_ctc",
        "hard_ctc",
        # Long enough for a seed that says something, so that labels are learned.
        f"{TINY} --encoder_conf cnn_module_kernel=3 --num_iters_per_epoch 100 "
        "--accum_grad 1 --encoder_conf num_blocks=1 --optim_conf lr=0.01 "
        "--scheduler_conf warmup_steps=30",
        # Labels of a model this small drift into blank, which the preset stops.
        ("--nbpe", "16", "--pl_args", "--pl_guard warn"),
    ),
    Preset(
        "librispeech_100",
        "e_branchformer",
        "e_branchformer",
        "soft_ctc",
        f"{TINY} --encoder_conf cgmlp_linear_units=16 "
        "--encoder_conf cgmlp_conv_kernel=3 --encoder_conf merge_conv_kernel=3 "
        "--decoder_conf attention_heads=2 --decoder_conf linear_units=16 "
        "--decoder_conf num_blocks=1",
        ("--nbpe", "16", "--inference_args", "--beam_size 2"),
    ),
)


def write_chapter(directory: Path, chapter: str, rng: np.random.Generator) -> None:
    """Write two utterances and their transcripts, as `<speaker>/<chapter>/` has."""
    directory.mkdir(parents=True)
    lines = []
    for number in range(2):
        words = ["".join(rng.choice(list(PITCHES), 3)) for _ in range(3)]
        seconds = np.arange(int(0.12 * RATE)) / RATE
        tones = [np.sin(2 * np.pi * PITCHES[c] * seconds) for c in "".join(words)]
        audio = 0.2 * np.concatenate(tones)
        audio += 0.01 * rng.standard_normal(audio.size)
        key = f"{chapter}-{number:04d}"
        soundfile.write(directory / f"{key}.flac", audio, RATE)
        lines.append(f"{key} {' '.join(words)}\n")
    (directory / f"{chapter}.trans.txt").write_text("".join(lines))


def write_librispeech(root: Path) -> Path:
    """Write the seven sets, with the files that the archives have."""
    rng = np.random.default_rng(11)
    for name, speakers in SETS.items():
        for speaker in speakers:
            chapter = f"{speaker}-{speaker + 1000}"
            place = root / "LibriSpeech" / name / str(speaker) / str(speaker + 1000)
            write_chapter(place, chapter, rng)
    (root / "LibriSpeech" / "SPEAKERS.TXT").write_text("; ID |SEX| SUBSET\n")
    return root / "LibriSpeech"


def write_finetuning(root: Path) -> Path:
    """Write Libri-light's ten hours: copies of chapters of LibriSpeech."""
    target = root / "librispeech_finetuning"
    for kind, source in (("clean", "train-clean-100"), ("other", "train-other-500")):
        for number, speaker in enumerate(SETS[source][:7]):
            part = f"1h/{number}/{kind}" if number < 6 else f"9h/{kind}"
            place = root / "LibriSpeech" / source / str(speaker)
            shutil.copytree(place, target / part / str(speaker))
    return target


def options_of(preset: Preset, corpus: Path) -> list[object]:
    """Return what a small run of a preset is started with."""
    roots = f"{corpus}/LibriSpeech"
    if preset.corpus == "librilight_10":
        roots += f" {corpus}/librispeech_finetuning"
    options: list[object] = ["--corpus", preset.corpus, "--model", preset.model]
    options += ["--librispeech", roots, "--pl_config", preset.pl]
    return [*options, "--train_args", preset.train_args, *preset.options]


def run_all(
    root: Path, corpus: Path
) -> dict[str, tuple[Path, subprocess.CompletedProcess[str]]]:
    """Run the three small presets from end to end, two at a time.

    Returns:
        The recipe's directory and the result, by model.
    """
    results = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for preset in SMALL:
            recipe = copy_recipe(root / preset.model)
            arguments = [*options_of(preset, corpus), "--train_jobs", 1, "--nj", 1]
            job = pool.submit(run, recipe, *arguments, timeout=900)
            results[preset.model] = (recipe, job)
    return {model: (recipe, job.result()) for model, (recipe, job) in results.items()}
