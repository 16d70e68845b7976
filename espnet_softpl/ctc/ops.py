"""The collapse map and what follows from it; weights and temperatures of frames."""

import torch
from torch import Tensor

BLANK = 0
PADDING = -1


def frame_mask(lengths: Tensor, max_length: int) -> Tensor:
    """Return (B, max_length), True for frames (or labels) within the lengths (B,)."""
    positions = torch.arange(max_length, device=lengths.device)
    return positions.unsqueeze(0) < lengths.unsqueeze(1)


def in_float32(log_probs: Tensor) -> Tensor:
    """Return half precision as float32, and anything else as it is."""
    if log_probs.dtype in (torch.float16, torch.bfloat16):
        return log_probs.float()
    return log_probs


def sharpen(log_probs: Tensor, temperature: float) -> Tensor:
    """Return log softmax(log_probs / temperature), (..., V), over the last axis.

    Below 1 it sharpens, above 1 it flattens, 1 returns the input itself.
    """
    if temperature == 1.0:
        return log_probs
    return (log_probs / temperature).log_softmax(-1)


def weigh(log_probs: Tensor, frame_weight: Tensor | None) -> Tensor:
    """Multiply frame log-posteriors, (B, T, V), by the trust in each frame, (B, T).

    In a sum over alignments a frame of weight 0 may then be any token, at no cost. None
    is full trust.
    """
    if frame_weight is None:
        return log_probs
    return log_probs * frame_weight.to(log_probs.dtype).unsqueeze(-1)


def collapse(
    path: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor] | list[int]:
    """Map alignments to transcripts: merge repeats first, then drop blanks.

    The order matters: "l <blank> l" is two letters, "l l" is one. Removing blanks
    first would lose every true double letter (a fault seen in public code).

    Args:
        path: One token per frame, (T,), (B, T), or (B, K, T) for K paths of each.
        lengths: Frames per utterance, (B,); for a (T,) path an optional scalar.

    Returns:
        For (T,) a list of ints; else tokens (B, U) or (B, K, U) padded with -1, and
        token_lengths (B,) or (B, K).

    Raises:
        ValueError: The path has another rank, or (B, T) comes without lengths.
    """
    if path.dim() == 1:
        frames = path.new_tensor([path.numel() if lengths is None else int(lengths)])
        tokens, token_lengths = collapse(path.unsqueeze(0), frames)
        return tokens[0, : int(token_lengths[0])].tolist()
    if path.dim() == 3 and lengths is not None:
        rows = path.flatten(0, 1), lengths.repeat_interleave(path.size(1))
        tokens, token_lengths = collapse(*rows)
        shape = path.shape[:2]
        return tokens.view(*shape, tokens.size(1)), token_lengths.view(shape)
    if path.dim() != 2 or lengths is None:
        raise ValueError(
            f"collapse takes a (T,) path, or a (B, T) path with lengths (B,); got a "
            f"path of shape {tuple(path.shape)}, lengths={lengths}"
        )
    starts_token = torch.ones_like(path, dtype=torch.bool)
    starts_token[:, 1:] = path[:, 1:] != path[:, :-1]
    keep = starts_token & (path != BLANK) & frame_mask(lengths, path.size(1))
    token_lengths = keep.sum(1)
    width = int(token_lengths.max()) if path.size(0) else 0
    # What is left out goes to one more column, and away with it: no frame has to be
    # looked for, which a GPU would have to tell. (1, 1, 0, 2) has columns (0, 2, 2, 1).
    columns = torch.where(keep, keep.cumsum(1) - 1, width)
    tokens = path.new_full((path.size(0), width + 1), PADDING)
    tokens.scatter_(1, columns, torch.where(keep, path, PADDING))
    return tokens[:, :width], token_lengths


def frequent_tokens(
    log_probs: Tensor, lengths: Tensor, topk: int
) -> tuple[Tensor, Tensor]:
    """Select the tokens that are among the `topk` best of any frame of an utterance.

    Args:
        log_probs: (B, T, V).
        lengths: Frames per utterance, (B,).
        topk: At least 1.

    Returns:
        tokens (B, K), blank first, in order, padded with blank; and what the frames say
        of them, (B, T, K), -inf in the padding.
    """
    best = log_probs[..., 1:].topk(min(topk, log_probs.size(-1) - 1)).indices + 1
    inside = frame_mask(lengths, log_probs.size(1)).unsqueeze(-1)
    best = torch.where(inside, best, BLANK).flatten(1)
    used = log_probs.new_zeros(log_probs[:, 0].shape, dtype=torch.bool)
    used.scatter_(1, best, True)
    used[:, BLANK] = True
    width = int(used.sum(1).max())
    # A stable order of the flags, True first, leaves the tokens in theirs.
    tokens = used.int().argsort(dim=1, descending=True, stable=True)[:, :width]
    is_used = used.gather(1, tokens)
    index = tokens.unsqueeze(1).expand(-1, log_probs.size(1), -1)
    few = log_probs.gather(2, index).masked_fill(~is_used.unsqueeze(1), -torch.inf)
    return tokens * is_used, few


def greedy(log_probs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Transcribe by the best token of every frame, collapsed.

    From log-posteriors (B, T, V), or any monotone scores, and lengths (B,) to tokens
    (B, U) padded with -1 and token_lengths (B,).
    """
    return collapse(log_probs.argmax(-1), lengths)


def min_frames(tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """Count the frames that transcripts (B, U) of token_lengths (B,) need, (B,).

    One frame per token, and one blank between two equal neighbors.
    """
    if tokens.size(1) < 2:
        return token_lengths.clone()
    repeats = (tokens[:, 1:] == tokens[:, :-1]) & frame_mask(
        token_lengths - 1, tokens.size(1) - 1
    )
    return token_lengths + repeats.sum(1)
