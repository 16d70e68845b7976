"""CTC against a confusion network: the exact sum over all its paths and alignments.

The loss of an utterance is -log sum over network paths of W(path) P(labels of path):
W is the product of the bins' weights, P the usual CTC sum over alignments. SoftCTC,
Kišš et al. 2022, https://arxiv.org/abs/2212.02135, and GTC, Moritz et al. 2020,
https://arxiv.org/abs/2010.15653.

M bins, A alternatives per bin, S labels of a network. There are two kinds of state:
label s of bin j, and the blank after bin i, entered from the labels of bin i alone
(blank 0 is the start), so that each pair of path and alignment is one state sequence
and counts once. Between frames stand exits, which sum what can leave a bin; a label is
entered from at most one exit of each earlier bin in reach, whatever the number of
alternatives there:

    exit i               = blank i + labels of bin i
    exit i, barred for y = the same but for labels with token y, which need a blank
    label s of bin j     = (label s + w_s sum over i < j of skips_(i+1..j-1) exit i) p_s
    blank i              = exit i p_blank

On the CPU `graph_kernel` runs this in probabilities. The torch code here is for GPUs,
for what the kernel leaves over, and for the tests: in log space, where FLOOR stands for
log 0: finite, so that no difference is NaN.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import pad, threshold_

from espnet_softpl.ctc import BLANK, PADDING, frame_mask, in_float32, kernels
from espnet_softpl.ctc.compiled_ctc import compiled_nll
from espnet_softpl.ctc.confusion import ConfusionNetwork

FLOOR = -1e30
NEGLIGIBLE = 80.0  # Nats below the largest part of a sum.


class _Graph(NamedTuple):
    """Where each node of a batch of networks gets its probability from.

    The nodes of one frame are a single row: B x (M+1) exits, B x C barred exits,
    B x S labels, B x (M+1) blanks and one node that is never reached.
    """

    # Sources of each label, (1 + D, B * S): the label itself, then the exit 1 to D bins
    # before it. D - 1 is the longest run of skippable bins.
    enter: Tensor
    enter_weights: Tensor  # Log weights of these arcs, (1 + D, B * S).
    # Sources of each exit, (1 + A, B * (M + 1 + C)): its blank, the labels of its bin.
    leave: Tensor
    tail: Tensor  # Log weight of skipping all bins after bin i, (B, M + 1).
    label_tokens: Tensor  # (B, S), blank if padded.
    sections: list[int]  # Nodes of each kind, in the order above.


class _Labels(NamedTuple):
    """The labels of each network, numbered bin by bin, and the bins they are in.

    Bin 0 is the start: it has no labels and cannot be skipped.
    """

    bins: Tensor  # Bin of each label, from 1, (B, S), 0 if padded.
    tokens: Tensor  # (B, S), blank if padded.
    log_weights: Tensor  # (B, S), -inf if padded.
    bin_tokens: Tensor  # Alternatives of each bin, (B, M + 1, A), -1 for none.
    numbers: Tensor  # Their numbers among the labels, (B, M + 1, A), -1 for none.
    log_skips: Tensor  # (B, M + 1), 0 if padded.


def graph_ctc(log_probs: Tensor, lengths: Tensor, network: ConfusionNetwork) -> Tensor:
    """Compute the CTC loss of each utterance against its confusion network.

    Two paths that spell the same transcript both count. The gradient is the exact one
    with respect to `log_probs` as given, normalized or not: minus the posterior
    probability that a frame emits a token.

    Args:
        log_probs: Frame log-posteriors, (B, T, V).
        lengths: Frames per utterance, (B,), at most T.
        network: The target; its tokens are in [1, V). Constant: it gets no gradient.

    Returns:
        (B,), in nats. 0 without gradient if no path fits the frames, or if
        frames or weights of probability 0 rule out every path.

    Raises:
        ValueError: On the CPU, a length or a token is out of its range.
    """
    log_probs = in_float32(log_probs)

    def reference(rows: Tensor) -> Tensor:
        part = ConfusionNetwork(*(field[rows] for field in network))
        graph = _build_graph(part, log_probs.dtype)
        return _GraphCTC.apply(log_probs[rows], lengths[rows], graph)

    if kernels.usable(log_probs):
        return compiled_nll(log_probs, lengths, network, reference)
    graph = _build_graph(network, log_probs.dtype)
    return _GraphCTC.apply(log_probs, lengths, graph)


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
    """The forward recursion, and its derivative written by hand."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, log_probs: Tensor, lengths: Tensor, graph: _Graph
    ) -> Tensor:
        """Compute -log of the weighted sum over paths and alignments, (B,)."""
        nodes = _forward_pass(*_emissions(log_probs, lengths, graph), graph)
        ends = _exits(nodes, graph)[_end(lengths)] + graph.tail
        # A running sum, for logsumexp adds in an order that depends on the padding.
        total = ends.logcumsumexp(1)[:, -1]
        impossible = total < FLOOR / 2
        posteriors = (ends - total.unsqueeze(1)).exp()
        posteriors.masked_fill_(impossible.unsqueeze(1), 0.0)
        ctx.save_for_backward(nodes, lengths, posteriors)
        ctx.graph, ctx.shape = graph, log_probs.shape
        return -total.masked_fill(impossible, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor, None, None]:
        """Scale the occupancies of the tokens, (B, T, V), by the loss's gradient."""
        nodes, lengths, posteriors = ctx.saved_tensors
        graph, (num_utterances, num_frames, _) = ctx.graph, ctx.shape
        occupancies = torch.zeros_like(nodes)
        ends = -grad_output.unsqueeze(1) * posteriors
        _exits(occupancies, graph)[_end(lengths)] = ends
        _backward_pass(nodes, occupancies, graph)
        _, _, labels, blanks, _ = occupancies[1:].split(graph.sections, 1)
        shape = (num_frames, num_utterances, -1)
        labels = labels.view(shape).transpose(0, 1)
        # As in forward, the order of a running sum is independent of the padding.
        blanks = blanks.view(shape).cumsum(-1)[..., -1]
        gradient = nodes.new_zeros(ctx.shape)
        index = graph.label_tokens.unsqueeze(1).expand_as(labels)
        gradient.scatter_add_(2, index, labels)
        gradient[..., BLANK] += blanks.t()
        return gradient, None, None


