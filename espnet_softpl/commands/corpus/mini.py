"""The embedded corpus: eSpeak NG voices that read sentences of a small grammar."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from espnet_softpl.commands.corpus.build import Corpus
from espnet_softpl.commands.corpus.conditions import Conditions
from espnet_softpl.commands.corpus.librispeech import Speaker, Utterance

FORMAT = 1


"""Raised by every change of the code that alters the audio or the text."""


SAMPLE_RATE = 16000


"""Samples per second."""


TITLE = "mini: sentences of a small grammar, synthesized by eSpeak NG"


"""First line of SPEAKERS.TXT."""


MAX_SCALE = 10.0


"""Largest size of the corpus, as a multiple of the default."""


# Upper case words are slots; all slots are filled with words of WORDS.
TEMPLATES = (
    "the ADJECTIVE NOUN will VERB the NOUN",
    "WHO VERB the ADJECTIVE NOUN WHEN",
    "WHO don't VERB the NOUN PLACE the NOUN",
    "can WHO VERB my ADJECTIVE NOUN",
    "the NOUN PLACE the NOUN is ADJECTIVE",
    "my NOUN is ADJECTIVE and ADJECTIVE WHEN",
)


"""Sentences, each as likely as the others."""


WORDS = {
    "ADJECTIVE": "small happy yellow quiet brown lazy green",
    "NOUN": "dog letter teacher apple river garden box queen book kitten jacket house",
    "VERB": "see carry follow want keep find",
    "WHO": "we they you",
    "PLACE": "in near behind under",
    "WHEN": "today again slowly",
}


"""What fills the slots; 42 words with those of the templates, every letter used."""


@dataclass(frozen=True)
class SetTable:
    """What one set is made of; ranges (low, high) are drawn from evenly.

    Attributes:
        first_speaker: Id of the first speaker; the others count up.
        speakers: Number of speakers at scale 1.
        utterances: Utterances of each speaker at scale 1.
        accents: eSpeak NG languages, dealt to the speakers in a seeded order.
        variants: eSpeak NG voice variants, in no other set; reused with another
            accent where there are more speakers.
        rate: Words per minute.
        pitch: 0 to 99, 50 is the variant's own.
        pitch_range: 0 to 99, 50 is the variant's own.
        conditions: Room, microphone, noise and level.
    """

    first_speaker: int
    speakers: int
    utterances: int
    accents: tuple[str, ...]
    variants: tuple[str, ...]
    rate: tuple[int, int]
    pitch: tuple[int, int]
    pitch_range: tuple[int, int]
    conditions: Conditions


_ALL_ACCENTS = (
    "en",
    "en-us",
    "en-029",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-us-nyc",
)


_CLEAN = Conditions(
    room_share=0.1,
    reverberation_seconds=(0.1, 0.2),
    direct_to_room_db=(6.0, 12.0),
    tilt=(-0.1, 0.1),
    snr_db=(25.0, 40.0),
    noise_color=(0.0, 0.5),
    level_db=(-26.0, -20.0),
    silence_seconds=(0.05, 0.2),
)


_BROAD = Conditions(
    room_share=0.7,
    reverberation_seconds=(0.1, 0.35),
    direct_to_room_db=(0.0, 10.0),
    tilt=(-0.5, 0.5),
    snr_db=(6.0, 20.0),
    noise_color=(0.0, 1.2),
    level_db=(-32.0, -18.0),
    silence_seconds=(0.05, 0.3),
)


def _broad_set(
    first_speaker: int, speakers: int, utterances: int, variants: str
) -> SetTable:
    return SetTable(
        first_speaker=first_speaker,
        speakers=speakers,
        utterances=utterances,
        accents=_ALL_ACCENTS,
        variants=tuple(variants.split()),
        rate=(140, 205),
        pitch=(25, 75),
        pitch_range=(25, 80),
        conditions=_BROAD,
    )


# Variants that are copies of one another with small changes (adam and benjamin, the
# klatts, max and RicishayMax) stay in one set, so that dev and test are truly unseen.
# Whispers, robots and monsters are left out.
SETS: dict[str, SetTable] = {
    "train-labeled": SetTable(
        first_speaker=1001,
        speakers=4,
        utterances=32,
        accents=("en-us", "en"),
        variants=("m3", "f2", "f5", "m7"),
        rate=(155, 180),
        pitch=(45, 55),
        pitch_range=(45, 55),
        conditions=_CLEAN,
    ),
    "train-unlabeled": _broad_set(
        2001,
        80,
        12,
        "m1 f4 Alex Andrea adam aunty Denis anika Gene grandma klatt steph Jacky zac "
        "m5 Diogo max Marco Mario Mike RicishayMax Reed Storm Tweaky benjamin "
        "Nguyen croak david ed edward fast grandpa gustave john kaukovalta klatt3 "
        "klatt5 m4 m6 m8 Michael michel miguel mike2 klatt2 klatt4 norbert caleb rob "
        "Henrique Hugo Gene2 RicishayMax2 RicishayMax3 edward2 klatt6 steph2 steph3",
    ),
    "dev": _broad_set(
        3001,
        12,
        14,
        "f1 Andy linda boris Annie Lee marcelo iven pedro sandro travis announcer",
    ),
    "test": _broad_set(
        4001,
        12,
        14,
        "f3 m2 belinda victor Alicia paul shelby quincy robert pablo antonio ian",
    ),
}


"""The corpus at scale 1."""


FEMALE = frozenset(
    "f1 f2 f3 f4 f5 Alicia Andrea Annie anika aunty belinda grandma linda shelby "
    "steph steph2 steph3".split()
)


"""Variants that are women's voices."""


