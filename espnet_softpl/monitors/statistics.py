"""The `pl_*` statistics of a training: names, which stand nowhere else, and values.

B utterances, T frames after subsampling, V tokens with blank. Entropies are in nats.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from espnet_softpl.ctc import BLANK, frame_mask
from espnet_softpl.labels.pseudo_label import Labels, PseudoLabel


class Statistic(NamedTuple):
    """One number that every training mini-batch reports, NaN where it is not known."""

    name: str  # Its key in ESPnet's reports.
    title: str  # What it is, for plots; with "(%)" it is shown in percent.
    warning: str = ""  # What should make one worry, of what the guard watches.


WER = Statistic("pl_wer", "WER of the pseudo-labels (%)")
CER = Statistic("pl_cer", "CER of the pseudo-labels (%)")
BLANK_SHARE = Statistic("pl_blank_share", "share of blank frames", "to 0 or 1")
FRAME_ENTROPY = Statistic(
    "pl_frame_entropy", "mean entropy of a frame (nats)", "rising: flattening"
)
MEAN_ENTROPY = Statistic(
    "pl_mean_entropy", "entropy of the mean frame (nats)", "falling"
)
MUTUAL_INFORMATION = Statistic(
    "pl_mutual_information",
    "mutual information (nats)",
    "to 0: collapse into one distribution",
)
LENGTH_RATIO = Statistic(
    "pl_length_ratio", "tokens per second / labeled data's", "far from 1"
)
EMPTY_SHARE = Statistic("pl_empty_share", "share of empty labels", "rising")
VOCABULARY = Statistic("pl_vocabulary", "perplexity of the tokens used", "falling")
DISAGREEMENT = Statistic(
    "pl_disagreement", "frames where teacher and student differ", "rising"
)
KEPT = Statistic("pl_kept", "labels that are used (%)")
KEPT_AUDIO = Statistic("pl_kept_audio", "audio that is used (%)")
KEPT_HOURS = Statistic("pl_kept_hours", "hours of audio learned from")
UNUSABLE = Statistic("pl_unusable", "unusable audio and losses (%)")
AGE = Statistic("pl_age", "age of the labels (mini-batches)")
WEIGHT = Statistic("pl_weight", "weight of the unlabeled loss")
DECODER_DISAGREEMENT = Statistic(
    "pl_decoder_disagreement", "positions where decoder and CTC head differ"
)
DROPPED = Statistic("pl_dropped_<filter>", "labels dropped by <filter> (%)")
USES = Statistic("pl_uses", "uses of a label so far")
TURNOVER = Statistic("pl_turnover", "times that a slot was labeled")
LABEL_CHANGE = Statistic("pl_label_change", "edits per token to a new label")
WER_KEPT = Statistic("pl_wer_kept", "WER of labels that are used (%)")
WER_DROPPED = Statistic("pl_wer_dropped", "WER of dropped labels (%)")

# In the order in which they are reported: always, and with the parts that have them.
ALWAYS = (WER, CER, BLANK_SHARE, FRAME_ENTROPY, MEAN_ENTROPY, MUTUAL_INFORMATION)
ALWAYS += (LENGTH_RATIO, EMPTY_SHARE, VOCABULARY, DISAGREEMENT)
ALWAYS += (KEPT, KEPT_AUDIO, KEPT_HOURS, UNUSABLE, AGE, WEIGHT)
OF_CACHE = (USES, TURNOVER, LABEL_CHANGE)
OF_ORACLE = (WER_KEPT, WER_DROPPED)
STATISTICS = (*ALWAYS, DECODER_DISAGREEMENT, DROPPED, *OF_CACHE, *OF_ORACLE)


def dropped_by(filter_name: str) -> str:
    """Return the name of the statistic of what one filter drops."""
    return DROPPED.name.replace("<filter>", filter_name)


def _share(flags: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the share of what is flagged in what a mask of the same shape marks."""
    return (flags & mask).sum() / mask.sum()


