"""A recipe directory with a trained model, and `add_pl` run in it."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from espnet2.bin.asr_inference import Speech2Text

from espnet_softpl.bin import add_pl
from espnet_softpl.bin import train as train_bin
from tests.support.espnet_runs import RATE, Data

TINY = dict(num_iters_per_epoch=4, max_epoch=1)
# So tiny a model may say nothing, at which the guard would end the run in the end.
SILENT = ("--pl_guard", "warn")


DATA = Data(Path("data"))


NOISE = 0.1 * np.random.default_rng(0).standard_normal(RATE)


@contextlib.contextmanager
def working_in(directory: Path) -> Iterator[None]:
    """Work in a directory, for fixtures that outlive a test's monkeypatch."""
    before = os.getcwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def options(out: Path, *more: Any, exp: str | Path = "exp/asr_base") -> list[str]:
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
    train_bin.main([*words, *SILENT])
    return Path(words[words.index("--output_dir") + 1])


def recognize(exp: Path, model: str = "valid.cer_ctc.ave.pth") -> str:
    """Recognize one utterance by stock ESPnet."""
    assert yaml.safe_load((exp / "config.yaml").read_text())["model"] == "espnet"
    decode = Speech2Text(
        str(exp / "config.yaml"), str(exp / model), beam_size=1, ctc_weight=1.0
    )
    audio, _ = soundfile.read("data/dev/dev-000.wav")
    return decode(audio)[0][0]


def changed_base(tmp_path: Path, **changes: Any) -> Path:
    """Copy the base model, with another configuration; None removes a key."""
    exp = tmp_path / "changed"
    shutil.copytree("exp/asr_base", exp, symlinks=True)
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


def pl_plain(value: Any) -> Any:
    """Return a value as YAML has it."""
    return yaml.safe_load(yaml.safe_dump(value))


ANEW = ("--labeled", "data/labeled", "--valid", "data/dev")


def from_archive(out: Path, archive: Any, *more: Any) -> list[str]:
    """Return the command line of add_pl for an archive."""
    wanted = options(out, *ANEW, "--unpack_dir", out / "unpacked", *more)
    return ["--archive", str(archive), *wanted[2:]]


def refusal_of_base(capsys, directory: Path, **changes) -> str:
    """Start from a changed base model; return the refusal, which writes nothing."""
    exp = changed_base(directory, **changes)
    before = sorted(directory.iterdir())
    error = refusal(capsys, *options(directory, exp=exp))
    assert sorted(directory.iterdir()) == before
    return error
