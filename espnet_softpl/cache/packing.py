"""The labels of one unlabeled mini-batch as a record for the cache, and back."""

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
    """Turn labels into a record: tensors on the CPU, unpadded, and plain values."""
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
        rows, lengths = label.list_tokens.flatten(0, 1), label.list_lengths
        record["list"] = {
            "tokens": _without_padding(rows, lengths.flatten()),
            "lengths": lengths.cpu(),
            "scores": label.list_scores.cpu(),
        }
    if decoder is not None:
        answer = record["decoder"] = {"lengths": decoder.lengths.cpu()}
        if decoder.log_probs is None:
            answer["tokens"] = _without_padding(decoder.tokens, decoder.lengths)
        else:
            posteriors = compression.compress(decoder.log_probs, decoder.lengths)
            answer["posteriors"] = posteriors
    return record


def unpack(
    record: dict[str, Any], compression: Compression, device: torch.device
) -> Labels:
    """Turn what `pack` returned into labels; posteriors not kept are uniform."""
    lengths = record["lengths"].to(device)
    shape = (record["num_frames"], record["vocabulary"])
    label = _unpack_label(record, compression, lengths, *shape)
    if "frame_weight" in record:
        weight = _padded(record["frame_weight"], lengths, shape[0], 0.0)
        label = label._replace(frame_weight=weight)
    if "list" in record:
        listed = record["list"]
        of_list = listed["lengths"]
        rows, _ = _rows(listed["tokens"], of_list.flatten(), device)
        label = label._replace(
            list_tokens=rows.unflatten(0, of_list.shape),
            list_lengths=of_list.to(device),
            list_scores=listed["scores"].to(device),
        )
    layers = (_unpack_label(p, compression, lengths, *shape) for p in record["layers"])
    return Labels(
        utterance_ids=list(record["utterance_ids"]),
        label=label,
        path=_padded(record["path"].long(), lengths, shape[0]),
        reason=record["reason"].to(device),
        statistics=dict(record["statistics"]),
        step=record["step"],
        decoder=_unpack_decoder(record, compression, device),
        layers=tuple(layers),
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
        # They take no memory.
        flat = torch.full((), -math.log(vocabulary), device=device)
        log_probs = flat.expand(lengths.numel(), num_frames, vocabulary)
    tokens, token_lengths = _rows(packed["tokens"], packed["token_lengths"], device)
    weight = packed["weight"].to(device)
    return PseudoLabel(log_probs, lengths, tokens, token_lengths, weight)


def _unpack_decoder(
    record: dict[str, Any], compression: Compression, device: torch.device
) -> DecoderLabel | None:
    """Return what a decoder answers, if it was asked."""
    if "decoder" not in record:
        return None
    packed = record["decoder"]
    if "tokens" in packed:
        return DecoderLabel(*_rows(packed["tokens"], packed["lengths"], device))
    width, lengths = int(packed["lengths"].max()), packed["lengths"].to(device)
    posteriors, vocabulary = packed["posteriors"], record["vocabulary"]
    log_probs = compression.restore(posteriors, lengths, width, vocabulary)
    padding = ~frame_mask(lengths, width)
    tokens = log_probs.argmax(-1).masked_fill(padding, PADDING)  # (B, P)
    return DecoderLabel(tokens, lengths, log_probs)


def _without_padding(rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Join the rows of token ids; no tokenizer has more tokens than an int32."""
    return rows[frame_mask(lengths, rows.size(1))].to(torch.int32).cpu()


def _rows(
    values: torch.Tensor, lengths: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Undo `_without_padding`, (B, U), on a device; return the lengths there too."""
    width = int(lengths.max())  # Here, for they are still on the CPU.
    lengths = lengths.to(device)
    return _padded(values.long(), lengths, width), lengths


def _padded(
    values: torch.Tensor, lengths: torch.Tensor, width: int, padding: float = PADDING
) -> torch.Tensor:
    """Put the values of rows, one after the other, into (B, width)."""
    mask = frame_mask(lengths, width)
    padded = torch.full(mask.shape, padding, dtype=values.dtype, device=mask.device)
    return padded.masked_scatter(mask, values.to(mask.device))
