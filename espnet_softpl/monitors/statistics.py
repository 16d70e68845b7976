"""The `pl_*` statistics of a training: names, meanings, limits, and their values.

A statistic's name stands nowhere else in the package.

B utterances, T frames after subsampling, V tokens with blank. Entropies are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from espnet_softpl.ctc import BLANK, frame_mask
from espnet_softpl.labels.pseudo_label import Labels, PseudoLabel, is_sound
from espnet_softpl.monitors.limits import Limits
from espnet_softpl.monitors.oracle import Oracle


class Statistic(NamedTuple):
    """One number that every training mini-batch reports, NaN where it is not known."""

    name: str  # Its key in ESPnet's reports.
    title: str  # What it is, for plots; with "(%)" it is shown in percent.
    warning: str  # What should make one worry.
    unit: str  # Of the value as reported.


class Guarded(NamedTuple):
    """What the guard makes of a statistic; forms are keys of `diagnosis.FORMS`."""

    limits: Limits  # Its default limits.
    low: str = ""  # The form of collapse that a low level is a sign of.
    high: str = ""  # The same of a high level.


WER = Statistic("pl_wer", "WER of the pseudo-labels (%)", "rising", "fraction")
CER = Statistic("pl_cer", "CER of the pseudo-labels (%)", "rising", "fraction")
BLANK_SHARE = Statistic(
    "pl_blank_share", "share of blank frames", "to 0 or 1", "fraction of frames"
)
FRAME_ENTROPY = Statistic(
    "pl_frame_entropy", "mean entropy of a frame (nats)", "rising: flattening", "nats"
)
MEAN_ENTROPY = Statistic(
    "pl_mean_entropy", "entropy of the mean frame (nats)", "falling", "nats"
)
MUTUAL_INFORMATION = Statistic(
    "pl_mutual_information",
    "mutual information (nats)",
    "to 0: collapse into one distribution",
    "nats",
)
LENGTH_RATIO = Statistic(
    "pl_length_ratio", "tokens per second / labeled data's", "far from 1", "ratio"
)
EMPTY_SHARE = Statistic(
    "pl_empty_share", "share of empty labels", "rising", "fraction of utterances"
)
VOCABULARY = Statistic(
    "pl_vocabulary", "perplexity of the tokens used", "falling", "tokens"
)
DISAGREEMENT = Statistic(
    "pl_disagreement",
    "frames where teacher and student differ",
    "rising",
    "fraction of frames",
)
KEPT = Statistic(
    "pl_kept", "labels that are used (%)", "falling", "fraction of utterances"
)
KEPT_AUDIO = Statistic(
    "pl_kept_audio", "audio that is used (%)", "falling", "fraction of samples"
)
KEPT_HOURS = Statistic("pl_kept_hours", "hours of audio learned from", "flat", "hours")
UNUSABLE = Statistic(
    "pl_unusable", "unusable audio and losses (%)", "above 0", "fraction of utterances"
)
AGE = Statistic(
    "pl_age",
    "age of the labels (mini-batches)",
    "growing without end",
    "mini-batches of both kinds",
)
WEIGHT = Statistic(
    "pl_weight",
    "weight of the unlabeled loss",
    "halved: the guard backed off",
    "factor",
)
DECODER_DISAGREEMENT = Statistic(
    "pl_decoder_disagreement",
    "positions where decoder and CTC head differ",
    "rising",
    "fraction of positions",
)
DROPPED = Statistic(
    "pl_dropped_<filter>",
    "labels dropped by <filter> (%)",
    "rising",
    "fraction of utterances",
)
USES = Statistic(
    "pl_uses", "uses of a label so far", "growing without end", "training steps"
)
TURNOVER = Statistic(
    "pl_turnover", "times that a slot was labeled", "flat: labels are frozen", "times"
)
LABEL_CHANGE = Statistic(
    "pl_label_change",
    "edits per token to a new label",
    "to 0 too early",
    "edits per token",
)
WER_KEPT = Statistic(
    "pl_wer_kept",
    "WER of labels that are used (%)",
    "like that of the dropped ones",
    "fraction",
)
WER_DROPPED = Statistic(
    "pl_wer_dropped", "WER of dropped labels (%)", "like that of the kept", "fraction"
)

# In the order in which they are reported: always, and with the parts that have them.
ALWAYS = (WER, CER, BLANK_SHARE, FRAME_ENTROPY, MEAN_ENTROPY, MUTUAL_INFORMATION)
ALWAYS += (LENGTH_RATIO, EMPTY_SHARE, VOCABULARY, DISAGREEMENT)
ALWAYS += (KEPT, KEPT_AUDIO, KEPT_HOURS, UNUSABLE, AGE, WEIGHT)
# The guard's, of the teacher's output alone.
OF_LABEL = tuple(each.name for each in ALWAYS[2:9])
OF_CACHE = (USES, TURNOVER, LABEL_CHANGE)
OF_ORACLE = (WER_KEPT, WER_DROPPED)
STATISTICS = (*ALWAYS, DECODER_DISAGREEMENT, DROPPED, *OF_CACHE, *OF_ORACLE)

# Set on runs of the mini corpus, healthy and collapsing: see docs/collapse.md.
GUARDED = {
    # The first to move: falls before the errors rise when labels flatten, rises towards
    # all blank. Hard labels that still improve move it by +25 or -6 %. The ratio means
    # little if blank is best at most frames, as with long tokens: hence `above`.
    BLANK_SHARE: Guarded(
        Limits(lowest=0.9, highest=1.5, above=0.97), "flattening", "all_blank"
    ),
    # Flattening doubles it; hard labels that still improve raise it by up to a half.
    FRAME_ENTROPY: Guarded(Limits(highest=1.6), high="flattening"),
    # It hardly rises when labels flatten: an upper limit would say nothing.
    MEAN_ENTROPY: Guarded(Limits(lowest=0.7), low="few_tokens"),
    # A healthy run stays within a tenth of the base model.
    MUTUAL_INFORMATION: Guarded(Limits(lowest=0.8), low="constant"),
    # Batches of fast or slow speech differ by less than this once averaged.
    LENGTH_RATIO: Guarded(Limits(lowest=0.7, highest=1.4), "all_blank", "flattening"),
    # Some recordings are silent; the base model's level may be 0, which has no ratio.
    EMPTY_SHARE: Guarded(Limits(rise=0.2), high="all_blank"),
    VOCABULARY: Guarded(Limits(lowest=0.7), low="few_tokens"),
    # The student gets augmented audio, and may outgrow a slow teacher.
    DISAGREEMENT: Guarded(Limits(rise=0.3), high="drift"),
}


def dropped_by(filter_name: str) -> str:
    """Return the name of the statistic of what one filter drops."""
    return DROPPED.name.replace("<filter>", filter_name)


def frame_statistics(
    log_probs: torch.Tensor, lengths: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Describe the frame distributions of a batch, log-posteriors (B, T, V).

    Collapse into one distribution at every frame shows as a mutual information that
    falls to 0, whether that distribution is sharp or flat. It is never negative except
    for rounding.
    """
    frames = log_probs[frame_mask(lengths, log_probs.size(1))].float()  # (frames, V)
    probs = frames.exp()
    # A probability of exactly 0 adds no entropy.
    plogp = (probs * frames.masked_fill(probs == 0, 0.0)).sum(-1)
    frame_entropy = -plogp.mean()
    mean_entropy = torch.special.entr(probs.mean(0)).sum()
    return {
        BLANK_SHARE.name: (frames.argmax(-1) == BLANK).float().mean(),
        FRAME_ENTROPY.name: frame_entropy,
        MEAN_ENTROPY.name: mean_entropy,
        MUTUAL_INFORMATION.name: mean_entropy - frame_entropy,
    }


