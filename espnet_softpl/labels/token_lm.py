"""A bigram language model over tokens, as a table; read from an ARPA file."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.ctc import BLANK

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
FLOOR = math.log(1e-6)  # Of a token that the file does not have.
# ESPnet's tokens that no transcript has.
NOT_SAID = ("<blank>", "<unk>", "<sos/eos>", "<sos>", "<eos>")

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class TokenLM:
    """Log-probabilities of V tokens, blank among them, in nats, float32.

    A "token u before" of `BLANK` is the start of the utterance.
    """

    log_probs: Tensor  # log P(v | u), (V, V), u first; nothing meant in column BLANK.
    unigram: Tensor  # log P(v), (V,); nothing meant for BLANK.
    ends: Tensor  # log P(the transcript ends | u), (V,).


def read_lm(file: str | Path, tokens: Sequence[str]) -> TokenLM:
    """Read an ARPA file of order 1 or 2 whose words are tokens.

    A token that the file lacks has the probability of its `<unk>`, else 1e-6; so it
    can still be said if the audio is clear.

    Args:
        file: A text file; `<s>` is the start, `</s>` the end (without it, all ends
            are alike).
        tokens: The token list, blank first.

    Raises:
        UserError: There is no such file, it is no ARPA file, has a higher order (whose
            bigrams are estimated to be backed off to, not to be used alone), or lacks
            most of the tokens.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"lm: {file} cannot be read: {error}") from error
    unigrams, backoffs, bigrams = _parse(lines, file)
    ids = {t: i for i, t in enumerate(tokens) if i != BLANK}
    missing = [t for t in ids if t not in unigrams and t not in NOT_SAID]
    if 2 * len(missing) > len(ids):
        raise UserError(
            f"lm: {file} lacks {len(missing)} of {len(ids)} tokens, such as "
            f"{name_some(missing)}; its words must be the tokens of token_list"
        )
    if missing:
        logger.warning("lm: %s lacks tokens: %s", file, name_some(missing))
    size = len(tokens)
    rare = unigrams.get(UNKNOWN, FLOOR)
    single = torch.full((size,), rare)
    backoff = torch.zeros(size)
    for token, i in ids.items():
        single[i] = unigrams.get(token, rare)
        backoff[i] = backoffs.get(token, 0.0)
    backoff[BLANK] = backoffs.get(START, 0.0)
    table = backoff.unsqueeze(1) + single
    ends = backoff + unigrams.get(END, 0.0) if END in unigrams else torch.zeros(size)
    befores = {**ids, START: BLANK}
    for (before, token), value in bigrams.items():
        if before in befores and token in ids:
            table[befores[before], ids[token]] = value
        elif before in befores and token == END:
            ends[befores[before]] = value
    return TokenLM(table.clamp(min=-100.0), single.clamp(min=-100.0), ends)


def _parse(
    lines: Sequence[str], file: str | Path
) -> tuple[dict[str, float], dict[str, float], dict[tuple[str, str], float]]:
    """Return unigrams, their backoff weights and bigrams, all in nats."""
    unigrams: dict[str, float] = {}
    backoffs: dict[str, float] = {}
    bigrams: dict[tuple[str, str], float] = {}
    order = 0
    for number, line in enumerate(lines, 1):
        if line.startswith("\\"):
            order = int(line[1]) if line.endswith("-grams:") else 0
            if order > 2:
                raise UserError(
                    f"lm: {file} is of order {order}; give a bigram, which "
                    f"`python -m espnet_softpl.bin.token_lm` writes"
                )
            continue
        if not line.strip() or not order:
            continue
        fields = line.split()
        try:
            value = float(fields[0]) * math.log(10.0)
            if order == 2:
                bigrams[fields[1], fields[2]] = value
                continue
            unigrams[fields[1]] = value
            if len(fields) > 2:
                backoffs[fields[1]] = float(fields[2]) * math.log(10.0)
        except (ValueError, IndexError) as error:
            raise UserError(
                f"lm: {file} line {number} is no {order}-gram: {line[:60]!r}"
            ) from error
    if not unigrams:
        raise UserError(f"lm: {file} is no ARPA file: it has no \\1-grams:")
    return unigrams, backoffs, bigrams
