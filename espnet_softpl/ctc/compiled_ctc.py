"""The loss against networks or transcripts by `graph_kernel`, with its gradient."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from espnet_softpl.ctc.confusion import ConfusionNetwork


def compiled_nll(
    log_probs: Tensor,
    lengths: Tensor,
    network: ConfusionNetwork,
    reference: Callable[[Tensor], Tensor],
) -> Tensor:
    """Compute the CTC loss of each network by the kernel, or else by `reference`.

    Args:
        log_probs: Frame log-posteriors, (B, T, V), which `kernels.usable` takes.
        lengths: Frames per utterance, (B,), at most T.
        network: P = B K networks, K of each utterance, side by side.
        reference: From the numbers of the networks that the kernel cannot compute in
            probability space, (R,), to their losses, (R,).

    Returns:
        (P,), in nats.

    Raises:
        ValueError: A length or a token is out of its range.
    """
    losses = _CompiledNll.apply(log_probs, lengths, network)
    rows = losses.isnan().nonzero().squeeze(1)
    return losses.index_copy(0, rows, reference(rows)) if len(rows) else losses


class _CompiledNll(torch.autograd.Function):
    """The loss and, in the same call, the occupancies that its gradient consists of."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, log_probs: Tensor, lengths: Tensor, network: ConfusionNetwork
    ) -> Tensor:
        """Compute (P,), NaN if the kernel is not to be trusted."""
        from espnet_softpl.ctc import graph_kernel

        frames, bins = log_probs.contiguous(), network.bins.numpy()
        num_frames, num_tokens = frames.shape[1:]
        layout = graph_kernel.lay_out(
            network.tokens.contiguous().numpy(),
            network.weights.double().contiguous().numpy(),
            network.skips.double().contiguous().numpy(),
            bins,
            num_tokens,
        )
        first, _, _, sizes, *_ = layout
        size = max(sizes, default=1)
        nodes = first.max(initial=0) + first.shape[1]
        scratch = torch.empty(
            int((num_frames + 2) * nodes + num_frames * size), dtype=torch.float64
        )
        losses = torch.empty(len(bins), dtype=torch.float64)
        occupancy = frames.new_empty(len(bins), num_frames, int(size))
        graph_kernel.forward_backward(
            frames.numpy(),
            lengths.contiguous().numpy(),
            bins,
            layout,
            scratch.numpy(),
            losses.numpy(),
            occupancy.numpy(),
        )
        ctx.save_for_backward(occupancy, lengths)
        ctx.layout, ctx.shape = layout, log_probs.shape
        return losses.to(log_probs.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor, None, None]:
        """Scale the occupancies of the tokens, (B, T, V), by the loss's gradient."""
        from espnet_softpl.ctc import graph_kernel

        occupancy, lengths = ctx.saved_tensors
        gradient = occupancy.new_zeros(ctx.shape)
        graph_kernel.add_gradient(
            gradient.numpy(),
            grad_output.double().numpy(),
            lengths.contiguous().numpy(),
            ctx.layout,
            occupancy.numpy(),
        )
        return gradient, None, None