def _emissions(
    log_probs: Tensor, lengths: Tensor, graph: _Graph
) -> tuple[Tensor, Tensor]:
    """Gather what labels (T, B * S) and blanks (T, B) emit; 0 in padding frames."""
    padding = ~frame_mask(lengths, log_probs.size(1)).unsqueeze(2)
    index = graph.label_tokens.unsqueeze(1).expand(-1, log_probs.size(1), -1)
    labels = log_probs.gather(2, index).clamp_(min=FLOOR).masked_fill_(padding, 0.0)
    blanks = log_probs[..., BLANK, None].clamp(min=FLOOR).masked_fill_(padding, 0.0)
    return labels.transpose(0, 1).flatten(1), blanks.squeeze(2).t().contiguous()


def _exits(nodes: Tensor, graph: _Graph) -> Tensor:
    """View the exits that bar no label, (T + 1, B, M + 1)."""
    return nodes[:, : graph.sections[0]].view(-1, *graph.tail.shape)


def _by_frame(nodes: Tensor, graph: _Graph) -> tuple[tuple[Tensor, ...], ...]:
    """View the exits with the barred ones, the labels, and the blanks, row by row."""
    sections = [sum(graph.sections[:2]), *graph.sections[2:]]
    exits, labels, blanks, _ = nodes.split(sections, 1)
    return exits.unbind(), labels.unbind(), blanks.unbind()


