"""The synthesizer: every voice exists, and refusals are noticed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from espnet_softpl.bin.make_mini_corpus import main
from espnet_softpl.commands.corpus import espeak, mini
from espnet_softpl.commands.corpus.build import CorpusError


def test_missing_synthesizer_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["--out", str(tmp_path / "new")]) == 1
    assert "pip install 'espnet_softpl[mini]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_every_voice_exists_and_refusals_are_noticed() -> None:
    with espeak.Synthesizer() as synthesizer:
        for each in mini.mini_corpus(0, 1.0).speakers:
            synthesizer.set_voice(each.voice, each.rate, each.pitch, each.pitch_range)
        with pytest.raises(CorpusError, match="xx-none"):
            synthesizer.set_voice("xx-none+f3", 170, 50, 50)
        with pytest.raises(CorpusError, match="silence"):
            synthesizer.speak(" ", seed=1)


def test_long_installation_path_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "_MAX_DATA_PATH", 1)
    with espeak.Synthesizer() as synthesizer:
        synthesizer.set_voice("en-us+f3", 170, 50, 50)
        assert len(synthesizer.speak("hello", seed=1)) > 0.2 * espeak.SYNTHESIS_RATE
        link = Path(synthesizer._link.name)
        assert link.is_dir()
    assert not link.exists()
