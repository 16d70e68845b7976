"""The recipe takes the user's directories of every form, and scripts of every kind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from espnet_softpl.data import tables
from tests import ROOT
from tests.support import warm_python
from tests.support.audio_forms import (
    read_entries,
    write_archive,
    write_lines,
    write_pipes,
    write_plain,
    write_segments,
)

RECIPE = ROOT / "egs2" / "librispeech_softpl"


def prepare(tmp_path: Path, *options: object) -> subprocess.CompletedProcess[str]:
    command = [warm_python.executable(), str(RECIPE / "local" / "prepare_kaldi.py")]
    for part in ("labeled", "unlabeled", "dev", "test"):
        command += [f"--{part}", str(tmp_path / part)]
    command += ["--out", str(tmp_path / "out"), "--nj", "1", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_recipe_takes_every_form(tmp_path: Path) -> None:
    write_segments(tmp_path / "labeled", seed=100)
    words = {f"call{n}": "cafe\u0301  \u4f60\u597d" for n in ("1-1", "1-2", "2-1")}
    write_lines(tmp_path / "labeled" / "text", words)
    write_pipes(tmp_path / "unlabeled", seed=200)
    write_archive(tmp_path / "dev", "flac", seed=300)
    write_archive(tmp_path / "test", "kaldi", seed=400)
    for part in ("dev", "test"):
        names = read_entries(tmp_path / part)
        write_lines(tmp_path / part / "text", dict.fromkeys(names, "A"))
    refused = prepare(tmp_path)
    assert refused.returncode == 1 and "--allow_pipes true" in refused.stderr
    result = prepare(tmp_path, "--allow_pipes", "true")
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out"
    for part in ("labeled", "unlabeled", "dev", "test"):
        files = read_entries(out / part)
        assert len(files) == 3
        assert all(soundfile.info(path).channels == 1 for path in files.values())
    texts = tables.read_scp(out / "labeled" / "text")
    assert set(texts.values()) == {"caf\u00e9 \u4f60\u597d"}


@pytest.mark.slow
def test_one_recording_in_two_sets_is_found_by_its_parts(tmp_path: Path) -> None:
    for part in ("labeled", "dev", "test"):
        write_plain(tmp_path / part, ["A"], seed=ord(part[0]))
    write_segments(tmp_path / "unlabeled", seed=1)
    calls = write_segments(tmp_path / "other", seed=1)
    segments = (calls / "segments").read_text().replace("call1-1", "again")
    (tmp_path / "dev" / "segments").write_text(segments)
    (tmp_path / "dev" / "wav.scp").write_text((calls / "wav.scp").read_text())
    names = ("again", "call1-2", "call2-1")
    write_lines(tmp_path / "dev" / "text", dict.fromkeys(names, "A"))
    result = prepare(tmp_path)
    assert result.returncode == 1
    assert "3 utterances of the unlabeled set are also in the dev set" in result.stderr


def test_scores_of_a_script_without_spaces(tmp_path: Path) -> None:
    sys.path.insert(0, str(RECIPE / "local"))
    from espnet_softpl.commands import scoring

    hello = "\u4f60\u597d"
    refs, hyps = [f"{hello}\u5417", hello], [hello, hello]
    assert scoring.score(refs, hyps, "char").rate == pytest.approx(20.0)
    assert scoring.score(refs, hyps, "word").rate == pytest.approx(50.0)


def test_bpe_leaves_letters_as_they_are(tmp_path: Path) -> None:
    sys.path.insert(0, str(RECIPE / "local"))
    import train_bpe
    from espnet2.text.sentencepiece_tokenizer import SentencepiecesTokenizer

    # A ligature, a number in a circle, a Thai vowel: NFKC would change them.
    words = ["\ufb01\u03ac \u03b1\u03b2 \u2460", "\u03b1\u03b2 \u03ac \u0e33\u0e01"]
    texts = {f"u{i}": words[i % 2] for i in range(20)}
    text = write_lines(tmp_path / "text", texts)
    tokens, model = tmp_path / "tokens.txt", tmp_path / "bpe.model"
    train_bpe.train(text, tokens, model, 11)
    listed = tokens.read_text().splitlines()
    assert listed[0] == "<blank>" and "\ufb01" in "".join(listed)
    tokenizer = SentencepiecesTokenizer(str(model))
    for sentence in words:
        pieces = tokenizer.text2tokens(sentence)
        assert set(pieces) <= set(listed)
        assert tokenizer.tokens2text(pieces) == sentence
