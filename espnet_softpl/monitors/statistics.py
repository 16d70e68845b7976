"""What to watch in a batch of pseudo-labels: blank share, entropies, lengths, errors.

B utterances, T frames after subsampling, V tokens with blank. Entropies are in nats.
"""

from __future__ import annotations

import math

import torch

from espnet_softpl.ctc import BLANK, frame_mask
from espnet_softpl.labels.pseudo_label import PseudoLabel


def frame_statistics(
    log_probs: torch.Tensor, lengths: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Describe the frame distributions of a batch.

    Collapse into one distribution at every frame shows as a mutual information that
    falls to 0, whether that distribution is sharp or flat.

    Args:
        log_probs: Frame log-posteriors, (B, T, V).
        lengths: Frames per utterance, (B,).

    Returns:
        Scalars: `blank_share` (frames whose best token is blank, in [0, 1]),
        `frame_entropy` (mean over frames of H(p_t)), `mean_entropy` (entropy of the
        mean distribution over all frames), `mutual_information` (their difference,
        never negative but for rounding).
    """
    mask = frame_mask(lengths, log_probs.size(1))
    frames = log_probs[mask].float()
    probs = frames.exp()
    # xlogy-like guard: a probability of exactly 0 adds no entropy.
    plogp = (probs * frames.masked_fill(probs == 0, 0.0)).sum(-1)
    frame_entropy = -plogp.mean()
    mean_entropy = torch.special.entr(probs.mean(0)).sum()
    return {
        "blank_share": (frames.argmax(-1) == BLANK).float().mean(),
        "frame_entropy": frame_entropy,
        "mean_entropy": mean_entropy,
        "mutual_information": mean_entropy - frame_entropy,
    }


def length_ratio(
    token_lengths: torch.Tensor,
    speech_lengths: torch.Tensor,
    labeled_tokens_per_sample: float,
) -> torch.Tensor:
    """Compare the speech rate of the pseudo-labels with that of the labeled data.

    Args:
        token_lengths: Tokens per utterance, (B,).
        speech_lengths: Length of the audio per utterance, (B,), in the unit of
            `labeled_tokens_per_sample`.
        labeled_tokens_per_sample: Tokens per unit of audio in the labeled data; NaN
            where unknown.

    Returns:
        A scalar: 1 is the labeled rate, near 0 means that labels vanish.
    """
    rate = token_lengths.sum().float() / speech_lengths.sum().float()
    return rate / labeled_tokens_per_sample


def vocabulary_use(tokens: torch.Tensor, token_lengths: torch.Tensor) -> torch.Tensor:
    """Compute how many tokens the transcripts use, as a perplexity.

    Args:
        tokens: Transcripts, (B, U), padded with any value.
        token_lengths: Tokens per utterance, (B,).

    Returns:
        A scalar, exp(H(token frequencies over the batch)): 1 where there is but one
        token; NaN where all transcripts are empty.
    """
    used = tokens[frame_mask(token_lengths, tokens.size(1))]
    if used.numel() == 0:
        return torch.full((), math.nan, device=tokens.device)
    counts = torch.bincount(used).float()
    return torch.special.entr(counts / counts.sum()).sum().exp()


def disagreement(
    log_probs: torch.Tensor, path: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Compute the share of frames in which a model's best token is another.

    Args:
        log_probs: Frame log-posteriors, (B, T, V).
        path: The best tokens of another model, (B, T).
        lengths: Frames per utterance, (B,).

    Returns:
        A scalar in [0, 1].
    """
    differ = log_probs.argmax(-1) != path
    return differ[frame_mask(lengths, log_probs.size(1))].float().mean()


def label_statistics(
    label: PseudoLabel,
    speech_lengths: torch.Tensor,
    labeled_tokens_per_sample: float,
) -> dict[str, torch.Tensor]:
    """Collect the `pl_*` statistics that the teacher's output alone gives.

    Args:
        label: The labels of B utterances, as the teacher made them.
        speech_lengths: Length of the audio per utterance, (B,).
        labeled_tokens_per_sample: See `length_ratio`.

    Returns:
        Scalars by statistic name, without gradient.
    """
    frames = frame_statistics(label.log_probs, label.lengths)
    return {
        **{f"pl_{name}": value for name, value in frames.items()},
        "pl_length_ratio": length_ratio(
            label.token_lengths, speech_lengths, labeled_tokens_per_sample
        ),
        "pl_empty_share": (label.token_lengths == 0).float().mean(),
        "pl_vocabulary": vocabulary_use(label.tokens, label.token_lengths),
    }
