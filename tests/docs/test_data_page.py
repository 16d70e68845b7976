"""docs/data.md: its commands are run, in a recipe with data of every form."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from espnet_softpl.bin import format_audio
from espnet_softpl.data import tables
from espnet_softpl.training.task import SoftPLTask
from tests import ROOT
from tests.support.audio_forms import (
    write_archive,
    write_features,
    write_lines,
    write_pipes,
    write_plain,
    write_segments,
)
from tests.support.espnet_runs import PL, config, make_data
from tests.support.recipe import copy_recipe, environment

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
# What needs a public corpus is tried by test_blocks.py only, without running.
BLOCKS = [
    block
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    if "--words" not in block
]
# The first and the last are the same letter, written in two ways.
LETTERS = ["\u03ac", *"\u03b1\u03b2\u03b3\u03b4\u03b5\u03b6\u03b7", "\u03b1\u0301"]
CHINESE = ["\u4f60\u597d\u5417", "\u597d\u4f60", "\u6211\u597d"]
LATIN = ["A B", "B C", "C A"]


def greek(count: int = 40) -> list[str]:
    """Make up sentences; an accent may be a character of its own or not."""
    rng = np.random.default_rng(5)
    words = ["".join(rng.choice(LETTERS, 4)) for _ in range(5 * count)]
    return [" ".join(words[start : start + 5]) for start in range(0, 5 * count, 5)]


def write_recipe_data(root: Path) -> None:
    """Write what the page calls the user's own directories."""
    languages = {"": LATIN, "_greek": greek(), "_chinese": CHINESE}
    for number, (name, texts) in enumerate(languages.items()):
        train = f"data/{name.strip('_') or 'train'}"
        for place, part in enumerate((train, f"data/dev{name}", f"data/test{name}")):
            write_plain(root / part, texts, seed=1000 + 200 * number + 50 * place)
    write_plain(root / "data/extra", 3, seed=2000)
    write_plain(root / "data/studio", 3, seed=2100, rate=44100, channels=2)
    write_segments(root / "data/calls", seed=2200)
    write_pipes(root / "data/pipes", seed=2300)


def write_dump(root: Path) -> None:
    """Write what ESPnet's recipes leave, and configurations of tiny trainings."""
    data = make_data(root / "corpus")
    write_plain(root / "dump/raw/extra", 8, seed=3000)
    write_archive(root / "dump/raw_ark/extra", "flac", seed=3100, count=8)
    names = [f"u{number}" for number in range(8)]
    write_features(root / "dump/fbank/extra/feats.scp", names, 20, seed=3200)
    options = {**data.options(unlabeled=False), **config(**PL, max_epoch=1)}
    (root / "conf/train_pl.yaml").write_text(yaml.safe_dump(options))
    for name in ("frontend", "frontend_conf"):
        options.pop(name, None)
    options["frontend"] = None
    for part, key in (("labeled", "train"), ("dev", "valid")):
        text = data.path(part, "text")
        names = list(tables.read_scp(text))
        scp = write_features(root / f"dump/fbank/{part}.scp", names, 20, seed=3300)
        spec = [[str(scp), "speech", "kaldi_ark"], [text, "text", "text"]]
        options[f"{key}_data_path_and_name_and_type"] = spec
        shape = write_lines(root / f"dump/{part}_shape", dict.fromkeys(names, "60,20"))
        shapes = [str(shape), data.path(part, "text_shape")]
        options[f"{key}_shape_file"] = shapes
    (root / "conf/train_pl_fbank.yaml").write_text(yaml.safe_dump(options))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = copy_recipe(tmp_path_factory.mktemp("docs"))
    write_recipe_data(root)
    write_dump(root)
    return root


def test_the_page_shows_every_form() -> None:
    assert len(BLOCKS) == 11
    assert {block.split()[0] for block in BLOCKS} == {"./run.sh", "python"}


def run_here(command: list[str]) -> None:
    """Run a Python command of the package in this process."""
    module, arguments = command[2], command[3:]
    assert command[:2] == ["python", "-m"]
    if module == "espnet_softpl.bin.train":
        SoftPLTask.main(cmd=arguments)
    else:
        assert module == "espnet_softpl.bin.format_audio"
        assert format_audio.main(arguments) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:60])
def test_a_command_of_the_page_works(
    recipe: Path, block: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run them in the page's order: the last takes what the one before wrote."""
    monkeypatch.chdir(recipe)
    command = shlex.split(block.replace("\\\n", " "))
    if command[0] != "./run.sh":
        run_here(command)
        option = "--output_dir" if "--output_dir" in command else "--target"
        out = Path(command[command.index(option) + 1])
        assert (out / "1epoch.pth").exists() or (out / "utt2num_samples").exists()
        return
    result = subprocess.run(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout
    corpus = command[command.index("--corpus") + 1]
    check_recipe(recipe, corpus)


def check_recipe(recipe: Path, corpus: str) -> None:
    """Check what the recipe's stages left of a corpus."""
    dump = recipe / "dump" / corpus
    unlabeled = tables.read_scp(recipe / "data" / corpus / "unlabeled" / "wav.scp")
    assert len(unlabeled) == 3
    assert {soundfile.info(file).frames > 0 for file in unlabeled.values()} == {True}
    if corpus == "my_mixture":
        (file, *_) = tables.read_scp(dump / "unlabeled" / "wav.scp").values()
        info = soundfile.info(file)
        assert (info.samplerate, info.channels, info.frames) == (16000, 1, 9600)
    if corpus == "my_chinese":
        tokens = (dump / "token_list/char/tokens.txt").read_text().split()
        assert set(tokens[2:-1]) == set("".join(CHINESE))
    if corpus == "my_greek":
        tokens = (dump / "token_list/bpe/tokens.txt").read_text().split()
        # All accents are in their letters.
        assert len(tokens) == 100 and "\u03ac" in tokens
        assert "\u0301" not in "".join(tokens)
