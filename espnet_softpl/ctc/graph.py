"""CTC against a confusion network: the exact sum over all its paths and alignments.

The loss of an utterance is -log sum over network paths of W(path) P(labels of path):
W is the product of the bins' weights, P the usual CTC sum over alignments. SoftCTC,
Kišš et al. 2022, https://arxiv.org/abs/2212.02135, and GTC, Moritz et al. 2020,
https://arxiv.org/abs/2010.15653.

M bins, A alternatives per bin, S labels of a network. There are two kinds of state:
label s of bin j, and the blank after bin i, entered from the labels of bin i alone
(blank 0 is the start), so that each pair of path and alignment is one state sequence
and counts once. What can leave bin i is summed once for all labels that it may enter:

    exit i               = blank i + labels of bin i
    exit i, barred for y = the same but for labels with token y, which need a blank
    label s of bin j     = (label s + w_s sum over i < j of skips_(i+1..j-1) exit i) p_s
    blank i              = exit i p_blank

`graph_kernel` runs this on the CPU, in probabilities; of a GPU's frames the networks'
own tokens are copied there. What it leaves over is summed in log space, by all arcs
from state to state.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from espnet_softpl.ctc import in_float32, kernels
from espnet_softpl.ctc.confusion import ConfusionNetwork


def graph_ctc(log_probs: Tensor, lengths: Tensor, network: ConfusionNetwork) -> Tensor:
    """Compute the CTC loss of utterances against confusion networks.

    Two paths that spell the same transcript both count. The gradient is the exact one
    with respect to `log_probs` as given, normalized or not: minus the posterior
    probability that a frame emits a token.

    Args:
        log_probs: Frame log-posteriors, (B, T, V).
        lengths: Frames per utterance, (B,), at most T.
        network: The targets, K B of them, K of each utterance side by side; their
            tokens are in [1, V). Constant: they get no gradient.

    Returns:
        (K B,), in nats. 0 without gradient if no path fits the frames, or if
        frames or weights of probability 0 rule out every path.

    Raises:
        ValueError: A length or a token is out of its range.
    """
    return _GraphCTC.apply(in_float32(log_probs), lengths, network)


def graph_occupancies(
    log_probs: Tensor, lengths: Tensor, network: ConfusionNetwork
) -> Tensor:
    """Compute the probability that a frame emits a token, given the network.

    An alignment of a path weighs W(path) times its probability: minus the gradient of
    `graph_ctc`, with the same arguments. Returns (B, T, V), without gradient; frames
    sum to 1, those of padding and of impossible utterances to 0.
    """
    with torch.enable_grad():
        leaf = in_float32(log_probs).detach().requires_grad_(True)
        losses = graph_ctc(leaf, lengths, network)
        return -torch.autograd.grad(losses.sum(), leaf)[0]


class _GraphCTC(torch.autograd.Function):
    """The loss and, in the same call, the occupancies that its gradient consists of."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, log_probs: Tensor, lengths: Tensor, network: ConfusionNetwork
    ) -> Tensor:
        from espnet_softpl.ctc import graph_kernel

        num_frames, num_tokens = log_probs.shape[1:]
        lengths, tokens, bins = kernels.arrays(lengths, network.tokens, network.bins)
        chances = kernels.arrays(network.weights.double(), network.skips.double())
        layout = graph_kernel.lay_out(tokens, *chances, bins, num_tokens)
        _, _, tokens_of, sizes, *_ = layout
        size = int(max(sizes, default=1))
        num = len(bins) // max(len(log_probs), 1)  # K
        symbols = torch.from_numpy(tokens_of[:, :size]).to(log_probs.device)
        symbols = symbols.view(len(log_probs), num, 1, size)
        ctx.index = symbols.expand(-1, -1, num_frames, -1)  # (B, K, T, D)
        copies = log_probs.unsqueeze(1).expand(-1, num, -1, -1)
        (frames,) = kernels.arrays(copies.gather(3, ctx.index).flatten(0, 1))
        losses = torch.empty(len(bins), dtype=torch.float64)
        occupancy = torch.zeros(frames.shape, dtype=log_probs.dtype)
        lengths = lengths.repeat(num)
        given, results = (frames, lengths, bins), kernels.arrays(losses, occupancy)
        kernels.for_utterances(
            lambda part: graph_kernel.forward_backward(
                *(array[part] for array in given),
                tuple(array[part] for array in layout),
                *(array[part] for array in results),
            ),
            len(bins),
        )
        for p in losses.isnan().nonzero().flatten().tolist():
            own = (part[p] for part in layout)
            losses[p], shares = _sum_in_logs(frames[p, : lengths[p]], bins[p], *own)
            occupancy[p, : len(shares), : shares.shape[1]] = torch.from_numpy(shares)
        ctx.occupancy = occupancy.view(ctx.index.shape).to(log_probs.device)
        ctx.shape = log_probs.shape
        return losses.to(log_probs)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor, None, None]:
        """Scale the occupancies of the tokens, (B, K, T, D), by the loss's gradient."""
        scale = grad_output.view(*ctx.index.shape[:2], 1, 1)
        # Where the loss does not count its occupancies may be no numbers.
        shares = torch.where(scale == 0, 0.0, -scale * ctx.occupancy)
        gradient = grad_output.new_zeros(ctx.shape)
        # One network after the other: a GPU adds up in no order, and rounds.
        for index, share in zip(ctx.index.unbind(1), shares.unbind(1)):
            gradient.scatter_add_(2, index, share)
        return gradient, None, None