def _end(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Index each utterance's nodes after its last frame."""
    return lengths, torch.arange(lengths.numel(), device=lengths.device)


def _forward_pass(
    label_emissions: Tensor, blank_emissions: Tensor, graph: _Graph
) -> Tensor:
    """Compute the forward log-probability of every node, (T + 1, nodes).

    Row t holds the nodes after t frames; in row 0 nothing is reached but exit 0.
    """
    num_frames = label_emissions.size(0)
    nodes = label_emissions.new_full((num_frames + 1, sum(graph.sections)), FLOOR)
    _exits(nodes, graph)[0, :, 0] = 0.0
    exits, labels, blanks = _by_frame(nodes, graph)
    enter, leave = graph.enter.flatten(), graph.leave.flatten()
    entering = nodes.new_empty(graph.enter.shape)
    leaving = nodes.new_empty(graph.leave.shape)
    shape = graph.tail.shape
    for t in range(num_frames):
        torch.index_select(nodes[t], 0, enter, out=entering.view(-1))
        entering += graph.enter_weights
        peak, total = _exp_sum(entering)
        torch.add(total.log_(), peak.add_(label_emissions[t]), out=labels[t + 1])
        torch.add(
            exits[t][: graph.sections[0]].view(shape),
            blank_emissions[t].unsqueeze(1),
            out=blanks[t + 1].view(shape),
        )
        torch.index_select(nodes[t + 1], 0, leave, out=leaving.view(-1))
        peak, total = _exp_sum(leaving)
        torch.add(total.log_(), peak, out=exits[t + 1])
    return nodes


def _backward_pass(nodes: Tensor, occupancies: Tensor, graph: _Graph) -> None:
    """Send occupancies back from the ends, in place, each along its arcs.

    A node's occupancy goes to its sources in proportion to what they brought it. This
    needs no second recursion in log space, and rounding cannot change its sum.
    """
    exits, labels, blanks = _by_frame(occupancies, graph)
    enter, leave = graph.enter.flatten(), graph.leave.flatten()
    entering = nodes.new_empty(graph.enter.shape)
    leaving = nodes.new_empty(graph.leave.shape)
    for t in reversed(range(len(nodes) - 1)):
        torch.index_select(nodes[t + 1], 0, leave, out=leaving.view(-1))
        _, total = _exp_sum(leaving)
        leaving *= exits[t + 1] / total
        occupancies[t + 1].index_add_(0, leave, leaving.view(-1))
        torch.index_select(nodes[t], 0, enter, out=entering.view(-1))
        entering += graph.enter_weights
        _, total = _exp_sum(entering)
        entering *= labels[t + 1] / total
        occupancies[t].index_add_(0, enter, entering.view(-1))
        exits[t][: graph.sections[0]] += blanks[t + 1]


def _exp_sum(log_parts: Tensor) -> tuple[Tensor, Tensor]:
    """Replace log parts (P, K) by exp(part - peak); return peak and sum, both (K,).

    Row by row, for the bits of torch's logsumexp, softmax and sum depend on K and on
    where a column stands: what pads an utterance would change its loss.
    """
    peak = log_parts.amax(0)
    # Parts this small add nothing to the sum, and exp is slow where it underflows.
    log_parts.sub_(peak).clamp_(min=-NEGLIGIBLE).exp_()
    threshold_(log_parts, math.exp(1.0 - NEGLIGIBLE), 0.0)
    first, *others = log_parts.unbind()
    total = first.clone()
    for part in others:
        total += part
    return peak, total


def _build_graph(network: ConfusionNetwork, dtype: torch.dtype) -> _Graph:
    """Lay out the nodes and arcs of a batch of networks.

    Example: one utterance, bins {a 1.0}, {b 0.7, skip 0.3}, {a 0.6, c 0.4}. Its labels
    are a1, b2, a3, c3 (S = 4, numbers 0 to 3); M + 1 = 4 bins with the start. a3 may
    follow bin 2, and past it bin 1, which holds the token a as well: from a1 it needs a
    blank, so that one exit of bin 1 is barred for a (C = 1). The nodes are

        0-3 exits 0 to 3 | 4 exit 1 barred for a | 5-8 a1 b2 a3 c3 | 9-12 blanks | 13

    and node 13 is never reached. The sources of the labels, one column each, are

        itself                5 (a1)   6 (b2)   7 (a3)   8 (c3)
        exit 1 bin before     0        1        2        2
        exit 2 bins before    -        -        4        1      with log 0.3 more

    ("-": a weight of log 0). Exit 1 leaves blank 1 and a1, (10, 5); barred for a, it
    leaves blank 1 alone, (10, 13).
    """
    labels = _list_labels(network, dtype)
    reached, weights, rivals = _reach_back(labels)  # Each (D, B, S).
    # A barred exit goes by the label whose token it bars: a1 above.
    barred = torch.zeros_like(labels.bins, dtype=torch.bool)
    depths, rows, columns = (rivals >= 0).nonzero(as_tuple=True)
    barred[rows, rivals[depths, rows, columns]] = True
    order = barred.cumsum(1) - 1  # The number of each barred exit, (B, S).

    num_utterances, width, _ = labels.numbers.shape
    counts = [width, int(barred.sum(1).max()), labels.bins.size(1), width]
    sections = [*(num_utterances * count for count in counts), 1]
    rows = torch.arange(num_utterances, device=barred.device).unsqueeze(1)
    # The first node of each utterance in each section, (B, 1).
    exits, barred_exits, own, blanks = (
        sum(sections[:kind]) + rows * count for kind, count in enumerate(counts)
    )
    itself = own + torch.arange(counts[2], device=rows.device)
    around = barred_exits + order[rows, rivals]  # Instead, (D, B, S).
    sources = (exits + reached).where(rivals < 0, around)
    return _Graph(
        enter=torch.cat([itself.unsqueeze(0), sources]).flatten(1),
        enter_weights=pad(weights, (0, 0, 0, 0, 1, 0)).flatten(1).clamp_(min=FLOOR),
        leave=_leave(labels, barred, order, own, blanks),
        tail=_tail(labels.log_skips),
        label_tokens=labels.tokens,
        sections=sections,
    )


def _leave(
    labels: _Labels, barred: Tensor, order: Tensor, own: Tensor, blanks: Tensor
) -> Tensor:
    """List the sources of the exits, then of the barred ones: `_Graph.leave`.

    `barred` marks the labels whose token some exit bars, `order` numbers those exits,
    both (B, S); `own` and `blanks` are the first label and blank nodes, (B, 1).
    """
    num_utterances, width, _ = labels.numbers.shape
    void = int(blanks[-1]) + width  # The node that is never reached.
    afters = blanks + torch.arange(width, device=blanks.device)  # (B, M + 1)
    members = (own.unsqueeze(2) + labels.numbers).masked_fill(labels.numbers < 0, void)
    plain = torch.cat([afters.unsqueeze(2), members], 2)  # (B, M + 1, 1 + A)
    rows, columns = barred.nonzero(as_tuple=True)
    bins = labels.bins[rows, columns]
    around = plain[rows, bins]
    same = labels.bin_tokens[rows, bins] == labels.tokens[rows, columns, None]
    around[:, 1:].masked_fill_(same, void)
    table = plain.new_full(
        (num_utterances, int(barred.sum(1).max()), plain.size(2)), void
    )
    table[rows, order[rows, columns]] = around
    return torch.cat([plain.flatten(0, 1), table.flatten(0, 1)]).t().contiguous()


def _tail(log_skips: Tensor) -> Tensor:
    """Sum the log skips of all bins after each of bins 0 to M, (B, M + 1)."""
    after = pad(log_skips[:, 1:], (0, 1))
    return after.flip(1).cumsum(1).flip(1).clamp_(min=FLOOR)


def _list_labels(network: ConfusionNetwork, dtype: torch.dtype) -> _Labels:
    """Number the alternatives that can be taken."""
    inside = frame_mask(network.bins, network.tokens.size(1))
    present = (network.tokens != PADDING) & (network.weights > 0) & inside[..., None]
    rows, columns, _ = place = present.nonzero(as_tuple=True)
    numbers = (present.flatten(1).cumsum(1) - 1).view_as(present)
    numbers = numbers.masked_fill(~present, -1)
    shape = (len(present), int(present.sum((1, 2)).max()))
    bins = columns.new_zeros(shape)
    tokens = columns.new_full(shape, BLANK)
    log_weights = network.weights.new_full(shape, -torch.inf, dtype=dtype)
    target = rows, numbers[place]
    bins[target] = columns + 1
    tokens[target] = network.tokens[place]
    log_weights[target] = network.weights[place].to(dtype).log()
    log_skips = network.skips.to(dtype).log().masked_fill(~inside, 0.0)
    start = (0, 0, 1, 0)
    return _Labels(
        bins,
        tokens,
        log_weights,
        pad(network.tokens.masked_fill(~present, PADDING), start, value=PADDING),
        pad(numbers, start, value=-1),
        pad(log_skips, (1, 0), value=-torch.inf),
    )


def _reach_back(labels: _Labels) -> tuple[Tensor, Tensor, Tensor]:
    """Find the bins that each label can follow, from the nearest to the farthest.

    Returns three (D, B, S): the bin, the log weight of skipping what lies between and
    taking the label, and the number of a label in that bin with the same token, -1 if
    there is none. D is as small as the longest reach allows.
    """
    rows = torch.arange(len(labels.bins), device=labels.bins.device).unsqueeze(1)
    bins, log_weights = labels.bins, labels.log_weights
    arcs = []
    while (possible := log_weights > -torch.inf).any():
        bins = (bins - 1).clamp(min=0)
        same = labels.bin_tokens[rows, bins] == labels.tokens.unsqueeze(2)
        rivals = labels.numbers[rows, bins].masked_fill(~same, -1).amax(2)
        arcs.append((bins, log_weights, rivals.masked_fill(~possible, -1)))
        log_weights = log_weights + labels.log_skips[rows, bins]
    if not arcs:
        arcs = [(bins, log_weights, torch.full_like(bins, -1))]
    reached, weights, rivals = (torch.stack(parts) for parts in zip(*arcs))
    return reached, weights, rivals
