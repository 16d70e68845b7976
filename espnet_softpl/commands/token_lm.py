"""An interpolated Witten-Bell bigram of the tokens in transcripts, as an ARPA file."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import atomic_write
from espnet_softpl.data.tables import read_scp
from espnet_softpl.labels.token_lm import END, NOT_SAID, START, UNKNOWN

Bigram = tuple[dict[str, float], dict[str, float], dict[tuple[str, str], float]]


def witten_bell(
    sentences: Iterable[Sequence[str]], vocabulary: Sequence[str]
) -> Bigram:
    """Estimate P(v | u) from counts c.

    P(v | u) = (c(u, v) + n(u) P(v)) / (c(u) + n(u)), n(u) the number of different
    tokens seen after u; P(v) likewise from c(v) and a flat distribution over the
    vocabulary and the end. What is left to P(v) is the backoff weight of u, so that the
    ARPA form is exact. Witten and Bell 1991, method C, interpolated.

    Returns P(v), with `</s>`; the backoff weight of each u that was seen, `<s>` among
    them; P(v | u) of each pair that was seen. No token without a share.
    """
    pairs = Counter(
        pair for sentence in sentences for pair in pairwise((START, *sentence, END))
    )
    singles: Counter[str] = Counter()
    followers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (before, token), count in pairs.items():
        singles[token] += count
        followers[before][token] = count
    words = list(dict.fromkeys((*vocabulary, END, *singles)))
    flat = len(singles) / len(words)
    total = singles.total() + len(singles)
    unigrams = {word: (singles[word] + flat) / total for word in words}
    backoffs, bigrams = {}, {}
    for before, after in followers.items():
        seen = after.total() + len(after)
        backoffs[before] = len(after) / seen
        for token, count in after.items():
            share = (count + len(after) * unigrams[token]) / seen
            bigrams[before, token] = share
    return unigrams, backoffs, bigrams


def write_arpa(bigram: Bigram, out: Path) -> None:
    """Write probabilities, as `witten_bell` returns them, as an ARPA file."""
    unigrams, backoffs, bigrams = bigram
    with atomic_write(out) as file:
        file.write(f"\\data\\\nngram 1={len(unigrams) + 1}\nngram 2={len(bigrams)}\n")
        file.write("\n\\1-grams:\n")
        # By convention -99 stands for "never": nothing is followed by the start.
        for word, log10 in [(START, -99.0), *_log10(unigrams)]:
            backoff = math.log10(backoffs.get(word, 1.0))
            end = "" if word == END else f"\t{backoff:.7f}"
            file.write(f"{log10:.7f}\t{word}{end}\n")
        file.write("\n\\2-grams:\n")
        for (before, token), log10 in _log10(bigrams):
            file.write(f"{log10:.7f}\t{before} {token}\n")
        file.write("\n\\end\\\n")


def _log10(shares: dict) -> list[tuple]:
    return sorted((key, math.log10(share)) for key, share in shares.items())


def count(
    text: Path, token_list: Path, token_type: str, bpemodel: Path | None, out: Path
) -> str:
    """Write the bigram of a text as the ARPA file `out`; return a line about it.

    `text` has lines of `utterance-id transcript`, `token_list` a token a line, blank
    first; `token_type` is char, bpe or word.
    """
    # One by one: ESPnet's chooser imports what downloads pronunciations.
    from espnet2.text.char_tokenizer import CharTokenizer
    from espnet2.text.sentencepiece_tokenizer import SentencepiecesTokenizer
    from espnet2.text.word_tokenizer import WordTokenizer

    for file in filter(None, (token_list, bpemodel)):
        if not file.is_file():
            raise UserError(f"{file} does not exist")
    if (token_type == "bpe") != (bpemodel is not None):
        raise UserError("--bpemodel is for --token_type bpe, which needs it")
    tokens = token_list.read_text(encoding="utf-8").splitlines()
    said = [token for token in tokens if token not in NOT_SAID]
    if token_type == "bpe":
        tokenizer = SentencepiecesTokenizer(str(bpemodel))
    else:
        tokenizer = CharTokenizer() if token_type == "char" else WordTokenizer()
    known = set(said)
    sentences = [
        [token if token in known else UNKNOWN for token in tokenizer.text2tokens(words)]
        for words in read_scp(text, empty=True).values()
        if words
    ]
    covered = sum(token != UNKNOWN for sentence in sentences for token in sentence)
    if not covered:
        raise UserError(f"--text: {text} has no token of {token_list}")
    bigram = witten_bell(sentences, [*said, UNKNOWN])
    try:
        write_arpa(bigram, out)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written to: {error}") from error
    return (
        f"{out}: {len(bigram[2])} bigrams of {covered} tokens in {len(sentences)} "
        f"transcripts"
    )