def _list_arcs(
    first: np.ndarray, symbols: np.ndarray, weights: np.ndarray, skips: np.ndarray
) -> np.ndarray:
    """List the arcs into each state in turn: target, source and log weight, (3, arcs).

    States are the labels, then the blanks; the arguments are of `graph_kernel.lay_out`.
    """
    labels = [range(*pair) for pair in zip(first, first[1:])]  # Of each bin.
    blank = first[-1]  # The first of them.
    arcs = []
    for j, own in enumerate(labels):
        for s in own:
            arcs.append((s, s, 0.0))
            chance, i = weights[s], j - 1
            while chance > 0.0:
                others = [k for k in labels[i] if symbols[k] != symbols[s]]
                arcs += [(s, k, math.log(chance)) for k in (blank + i, *others)]
                chance, i = chance * skips[i], i - 1
    for j, own in enumerate(labels):
        arcs += [(blank + j, k, 0.0) for k in (blank + j, *own)]
    return np.array(arcs).T


def _sum_in_logs(
    frames: np.ndarray,
    num_bins: int,
    first: np.ndarray,
    symbols: np.ndarray,
    _tokens: np.ndarray,
    size: int,
    weights: np.ndarray,
    skips: np.ndarray,
    _rivals: np.ndarray,
) -> tuple[float, np.ndarray]:
    """Compute the loss of one network over frames (T, D), and its occupancies (T, D).

    The loss and all occupancies are 0 if no path is possible, and NaN if a frame is.
    An occupancy goes back along the arcs in proportion to what each has brought.
    """
    first, skips = first[: num_bins + 2], skips[: num_bins + 1]
    targets, sources, log_weights = _list_arcs(first, symbols, weights, skips)
    targets, sources = targets.astype(int), sources.astype(int)
    starts = np.flatnonzero(np.diff(targets, prepend=-1))
    said = np.append(symbols[: first[-1]], np.zeros(num_bins + 1, int))  # By state.
    emissions = frames[:, said].astype(np.float64)
    alpha = np.full((len(frames) + 1, len(said)), -np.inf)
    alpha[0, first[-1]] = 0.0
    occupancy = np.zeros((len(frames), size))
    with np.errstate(divide="ignore", invalid="ignore"):
        for t, emission in enumerate(emissions):
            parts = alpha[t, sources] + log_weights
            alpha[t + 1] = np.logaddexp.reduceat(parts, starts) + emission
        tail = np.log(np.append(skips[1:], 1.0))[::-1].cumsum()[::-1]  # (M + 1,)
        in_bin = np.searchsorted(first, range(first[-1]), side="right") - 1
        ends = alpha[-1] + np.append(tail[in_bin], tail)
        total = np.logaddexp.reduce(ends)
        if not np.isfinite(total):
            loss = 0.0 if total == -np.inf else math.nan
            return loss, np.full_like(occupancy, loss)
        share = np.exp(ends - total)
        for t in reversed(range(len(frames))):
            occupancy[t] = np.bincount(said, share, size)
            parts = (
                alpha[t, sources] + log_weights + (emissions[t] - alpha[t + 1])[targets]
            )
            brought = np.where(share[targets] > 0, share[targets] * np.exp(parts), 0.0)
            share = np.bincount(sources, brought, len(said))
    return -total, occupancy