def frame_statistics(
    log_probs: torch.Tensor, path: torch.Tensor, mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Describe the frame distributions of a batch, log-posteriors (B, T, V), no NaN.

    `path` has the best token of every frame, and `mask` marks the frames that count,
    both (B, T). Collapse into one distribution at every frame, sharp or flat, shows as
    a mutual information that falls to 0.
    """
    log_probs = log_probs.float()
    probs, weights = log_probs.exp(), mask.float().flatten()
    # Autocast would have float16 products, in which 10,000 frames of 7 nats are an
    # infinite sum, or bfloat16 ones, of three digits.
    with torch.autocast(log_probs.device.type, enabled=False):
        count = weights.sum()
        # A probability of exactly 0 adds no entropy: 0 times a number is 0.
        entropies = -torch.linalg.vecdot(probs, log_probs.clamp(min=-1e30)).flatten()
        frame_entropy = (weights @ entropies) / count
        mean_probs = (weights @ probs.flatten(0, 1)) / count
        blank_share = (weights @ (path == BLANK).float().flatten()) / count
    mean_entropy = torch.special.entr(mean_probs).sum()
    return {
        BLANK_SHARE.name: blank_share,
        FRAME_ENTROPY.name: frame_entropy,
        MEAN_ENTROPY.name: mean_entropy,
        MUTUAL_INFORMATION.name: mean_entropy - frame_entropy,
    }


def length_ratio(
    token_lengths: torch.Tensor,
    speech_lengths: torch.Tensor,
    labeled_tokens_per_sample: float,
) -> torch.Tensor:
    """Divide the speech rate of labels, lengths (B,), by that of the labeled data."""
    rate = token_lengths.sum().float() / speech_lengths.sum().float()
    return rate / labeled_tokens_per_sample


def vocabulary_use(
    tokens: torch.Tensor, token_lengths: torch.Tensor, vocabulary: int
) -> torch.Tensor:
    """Return exp(H) of how often V tokens are in transcripts (B, U); or NaN."""
    used = frame_mask(token_lengths, tokens.size(1)).float()
    counts = used.new_zeros(vocabulary)
    counts.scatter_add_(0, tokens.clamp(min=0).flatten(), used.flatten())
    return torch.special.entr(counts / counts.sum()).sum().exp()


def disagreement(
    log_probs: torch.Tensor,
    path: torch.Tensor,
    lengths: torch.Tensor,
    best: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the share of frames in which no token of a path, (B, T), is the best.

    `best` has the highest values of `log_probs`, (B, T, V), if they are known.
    """
    best = log_probs.amax(-1) if best is None else best
    # The highest values cost a tenth of the tokens that have them.
    of_path = log_probs.gather(2, path.clamp(min=0).unsqueeze(2)).squeeze(2)
    return _share(~(of_path >= best), frame_mask(lengths, path.size(1)))


def label_statistics(
    label: PseudoLabel,
    path: torch.Tensor,
    speech_lengths: torch.Tensor,
    labeled_tokens_per_sample: float,
) -> dict[str, torch.Tensor]:
    """Collect the statistics, scalars, that the teacher's output alone gives.

    They are of utterances with a weight, whose posteriors are finite (see
    `without_nan`). If there is none, all are infinite: the guard sees that as beyond
    every limit. `path`, (B, T), has the best tokens.
    """
    sound = label.weight > 0
    mask = frame_mask(label.lengths, path.size(1)) & sound.unsqueeze(1)
    token_lengths = label.token_lengths * sound
    vocabulary = label.log_probs.size(-1)
    found = {
        **frame_statistics(label.log_probs, path, mask),
        LENGTH_RATIO.name: length_ratio(
            token_lengths, speech_lengths * sound, labeled_tokens_per_sample
        ),
        EMPTY_SHARE.name: _share(label.token_lengths == 0, sound),
        VOCABULARY.name: vocabulary_use(label.tokens, token_lengths, vocabulary),
    }
    values = torch.where(sound.any(), torch.stack([*found.values()]), math.inf)
    return dict(zip(found, values.unbind()))


def step_statistics(
    labels: Labels,
    label: PseudoLabel,
    log_probs: torch.Tensor,
    best: torch.Tensor,
    usable: torch.Tensor,
    speech_lengths: torch.Tensor,
    step: int,
) -> dict[str, Any]:
    """Collect the statistics, scalars, of labels that are trained on.

    `labels` are as they were made, `label` has the final weight, `log_probs` (B, T, V)
    are the student's, `best` (B, T) their highest; `usable` (B,) is about audio and
    loss.
    """
    kept, samples = label.weight > 0, speech_lengths.float()
    return {
        **labels.statistics,
        DISAGREEMENT.name: disagreement(log_probs, labels.path, label.lengths, best),
        KEPT.name: kept.float().mean(),
        KEPT_AUDIO.name: (samples * kept).sum() / samples.sum(),
        UNUSABLE.name: 1.0 - usable.float().mean(),
        AGE.name: float(step - labels.step),
        USES.name: float(labels.uses),
    }
