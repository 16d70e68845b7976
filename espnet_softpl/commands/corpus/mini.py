"""The embedded corpus: eSpeak NG voices that read sentences of a small grammar."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from espnet_softpl.commands.corpus.acoustics import Conditions, record, resample
from espnet_softpl.commands.corpus.build import Corpus, Speaker, Utterance
from espnet_softpl.commands.corpus.espeak import SYNTHESIS_RATE, Synthesizer

FORMAT = 1  # Raised by every change of the code that alters the audio or the text.
SAMPLE_RATE = 16000  # Samples per second.
MAX_SCALE = 10.0  # Largest size of the corpus, as a multiple of the default.
# Sentences, each as likely as the others. Upper case words are slots, filled with
# words of WORDS.
TEMPLATES = (
    "the ADJECTIVE NOUN will VERB the NOUN",
    "WHO VERB the ADJECTIVE NOUN WHEN",
    "WHO don't VERB the NOUN PLACE the NOUN",
    "can WHO VERB my ADJECTIVE NOUN",
    "the NOUN PLACE the NOUN is ADJECTIVE",
    "my NOUN is ADJECTIVE and ADJECTIVE WHEN",
)
# With the words of the templates they are 42, and every letter is used.
WORDS = {
    "ADJECTIVE": "small happy yellow quiet brown lazy green",
    "NOUN": "dog letter teacher apple river garden box queen book kitten jacket house",
    "VERB": "see carry follow want keep find",
    "WHO": "we they you",
    "PLACE": "in near behind under",
    "WHEN": "today again slowly",
}


@dataclass(frozen=True)
class SetTable:
    """What one set is made of; ranges (low, high) are drawn from evenly."""

    first_speaker: int  # Id of the first speaker; the others count up.
    speakers: int  # How many at scale 1.
    utterances: int  # Of each speaker at scale 1.
    accents: tuple[str, ...]  # eSpeak NG languages, dealt out in a seeded order.
    # eSpeak NG voice variants, in no other set; reused with another accent if there
    # are more speakers.
    variants: tuple[str, ...]
    rate: tuple[int, int]  # Words per minute.
    pitch: tuple[int, int]  # 0 to 99, 50 is the variant's own.
    pitch_range: tuple[int, int]  # 0 to 99, 50 is the variant's own.
    conditions: Conditions


_BROAD = dict(
    accents=tuple(
        "en en-us en-029 en-gb-scotland en-gb-x-rp en-gb-x-gbclan en-gb-x-gbcwmd "
        "en-us-nyc".split()
    ),
    rate=(140, 205),
    pitch=(25, 75),
    pitch_range=(25, 80),
    conditions=Conditions(
        room_share=0.7,
        reverberation_seconds=(0.1, 0.35),
        direct_to_room_db=(0.0, 10.0),
        tilt=(-0.5, 0.5),
        snr_db=(6.0, 20.0),
        noise_color=(0.0, 1.2),
        level_db=(-32.0, -18.0),
        silence_seconds=(0.05, 0.3),
    ),
)
_UNLABELED_VARIANTS = (
    "m1 f4 Alex Andrea adam aunty Denis anika Gene grandma klatt steph Jacky zac "
    "m5 Diogo max Marco Mario Mike RicishayMax Reed Storm Tweaky benjamin "
    "Nguyen croak david ed edward fast grandpa gustave john kaukovalta klatt3 "
    "klatt5 m4 m6 m8 Michael michel miguel mike2 klatt2 klatt4 norbert caleb rob "
    "Henrique Hugo Gene2 RicishayMax2 RicishayMax3 edward2 klatt6 steph2 steph3"
)
_DEV_VARIANTS = (
    "f1 Andy linda boris Annie Lee marcelo iven pedro sandro travis announcer"
)
_TEST_VARIANTS = (
    "f3 m2 belinda victor Alicia paul shelby quincy robert pablo antonio ian"
)
# The corpus at scale 1. Variants that are copies of one another with small changes
# (adam and benjamin, the klatts, max and RicishayMax) stay in one set, so that dev and
# test are truly unseen. Whispers, robots and monsters are left out.
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
        conditions=Conditions(
            room_share=0.1,
            reverberation_seconds=(0.1, 0.2),
            direct_to_room_db=(6.0, 12.0),
            tilt=(-0.1, 0.1),
            snr_db=(25.0, 40.0),
            noise_color=(0.0, 0.5),
            level_db=(-26.0, -20.0),
            silence_seconds=(0.05, 0.2),
        ),
    ),
    "train-unlabeled": SetTable(
        2001, 80, 12, variants=tuple(_UNLABELED_VARIANTS.split()), **_BROAD
    ),
    "dev": SetTable(3001, 12, 14, variants=tuple(_DEV_VARIANTS.split()), **_BROAD),
    "test": SetTable(4001, 12, 14, variants=tuple(_TEST_VARIANTS.split()), **_BROAD),
}
# Variants that are women's voices.
FEMALE = frozenset(
    "f1 f2 f3 f4 f5 Alicia Andrea Annie anika aunty belinda grandma linda shelby "
    "steph steph2 steph3".split()
)


@dataclass(frozen=True)
class MiniSpeaker(Speaker):
    """A speaker with a voice; rate, pitch and pitch_range are as in `SetTable`."""

    seed: int  # Of the corpus.
    voice: str  # eSpeak NG language and variant.
    rate: int
    pitch: int
    pitch_range: int


def mini_corpus(seed: int, scale: float) -> Corpus:
    """Plan the corpus, `scale` (above 0, at most MAX_SCALE) times the default."""
    if not 0 < scale <= MAX_SCALE:
        raise ValueError(f"scale must be above 0 and at most {MAX_SCALE}, not {scale}")
    speakers = []
    for set_name, table in SETS.items():
        count = max(1, round(table.speakers * scale))
        utterances = max(3, round(table.speakers * table.utterances * scale / count))
        accents = _generator(seed, set_name).permutation(table.accents)
        for index in range(count):
            reuse, position = divmod(index, len(table.variants))
            variant, number = table.variants[position], table.first_speaker + index
            # The shift by reuse gives a variant another accent each time.
            voice = f"{accents[(index + reuse) % len(accents)]}+{variant}"
            draw = _generator(seed, set_name, number)
            ranges = (table.rate, table.pitch, table.pitch_range)
            manner = [int(draw.integers(*each, endpoint=True)) for each in ranges]
            name = "{} rate {} pitch {} range {}".format(voice, *manner)
            base = (set_name, number, "F" if variant in FEMALE else "M", name)
            speakers.append(MiniSpeaker(*base, utterances, seed, voice, *manner))
    tables = hashlib.sha256(repr((SETS, TEMPLATES, WORDS)).encode()).hexdigest()[:16]
    settings = {"format": FORMAT, "tables": tables, "seed": seed, "scale": scale}
    title = "mini: sentences of a small grammar, synthesized by eSpeak NG"
    return Corpus("mini", title, settings, speakers, make_utterances, SAMPLE_RATE)


def make_sentence(generator: np.random.Generator) -> str:
    """Return a random sentence of the grammar in lower case."""
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
    """Yield all utterances of a speaker, in a process that synthesized no other."""
    set_name = speaker.set_name
    with Synthesizer() as synthesizer:
        manner = (speaker.rate, speaker.pitch, speaker.pitch_range)
        synthesizer.set_voice(speaker.voice, *manner)
        for number in range(1, speaker.utterances + 1):
            draw = _generator(speaker.seed, set_name, speaker.speaker, number)
            sentence = make_sentence(draw)
            speech = synthesizer.speak(sentence, int(draw.integers(1, 2**31)))
            # The synthesizer's silences are cut off, so that silences are ours alone.
            loud = np.flatnonzero(np.abs(speech) > 0.01 * np.abs(speech).max())
            speech = speech[loud[0] : loud[-1] + 1]
            speech = resample(speech, SYNTHESIS_RATE, SAMPLE_RATE)
            samples = record(speech, SAMPLE_RATE, SETS[set_name].conditions, draw)
            yield Utterance(sentence.upper(), samples)


def _generator(
    seed: int, set_name: str, speaker: int = 0, utterance: int = 0
) -> np.random.Generator:
    """Return a generator of its own for each set, speaker and utterance (from 1)."""
    key = (seed, zlib.crc32(set_name.encode()), speaker, utterance)
    return np.random.default_rng(key)
