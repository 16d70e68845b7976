"""The plan of the embedded corpus: voices, sentences, seeds."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np

from espnet_softpl.commands.corpus import mini


def test_no_voice_is_in_two_sets() -> None:
    """Neither the same nor nearly the same, by the definitions that eSpeak NG reads."""
    import espeakng_loader

    voices = Path(espeakng_loader.get_data_path()) / "voices" / "!v"

    def definition(variant: str) -> set[str]:
        lines = (voices / variant).read_text("utf-8", errors="replace").splitlines()
        bare = (re.split("//|#", line)[0] for line in lines)
        stripped = (" ".join(line.split()) for line in bare)
        ignored = ("name", "language", "gender", "variant")
        return {line for line in stripped if line and not line.startswith(ignored)}

    for first, second in itertools.combinations(mini.SETS.values(), 2):
        for one, other in itertools.product(first.variants, second.variants):
            assert one != other
            ours, theirs = definition(one), definition(other)
            assert len(ours & theirs) < 0.5 * len(ours | theirs), (one, other)


def test_plan_has_many_unseen_voices() -> None:
    speakers = mini.mini_corpus(0, 1.0).speakers
    assert len({each.speaker for each in speakers}) == len(speakers)
    for name, count, accents in (
        ("train-labeled", 4, 2),
        ("train-unlabeled", 80, 8),
        ("dev", 12, 8),
        ("test", 12, 8),
    ):
        voices = [each.voice for each in speakers if each.set_name == name]
        assert len(voices) == len(set(voices)) == count
        assert len({voice.split("+")[0] for voice in voices}) == accents
        assert sum(each.utterances for each in speakers if each.set_name == name) > 120
    larger = mini.mini_corpus(0, mini.MAX_SCALE).speakers
    assert len({each.speaker for each in larger}) == len(larger) == 1080


def test_sentences_cover_all_letters_and_seldom_repeat() -> None:
    draw = np.random.default_rng(0)
    sentences = [mini.make_sentence(draw) for _ in range(1000)]
    words = {word for sentence in sentences for word in sentence.split()}
    assert len(words) == 42
    assert set("".join(words)) == set("abcdefghijklmnopqrstuvwxyz'")
    assert sum(bool(re.search(r"(.)\1", word)) for word in words) >= 10
    assert len(set(sentences)) > 900
