"""The labels of one unlabeled mini-batch, with all that is reported about them.

B utterances, T frames after subsampling, V tokens with blank, U labels, P positions
of a decoder.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from espnet_softpl.cache.compression import Compression
from espnet_softpl.ctc import PADDING, frame_mask
from espnet_softpl.labels.pseudo_label import (
    DecoderLabel,
    Labels,
    PseudoLabel,
    without_nan,
)


def pack(
    labels: Labels, compression: Compression, keep_posteriors: bool = True
) -> dict[str, Any]:
    """Turn labels into a record for the cache.

    Args:
        labels: The labels.
        compression: How distributions are kept.
        keep_posteriors: Whether those of the frames are; a decoder's always are.

    Returns:
        Tensors on the CPU and plain values.
    """
    label = labels.label
    mask = frame_mask(label.lengths, labels.path.size(1))
    record: dict[str, Any] = {
        "utterance_ids": list(labels.utterance_ids),
        "vocabulary": label.log_probs.size(-1),
        "num_frames": labels.path.size(1),
        "lengths": label.lengths.cpu(),
        **_pack_label(label, compression if keep_posteriors else None),
        "path": labels.path[mask].to(torch.int32).cpu(),
        "reason": labels.reason.cpu(),
        "statistics": {key: float(v) for key, v in labels.statistics.items()},
        "step": labels.step,
    }
    if label.frame_weight is not None:
        record["frame_weight"] = label.frame_weight[mask].cpu()
    if labels.decoder is not None:
        record["decoder"] = _pack_decoder(labels.decoder, compression)
    if labels.layers:
        record["layers"] = [
            _pack_label(layer, compression if keep_posteriors else None)
            for layer in labels.layers
        ]
    return record


def unpack(
    record: dict[str, Any],
    compression: Compression,
    device: torch.device,
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
    mask = frame_mask(lengths, record["num_frames"])
    shape = (record["num_frames"], record["vocabulary"])
    label = _unpack_label(record, compression, lengths, *shape)
    if "frame_weight" in record:
        label = label._replace(frame_weight=_padded(record["frame_weight"], mask, 0.0))
    decoder = None
    if "decoder" in record:
        decoder = _unpack_decoder(record, compression, device)
    return Labels(
        utterance_ids=list(record["utterance_ids"]),
        label=label,
        path=_padded(record["path"].long(), mask),
        reason=record["reason"].to(device),
        statistics=dict(record["statistics"]),
        step=record["step"],
        decoder=decoder,
        layers=tuple(
            _unpack_label(layer, compression, lengths, *shape)
            for layer in record.get("layers", ())
        ),
    )


def _pack_label(label: PseudoLabel, compression: Compression | None) -> dict[str, Any]:
    """Pack transcripts and trust, and posteriors where there is a compression."""
    tokens = label.tokens[frame_mask(label.token_lengths, label.tokens.size(1))]
    packed: dict[str, Any] = {
        "token_lengths": label.token_lengths.cpu(),
        "weight": label.weight.cpu(),
        # No tokenizer has more tokens than an int32, nor needs more.
        "tokens": tokens.to(torch.int32).cpu(),
    }
    if compression is not None:
        # A teacher that says NaN says nothing, and its utterance is left out.
        log_probs, sound = without_nan(label.log_probs, label.lengths)
        packed["posteriors"] = compression.compress(log_probs, label.lengths)
        packed["weight"] = (label.weight * sound).cpu()
    return packed


def _unpack_label(
    packed: dict[str, Any],
    compression: Compression,
    lengths: torch.Tensor,
    num_frames: int,
    vocabulary: int,
) -> PseudoLabel:
    """Undo `_pack_label`."""
    device = lengths.device
    if "posteriors" in packed:
        posteriors = packed["posteriors"]
        log_probs = compression.restore(posteriors, lengths, num_frames, vocabulary)
    else:
        flat = torch.full((), -math.log(vocabulary), device=device)
        log_probs = flat.expand(lengths.numel(), num_frames, vocabulary)
    token_lengths = packed["token_lengths"].to(device)
    most = max(int(packed["token_lengths"].max()), 0)
    return PseudoLabel(
        log_probs=log_probs,
        lengths=lengths,
        tokens=_padded(packed["tokens"].long(), frame_mask(token_lengths, most)),
        token_lengths=token_lengths,
        weight=packed["weight"].to(device),
    )


def _pack_decoder(label: DecoderLabel, compression: Compression) -> dict[str, Any]:
    """Pack what a decoder answers: distributions, or else tokens."""
    packed: dict[str, Any] = {"lengths": label.lengths.cpu()}
    if label.log_probs is not None:
        packed["posteriors"] = compression.compress(label.log_probs, label.lengths)
    else:
        mask = frame_mask(label.lengths, label.tokens.size(1))
        packed["tokens"] = label.tokens[mask].to(torch.int32).cpu()
    return packed


def _unpack_decoder(
    record: dict[str, Any], compression: Compression, device: torch.device
) -> DecoderLabel:
    """Undo `_pack_decoder`."""
    packed = record["decoder"]
    lengths = packed["lengths"].to(device)
    mask = frame_mask(lengths, int(packed["lengths"].max()))
    if "tokens" in packed:
        return DecoderLabel(_padded(packed["tokens"].long(), mask), lengths)
    log_probs = compression.restore(
        packed["posteriors"], lengths, mask.size(1), record["vocabulary"]
    )
    tokens = log_probs.argmax(-1).masked_fill(~mask, PADDING)
    return DecoderLabel(tokens, lengths, log_probs)


def _padded(
    values: torch.Tensor, mask: torch.Tensor, padding: float = PADDING
) -> torch.Tensor:
    """Put values back where a mask is True, row by row, and padding elsewhere."""
    padded = torch.full(mask.shape, padding, dtype=values.dtype, device=mask.device)
    return padded.masked_scatter(mask, values.to(mask.device))