def length_ratio(
    token_lengths: torch.Tensor,
    speech_lengths: torch.Tensor,
    labeled_tokens_per_sample: float,
) -> torch.Tensor:
    """Divide the speech rate of labels, lengths (B,), by that of the labeled data.

    The result is a scalar: 1 is the labeled rate, near 0 means that labels vanish.
    """
    rate = token_lengths.sum().float() / speech_lengths.sum().float()
    return rate / labeled_tokens_per_sample


def vocabulary_use(tokens: torch.Tensor, token_lengths: torch.Tensor) -> torch.Tensor:
    """Compute how many tokens the transcripts (B, U) use, as a perplexity.

    The result is a scalar, exp(H(token frequencies over the batch)): 1 if there is but
    one token, NaN if all transcripts are empty.
    """
    used = tokens[frame_mask(token_lengths, tokens.size(1))]
    if used.numel() == 0:
        return torch.full((), math.nan, device=tokens.device)
    counts = torch.bincount(used).float()
    return torch.special.entr(counts / counts.sum()).sum().exp()


def disagreement(
    log_probs: torch.Tensor, path: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Compute the share of frames whose best token is not that of a path (B, T).

    `log_probs` has (B, T, V); the result is a scalar in [0, 1].
    """
    differ = log_probs.argmax(-1) != path
    return differ[frame_mask(lengths, log_probs.size(1))].float().mean()


def label_statistics(
    label: PseudoLabel,
    speech_lengths: torch.Tensor,
    labeled_tokens_per_sample: float,
) -> dict[str, torch.Tensor]:
    """Collect the statistics, scalars, that the teacher's output alone gives.

    They are of the utterances whose posteriors are finite. If none are, all are
    infinite, which the guard sees as beyond every limit.
    """
    sound = is_sound(label.log_probs, label.lengths)
    if not sound.any():
        return dict.fromkeys(OF_LABEL, torch.full((), math.inf, device=sound.device))
    if not sound.all():
        speech_lengths = speech_lengths[sound]
        label = PseudoLabel(*(part[sound] for part in label[:5]))
    return {
        **frame_statistics(label.log_probs, label.lengths),
        LENGTH_RATIO.name: length_ratio(
            label.token_lengths, speech_lengths, labeled_tokens_per_sample
        ),
        EMPTY_SHARE.name: (label.token_lengths == 0).float().mean(),
        VOCABULARY.name: vocabulary_use(label.tokens, label.token_lengths),
    }


def step_statistics(
    labels: Labels,
    label: PseudoLabel,
    log_probs: torch.Tensor,
    usable: torch.Tensor,
    speech_lengths: torch.Tensor,
    step: int,
) -> dict[str, Any]:
    """Collect the statistics, scalars, of labels that are trained on.

    `labels` are as they were made, `label` has the final weight, `log_probs` (B, T, V)
    are the student's; `usable` (B,) is False if audio or loss cannot be used.
    """
    kept, samples = label.weight > 0, speech_lengths.float()
    return {
        **labels.statistics,
        DISAGREEMENT.name: disagreement(log_probs, labels.path, label.lengths),
        KEPT.name: kept.float().mean(),
        KEPT_AUDIO.name: (samples * kept).sum() / samples.sum(),
        UNUSABLE.name: 1.0 - usable.float().mean(),
        AGE.name: float(step - labels.step),
        USES.name: float(labels.uses),
    }


def oracle_statistics(
    oracle: Oracle, utterance_ids: Sequence[str], label: PseudoLabel
) -> dict[str, float]:
    """Score labels against true transcripts: all, those that are used, the others."""
    kept = label.weight > 0
    scored = (utterance_ids, label.tokens, label.token_lengths)
    wer, cer = oracle.score(*scored)
    return {
        WER.name: wer,
        CER.name: cer,
        WER_KEPT.name: oracle.score(*scored, kept)[0],
        WER_DROPPED.name: oracle.score(*scored, ~kept)[0],
    }
