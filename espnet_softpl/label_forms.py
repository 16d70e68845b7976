"""Who learns from a label beside the last layer's CTC: the decoder, other layers.

B utterances, U labels, V tokens with blank. The positions of a decoder are its
transcript's tokens and the end after them: U + 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from typing import Any, NamedTuple

import torch

from espnet_softpl.ctc import PADDING, frame_mask, in_float32
from espnet_softpl.frame_ce import distribution_ce
from espnet_softpl.ranges import choice

DECODER_TARGETS = ("auto", "none", "transcript", "forced", "forced_soft")
LAYER_TARGETS = ("none", "last", "own")


@dataclasses.dataclass(frozen=True)
class LabelForms:
    """What else than the last layer's CTC is trained, and on what.

    Attributes:
        decoder: Target of the decoder (`pl_decoder`). `none`: it is not trained.
            `transcript`: the transcript that the teacher's CTC head spells; an
            attention decoder's, or a transducer's. `forced`: what the teacher's
            attention decoder answers at each position when it is fed that
            transcript, its best token; `forced_soft`: its whole distribution.
            `auto`: `transcript` for an attention decoder where the criterion is on
            transcripts, else `none`.
        layers: Target of intermediate CTC (`pl_interctc`). `none`: it is not trained.
            `last`: the last layer's label; `own`: that of the teacher's same layer.

    Raises:
        ValueError: A value that is not legal.
    """

    decoder: str = "auto"
    layers: str = "none"

    def __post_init__(self) -> None:
        for name, value, legal in (
            ("pl_decoder", self.decoder, DECODER_TARGETS),
            ("pl_interctc", self.layers, LAYER_TARGETS),
        ):
            try:
                choice("it", value, legal)
            except ValueError as error:
                raise ValueError(
                    f"{name}: {str(error).removeprefix('it ')}"
                ) from error

    @property
    def forced(self) -> bool:
        """Whether the teacher's decoder is asked."""
        return self.decoder in ("forced", "forced_soft")

    @property
    def soft(self) -> bool:
        """Whether its whole distribution is kept."""
        return self.decoder == "forced_soft"

    def decoder_target(self, on_transcripts: bool, transducer: bool) -> str:
        """Return what a decoder is trained on: any of `decoder` but `auto`.

        Args:
            on_transcripts: Whether the criterion is on transcripts.
            transducer: Whether the decoder is a transducer's.
        """
        if self.decoder != "auto":
            return self.decoder
        return "transcript" if on_transcripts and not transducer else "none"

    def identity(self) -> dict[str, str]:
        """Return the settings that saved labels depend on."""
        return {
            "pl_decoder": self.decoder if self.forced else "auto",
            "pl_interctc": self.layers if self.layers == "own" else "none",
        }


def add_arguments(group: Any) -> None:
    """Add the options that choose the forms.

    Args:
        group: A group of a parser's options.
    """
    group.add_argument(
        "--pl_decoder",
        type=str,
        default="auto",
        help="What unlabeled batches train the decoder on. Legal: "
        f"{', '.join(DECODER_TARGETS)} (forced: what the teacher's decoder answers to "
        "the transcript of its CTC head, best tokens or whole distributions; auto: "
        "that transcript, for an attention decoder and a criterion on transcripts)",
    )
    group.add_argument(
        "--pl_interctc",
        type=str,
        default="none",
        help="Whose label trains intermediate CTC layers on unlabeled batches, the "
        f"last layer's or each one's own. Legal: {', '.join(LAYER_TARGETS)}",
    )


def check(forms: LabelForms, args: argparse.Namespace) -> None:
    """Refuse targets for parts that the model does not have.

    Args:
        forms: What is to be trained.
        args: The parsed options.

    Raises:
        ValueError: With the key, the value and what is legal.
    """
    model_conf = args.model_conf or {}
    transducer = args.decoder == "transducer"
    hybrid = not transducer and model_conf.get("ctc_weight", 0.5) < 1.0
    if not hybrid and forms.decoder not in ("auto", "none"):
        legal = "auto, none, transcript" if transducer else "auto, none"
        if forms.decoder not in legal.split(", "):
            what = "a transducer" if transducer else "a model of CTC alone"
            raise ValueError(
                f"pl_decoder: {forms.decoder!r} needs an attention decoder, and "
                f"decoder: {args.decoder!r} with model_conf.ctc_weight: "
                f"{model_conf.get('ctc_weight', 0.5)} is {what}. Legal: {legal}"
            )
    if forms.forced and (args.decoder_conf or {}).get("sampling_probability"):
        raise ValueError(
            f"decoder_conf.sampling_probability: must be 0 with pl_decoder: "
            f"{forms.decoder!r}, for the teacher's decoder is to be fed the transcript"
        )
    if forms.layers != "none":
        _check_layers(forms, args)