@dataclass(frozen=True)
class MiniSpeaker(Speaker):
    """A speaker with a voice.

    Attributes:
        seed: Seed of the corpus.
        voice: eSpeak NG language and variant.
        rate: Words per minute.
        pitch: 0 to 99.
        pitch_range: 0 to 99.
    """

    seed: int
    voice: str
    rate: int
    pitch: int
    pitch_range: int


def mini_corpus(seed: int, scale: float) -> Corpus:
    """Plans the corpus.

    Args:
        seed: Seed of everything random, >= 0.
        scale: Size as a multiple of the default, above 0 to MAX_SCALE.

    Returns:
        What to build.

    Raises:
        ValueError: If an argument is out of its range.
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, not {seed}")
    if not 0 < scale <= MAX_SCALE:
        raise ValueError(f"scale must be above 0 and at most {MAX_SCALE}, not {scale}")
    speakers = [each for name in SETS for each in _speakers(name, seed, scale)]
    tables = hashlib.sha256(repr((SETS, TEMPLATES, WORDS)).encode()).hexdigest()[:16]
    settings = {"format": FORMAT, "tables": tables, "seed": seed, "scale": scale}
    return Corpus(
        name="mini",
        title=TITLE,
        settings=settings,
        speakers=speakers,
        make=make_utterances,
        sample_rate=SAMPLE_RATE,
        preload=("espnet_softpl.corpus.acoustics", "espnet_softpl.corpus.espeak"),
    )


def _speakers(set_name: str, seed: int, scale: float) -> list[MiniSpeaker]:
    """Deals accents, variants and manners of speaking to the speakers of a set."""
    table = SETS[set_name]
    count = max(1, round(table.speakers * scale))
    total = table.speakers * table.utterances * scale
    accents = _generator(seed, set_name).permutation(table.accents)
    speakers = []
    for index in range(count):
        number = table.first_speaker + index
        reuse, position = divmod(index, len(table.variants))
        variant = table.variants[position]
        # The shift by reuse gives a variant another accent each time.
        voice = f"{accents[(index + reuse) % len(accents)]}+{variant}"
        draw = _generator(seed, set_name, number)
        rate, pitch, span = (
            int(draw.integers(*each, endpoint=True))
            for each in (table.rate, table.pitch, table.pitch_range)
        )
        speakers.append(
            MiniSpeaker(
                set_name=set_name,
                speaker=number,
                sex="F" if variant in FEMALE else "M",
                name=f"{voice} rate {rate} pitch {pitch} range {span}",
                utterances=max(3, round(total / count)),
                seed=seed,
                voice=voice,
                rate=rate,
                pitch=pitch,
                pitch_range=span,
            )
        )
    return speakers


def make_sentence(generator: np.random.Generator) -> str:
    """Returns a random sentence of the grammar in lower case."""
    words = []
    used: set[str] = set()
    for word in str(generator.choice(TEMPLATES)).split():
        if word in WORDS:
            # A word said twice in a sentence would make it odd ("the dog in the dog").
            choices = [each for each in WORDS[word].split() if each not in used]
            word = str(generator.choice(choices))
            used.add(word)
        words.append(word)
    return " ".join(words)


def make_utterances(speaker: MiniSpeaker) -> Iterator[Utterance]:
    """Synthesizes all utterances of a speaker, in a process that made no other.

    Args:
        speaker: Who speaks.

    Yields:
        The utterances in order.

    Raises:
        CorpusError: If the synthesizer is missing or fails.
    """
    # Imported here: they take a second, and planning needs none of them.
    from scipy.signal import resample_poly

    from espnet_softpl.commands.corpus.acoustics import record
    from espnet_softpl.commands.corpus.espeak import SYNTHESIS_RATE, Synthesizer

    conditions = SETS[speaker.set_name].conditions
    ratio = Fraction(SAMPLE_RATE, SYNTHESIS_RATE)
    with Synthesizer() as synthesizer:
        synthesizer.set_voice(
            speaker.voice, speaker.rate, speaker.pitch, speaker.pitch_range
        )
        for index in range(speaker.utterances):
            key = (speaker.seed, speaker.set_name, speaker.speaker, index + 1)
            draw = _generator(*key)
            sentence = make_sentence(draw)
            speech = synthesizer.speak(sentence, int(draw.integers(1, 2**31)))
            speech = resample_poly(_trim(speech), ratio.numerator, ratio.denominator)
            samples = record(speech, SAMPLE_RATE, conditions, draw)
            yield Utterance(sentence.upper(), samples)


def _trim(speech: np.ndarray) -> np.ndarray:
    """Cuts off the synthesizer's silences, so that silences are ours alone."""
    loud = np.flatnonzero(np.abs(speech) > 0.01 * np.abs(speech).max())
    return speech[loud[0] : loud[-1] + 1]


def _generator(
    seed: int, set_name: str, speaker: int = 0, utterance: int = 0
) -> np.random.Generator:
    """Returns a generator of its own for each set, speaker and utterance (from 1)."""
    key = (seed, zlib.crc32(set_name.encode()), speaker, utterance)
    return np.random.default_rng(np.random.SeedSequence(key))
