"""The labels of one unlabeled mini-batch as a record for the cache, and back.

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
    """Turn labels into a record: tensors on the CPU, unpadded, and plain values.

    `keep_posteriors` is about those of the frames; a decoder's are always kept.
    """
    label, decoder = labels.label, labels.decoder
    of_frames = compression if keep_posteriors else None
    record: dict[str, Any] = {
        "utterance_ids": list(labels.utterance_ids),
        "vocabulary": label.log_probs.size(-1),
        "num_frames": labels.path.size(1),
        "lengths": label.lengths.cpu(),
        **_pack_label(label, of_frames),
        "path": _without_padding(labels.path, label.lengths),
        "reason": labels.reason.cpu(),
        "statistics": {key: float(v) for key, v in labels.statistics.items()},
        "step": labels.step,
        "layers": [_pack_label(layer, of_frames) for layer in labels.layers],
    }
    if label.frame_weight is not None:
        mask = frame_mask(label.lengths, labels.path.size(1))
        record["frame_weight"] = label.frame_weight[mask].cpu()
    if label.list_scores is not None:
        record["list"] = {
            "tokens": _without_padding(
                label.list_tokens.flatten(0, 1), label.list_lengths.flatten()
            ),
            "lengths": label.list_lengths.cpu(),
            "scores": label.list_scores.cpu(),
        }
    if decoder is not None:
        answer = record["decoder"] = {"lengths": decoder.lengths.cpu()}
        if decoder.log_probs is None:
            answer["tokens"] = _without_padding(decoder.tokens, decoder.lengths)
        else:
            answer["posteriors"] = compression.compress(
                decoder.log_probs, decoder.lengths
            )
    return record


def unpack(
    record: dict[str, Any], compression: Compression, device: torch.device
) -> Labels:
    """Turn what `pack` returned into labels.

    Posteriors that were not kept are uniform: nothing is known, and no memory taken.
    """
    lengths = record["lengths"].to(device)
    shape = (record["num_frames"], record["vocabulary"])
    label = _unpack_label(record, compression, lengths, *shape)
    if "frame_weight" in record:
        weight = _padded(record["frame_weight"], lengths, shape[0], 0.0)
        label = label._replace(frame_weight=weight)
    if "list" in record:
        label = label._replace(**_unpack_list(record["list"], device))
    return Labels(
        utterance_ids=list(record["utterance_ids"]),
        label=label,
        path=_padded(record["path"].long(), lengths, shape[0]),
        reason=record["reason"].to(device),
        statistics=dict(record["statistics"]),
        step=record["step"],
        decoder=_unpack_decoder(record, compression, device),
        layers=tuple(
            _unpack_label(layer, compression, lengths, *shape)
            for layer in record["layers"]
        ),
    )


def _pack_label(label: PseudoLabel, compression: Compression | None) -> dict[str, Any]:
    """Pack transcripts and trust, and posteriors if there is a compression."""
    packed: dict[str, Any] = {
        "token_lengths": label.token_lengths.cpu(),
        "weight": label.weight.cpu(),
        "tokens": _without_padding(label.tokens, label.token_lengths),
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
    width = int(packed["token_lengths"].max())  # Here, for it is still on the CPU.
    return PseudoLabel(
        log_probs=log_probs,
        lengths=lengths,
        tokens=_padded(packed["tokens"].long(), token_lengths, width),
        token_lengths=token_lengths,
        weight=packed["weight"].to(device),
    )


def _unpack_list(packed: dict[str, Any], device: Any) -> dict[str, torch.Tensor]:
    """Return the transcripts that a shaping has listed, as fields of a label."""
    lengths = packed["lengths"].to(device)
    width = int(packed["lengths"].max())
    rows = _padded(packed["tokens"].long(), lengths.flatten(), width)
    return {
        "list_tokens": rows.view(*lengths.shape, width),
        "list_lengths": lengths,
        "list_scores": packed["scores"].to(device),
    }


def _unpack_decoder(
    record: dict[str, Any], compression: Compression, device: torch.device
) -> DecoderLabel | None:
    """Return what a decoder answers, if it was asked."""
    if "decoder" not in record:
        return None
    packed = record["decoder"]
    width, lengths = int(packed["lengths"].max()), packed["lengths"].to(device)
    if "tokens" in packed:
        return DecoderLabel(_padded(packed["tokens"].long(), lengths, width), lengths)
    posteriors, vocabulary = packed["posteriors"], record["vocabulary"]
    log_probs = compression.restore(posteriors, lengths, width, vocabulary)
    padding = ~frame_mask(lengths, width)
    tokens = log_probs.argmax(-1).masked_fill(padding, PADDING)  # (B, P)
    return DecoderLabel(tokens, lengths, log_probs)


def _without_padding(rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Join the rows of token ids; no tokenizer has more tokens than an int32."""
    return rows[frame_mask(lengths, rows.size(1))].to(torch.int32).cpu()


def _padded(
    values: torch.Tensor, lengths: torch.Tensor, width: int, padding: float = PADDING
) -> torch.Tensor:
    """Undo `_without_padding`; the result is (B, width)."""
    mask = frame_mask(lengths, width)
    padded = torch.full(mask.shape, padding, dtype=values.dtype, device=mask.device)
    return padded.masked_scatter(mask, values.to(mask.device))