def _check_layers(forms: LabelForms, args: argparse.Namespace) -> None:
    """Refuse targets for intermediate layers where no stock loss trains them."""
    model_conf = args.model_conf or {}
    layers = (args.encoder_conf or {}).get("interctc_layer_idx")
    weight = model_conf.get("interctc_weight", 0.0)
    if not layers or not weight:
        raise ValueError(
            f"pl_interctc: {forms.layers!r} needs a model with intermediate CTC, and "
            f"encoder_conf.interctc_layer_idx is {layers}, model_conf.interctc_weight "
            f"{weight}. Legal: none; or set both"
        )
    if model_conf.get("aux_ctc"):
        raise ValueError(
            f"pl_interctc: {forms.layers!r} with model_conf.aux_ctc: those layers "
            f"learn other labels, which a teacher's transcripts are not. Legal: none"
        )
    if forms.layers == "own" and args.pl_shaping:
        raise ValueError(
            f"pl_interctc: 'own' with pl_shaping: {args.pl_shaping}, which changes "
            f"the last layer's label only. Legal: none, last; or leave shaping out"
        )


class DecoderLabel(NamedTuple):
    """What the teacher's decoder answers, fed with the transcript of its CTC head.

    Attributes:
        tokens: Its best token at each position, (B, P), padded with -1.
        lengths: Positions per utterance, (B,): the transcript's tokens and the end.
        log_probs: Its log-posteriors, (B, P, V), without gradient; None where only
            the best tokens are the target.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    log_probs: torch.Tensor | None = None


def with_ends(
    tokens: torch.Tensor, token_lengths: torch.Tensor, sos: int, eos: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make a decoder's input and its target from transcripts, as ESPnet does.

    Args:
        tokens: (B, U), padded with any value.
        token_lengths: (B,), at most U.
        sos: The token that starts a sentence.
        eos: The token that ends it.

    Returns:
        Two of (B, U + 1): the transcript after `sos`, padded with `eos`, and the
        transcript with `eos` after it, padded with -1.
    """
    mask = frame_mask(token_lengths, tokens.size(1))
    edge = tokens.new_full((tokens.size(0), 1), sos)
    inputs = torch.cat([edge, tokens.masked_fill(~mask, eos)], 1)
    targets = torch.nn.functional.pad(tokens.masked_fill(~mask, PADDING), (0, 1))
    targets[:, -1] = PADDING
    return inputs, targets.scatter(1, token_lengths.unsqueeze(1), eos)


def hard_losses(
    logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Compute the cross-entropy to a token at each position, smoothed as ESPnet does.

    The target distribution q gives 1 - smoothing to the token and the rest evenly to
    the others; the loss is KL(q || p), which is the cross-entropy for no smoothing.

    Args:
        logits: A decoder's scores, (B, P, V).
        targets: Tokens, (B, P); -1 costs nothing.
        smoothing: ESPnet's `lsm_weight`, in [0, 1).

    Returns:
        (B,), in nats, a sum over positions.
    """
    log_probs = in_float32(logits).log_softmax(-1)
    mask = targets != PADDING
    picked = log_probs.gather(2, targets.clamp(min=0).unsqueeze(2)).squeeze(2)
    losses = -picked
    if smoothing:
        others = log_probs.size(-1) - 1
        each = smoothing / others
        rest = log_probs.sum(-1) - picked
        entropy = -(1.0 - smoothing) * math.log(1.0 - smoothing)
        entropy -= smoothing * math.log(each)
        losses = (1.0 - smoothing) * losses - each * rest - entropy
    return losses.masked_fill(~mask, 0.0).sum(1)


def soft_losses(logits: torch.Tensor, label: DecoderLabel) -> torch.Tensor:
    """Compute the cross-entropy to the teacher's distribution at each position.

    L = -sum_u sum_v q(v | u) log p(v | u); the gradient with respect to the logits is
    p - q.

    Args:
        logits: A decoder's scores, (B, P, V).
        label: With `log_probs`.

    Returns:
        (B,), in nats, a sum over positions.
    """
    log_probs = in_float32(logits).log_softmax(-1)
    mask = frame_mask(label.lengths, log_probs.size(1)).to(log_probs.dtype)
    return distribution_ce(log_probs, label.log_probs, mask)


def decoder_disagreement(label: DecoderLabel, targets: torch.Tensor) -> torch.Tensor:
    """Compute the share of positions at which decoder and CTC head differ.

    Args:
        label: What the teacher's decoder answered.
        targets: The transcript that it was fed, with the end, (B, P), padded with -1.

    Returns:
        A scalar in [0, 1].
    """
    return (label.tokens != targets)[targets != PADDING].float().mean()
