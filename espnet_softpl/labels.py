"""The labels of one unlabeled mini-batch, with all that is reported about them.

B utterances, T frames after subsampling, V tokens with blank, U labels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch

from espnet_softpl.compression import Compression
from espnet_softpl.criteria import PseudoLabel
from espnet_softpl.ctc import PADDING, collapse, frame_mask


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the teacher said about a mini-batch, ready for the criterion.

    Attributes:
        utterance_ids: B ids.
        label: The label after shaping and filters.
        path: The teacher's best token of every frame, before shaping, (B, T), -1 in
            the padding.
        reason: Which filter dropped each utterance, (B,): its index; -1 for those
            that are kept, and the number of filters for those that another part
            dropped.
        statistics: What `metrics.label_statistics` says of the labels as made.
        step: The mini-batch of training at which they were made.
        uses: Training steps on these labels so far, where they are kept in a cache.
    """

    utterance_ids: list[str]
    label: PseudoLabel
    path: torch.Tensor
    reason: torch.Tensor
    statistics: Mapping[str, torch.Tensor | float]
    step: int
    uses: int = 0

    def transcripts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the teacher's greedy transcripts, (B, U), and their lengths, (B,)."""
        return collapse(self.path, self.label.lengths)


def best_path(log_probs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the best token of every frame, (B, T), -1 in the padding."""
    path = log_probs.argmax(-1)
    return path.masked_fill(~frame_mask(lengths, path.size(1)), PADDING)


def pack(labels: Labels, compression: Compression | None) -> dict[str, Any]:
    """Turn labels into a record for the cache.

    Args:
        labels: The labels.
        compression: How posteriors are kept; None keeps none.

    Returns:
        Tensors on the CPU and plain values.
    """
    label = labels.label
    mask = frame_mask(label.lengths, labels.path.size(1))
    tokens = label.tokens[frame_mask(label.token_lengths, label.tokens.size(1))]
    record: dict[str, Any] = {
        "utterance_ids": list(labels.utterance_ids),
        "vocabulary": label.log_probs.size(-1),
        "num_frames": labels.path.size(1),
        "lengths": label.lengths.cpu(),
        "token_lengths": label.token_lengths.cpu(),
        "weight": label.weight.cpu(),
        # No tokenizer has more tokens than an int32, nor needs more.
        "tokens": tokens.to(torch.int32).cpu(),
        "path": labels.path[mask].to(torch.int32).cpu(),
        "reason": labels.reason.cpu(),
        "statistics": {key: float(v) for key, v in labels.statistics.items()},
        "step": labels.step,
    }
    if compression is not None:
        # A teacher that says NaN says nothing, and its utterance is left out.
        sound = label.log_probs.amax(-1).isfinite()
        flat = label.log_probs.new_tensor(-math.log(label.log_probs.size(-1)))
        log_probs = torch.where(sound.unsqueeze(-1), label.log_probs, flat)
        record["posteriors"] = compression.compress(log_probs, label.lengths)
        record["weight"] = (label.weight * (sound | ~mask).all(1)).cpu()
    if label.frame_weight is not None:
        record["frame_weight"] = label.frame_weight[mask].cpu()
    return record


def unpack(
    record: dict[str, Any], compression: Compression | None, device: torch.device
) -> Labels:
    """Turn a record of the cache into labels.

    Args:
        record: What `pack` returned.
        compression: As for `pack`.
        device: Where the labels go.

    Returns:
        The labels. Posteriors that were not kept are uniform, which says that nothing
        is known, and takes no memory.
    """
    lengths = record["lengths"].to(device)
    num_frames = record["num_frames"]
    mask = frame_mask(lengths, num_frames)
    vocabulary = record["vocabulary"]
    if compression is None:
        flat = torch.full((), -math.log(vocabulary), device=device)
        log_probs = flat.expand(lengths.numel(), num_frames, vocabulary)
    else:
        log_probs = compression.restore(
            record["posteriors"], lengths, num_frames, vocabulary
        )
    token_lengths = record["token_lengths"].to(device)
    most = max(int(record["token_lengths"].max()), 0)
    frame_weight = None
    if "frame_weight" in record:
        frame_weight = _padded(record["frame_weight"], mask, 0.0)
    label = PseudoLabel(
        log_probs=log_probs,
        lengths=lengths,
        tokens=_padded(record["tokens"].long(), frame_mask(token_lengths, most)),
        token_lengths=token_lengths,
        weight=record["weight"].to(device),
        frame_weight=frame_weight,
    )
    return Labels(
        utterance_ids=list(record["utterance_ids"]),
        label=label,
        path=_padded(record["path"].long(), mask),
        reason=record["reason"].to(device),
        statistics=dict(record["statistics"]),
        step=record["step"],
    )


def _padded(
    values: torch.Tensor, mask: torch.Tensor, padding: float = PADDING
) -> torch.Tensor:
    """Put values back where a mask is True, row by row, and padding elsewhere."""
    padded = torch.full(mask.shape, padding, dtype=values.dtype, device=mask.device)
    return padded.masked_scatter(mask, values.to(mask.device))
