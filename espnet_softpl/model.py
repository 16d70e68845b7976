"""The ESPnet model: the stock forward on labeled batches, the PL forward on unlabeled.

B utterances, N samples, T frames after subsampling, V tokens with blank, U labels.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable

from espnet_softpl.criteria import PLCriterion, PseudoLabel
from espnet_softpl.generator import PseudoLabelGenerator
from espnet_softpl.metrics import label_statistics
from espnet_softpl.oracle import Oracle

PL_STATISTICS = (
    "pl_wer",
    "pl_cer",
    "pl_blank_share",
    "pl_frame_entropy",
    "pl_mean_entropy",
    "pl_mutual_information",
    "pl_length_ratio",
    "pl_empty_share",
    "pl_kept",
)


@dataclasses.dataclass
class PseudoLabeling:
    """What a model needs to learn from unlabeled batches.

    It hangs on the model as a plain attribute, so that nothing in it shows in
    `parameters()` or `state_dict()`.

    Attributes:
        criterion: The loss against a pseudo-label.
        generator: Makes the pseudo-labels.
        oracle: Scores them where true transcripts exist, else None.
        labeled_tokens_per_sample: Speech rate of the labeled data, NaN if unknown.
    """

    criterion: PLCriterion
    generator: PseudoLabelGenerator
    oracle: Oracle | None = None
    labeled_tokens_per_sample: float = float("nan")

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Stay out of copies of the model: a teacher needs none of this."""
        return None


def weighted_mean(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Average the losses of a batch over all of its utterances.

    Args:
        losses: Loss of each utterance, (B,).
        weights: Trust in each utterance, (B,); 0 removes it exactly, even where its
            loss is not finite.

    Returns:
        sum(weights * losses) / B, a scalar: a dropped utterance does not make the
        others count more, as in ESPnet's own CTC.
    """
    kept = torch.where(weights > 0, losses, torch.zeros_like(losses))
    return (kept * weights).sum() / losses.numel()


class SoftPLModel(ESPnetASRModel):
    """A stock ASR model that also learns from batches without transcripts.

    It adds no parameter and no buffer: its checkpoints are stock checkpoints.

    Attributes:
        pl: The pseudo-labeling engine; None makes this the stock model.
    """

    pl: PseudoLabeling | None = None

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor | None = None,
        text_lengths: torch.Tensor | None = None,
        unlabeled_weight: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Compute the loss of a labeled or an unlabeled batch.

        Args:
            speech: Waveforms, (B, N).
            speech_lengths: Samples per utterance, (B,).
            text: Token ids, (B, U), padded with -1; of labeled batches.
            text_lengths: Tokens per utterance, (B,); of labeled batches.
            unlabeled_weight: Factor on the unlabeled loss, (B,), the same for all; its
                presence is what marks an unlabeled batch.
            **kwargs: What the stock model takes; `utt_id` is needed to score labels.

        Returns:
            loss, statistics (the same keys in the same order for every training
            batch, NaN where undefined), and the batch size.

        Raises:
            ValueError: An unlabeled batch comes with text, or a labeled one without.
        """
        if (text is None) != (unlabeled_weight is not None):
            raise ValueError("a batch has either text or unlabeled_weight")
        if unlabeled_weight is not None:
            return self._forward_unlabeled(
                speech, speech_lengths, unlabeled_weight, kwargs.get("utt_id", [])
            )
        loss, stats, weight = super().forward(
            speech, speech_lengths, text, text_lengths, **kwargs
        )
        if self.pl is not None and self.training:
            # The trainer divides the loss in place; the statistic must not follow.
            value = loss.detach().clone()
            stats = self._statistics({**stats, "loss": value, "loss_labeled": value})
        return force_gatherable((loss, stats, weight), loss.device)

    def _forward_unlabeled(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        unlabeled_weight: torch.Tensor,
        utterance_ids: list[str],
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Label the batch with the teacher, and compute the student's loss."""
        label = self.pl.generator(self, speech, speech_lengths)
        encoder_out, lengths = self._encode_final(speech, speech_lengths)
        if not torch.equal(lengths, label.lengths):
            raise RuntimeError(
                f"teacher and student disagree on the number of frames: "
                f"{label.lengths.tolist()} and {lengths.tolist()}"
            )
        losses = self.pl.criterion(self._frame_log_probs(encoder_out), lengths, label)
        loss_pl = weighted_mean(losses, label.weight)
        if self.ctc_weight != 1.0:
            loss_pl = self.ctc_weight * loss_pl
            if self.pl.criterion.trains_decoder and not self.use_transducer_decoder:
                loss_att = self._attention_loss(encoder_out, lengths, label)
                loss_pl = loss_pl + (1.0 - self.ctc_weight) * loss_att
        loss = unlabeled_weight[0] * loss_pl
        stats = label_statistics(
            label, speech_lengths, self.pl.labeled_tokens_per_sample
        )
        if self.pl.oracle is not None:
            stats["pl_wer"], stats["pl_cer"] = self.pl.oracle.score(
                utterance_ids, label.tokens, label.token_lengths
            )
        stats["loss"] = loss.detach().clone()
        stats["loss_pl"] = loss_pl.detach().clone()
        return force_gatherable(
            (loss, self._statistics(stats), speech.size(0)), loss.device
        )

    def _attention_loss(
        self, encoder_out: torch.Tensor, lengths: torch.Tensor, label: PseudoLabel
    ) -> torch.Tensor:
        """Train the attention decoder on the kept transcripts; a mean over all B."""
        kept = (label.weight > 0).nonzero().squeeze(1)
        if kept.numel() == 0:
            return encoder_out.new_zeros(())
        token_lengths = label.token_lengths[kept]
        loss_att, *_ = self._calc_att_loss(
            encoder_out[kept],
            lengths[kept],
            label.tokens[kept, : int(token_lengths.max())],
            token_lengths,
        )
        return loss_att * (kept.numel() / label.weight.numel())

    def _encode_final(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the encoder and keep its last output, (B, T, D), and lengths, (B,)."""
        encoder_out, lengths = self.encode(speech, speech_lengths)
        if isinstance(encoder_out, tuple):
            encoder_out = encoder_out[0]
        return encoder_out, lengths

    def _frame_log_probs(self, encoder_out: torch.Tensor) -> torch.Tensor:
        """Apply the CTC head, (B, T, D) -> (B, T, V), normalized in float32."""
        dropped = F.dropout(encoder_out, self.ctc.dropout_rate, self.training)
        return self.ctc.ctc_lo(dropped).float().log_softmax(-1)

    def ctc_log_probs(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the CTC head's frame log-posteriors.

        Args:
            speech: Waveforms, (B, N).
            speech_lengths: Samples per utterance, (B,).

        Returns:
            log_probs (B, T, V) in float32 and lengths (B,). In train mode the
            features are augmented, in eval mode they are not.
        """
        encoder_out, lengths = self._encode_final(speech, speech_lengths)
        return self._frame_log_probs(encoder_out), lengths

    def _statistics(self, stats: dict[str, Any]) -> dict[str, Any]:
        """Bring a training batch's statistics to the fixed keys and order."""
        # ESPnet gathers statistics between processes by position: keys that differ
        # between batches would be mixed up without any error.
        return {key: stats.get(key, float("nan")) for key in self.statistics_keys()}

    def statistics_keys(self) -> tuple[str, ...]:
        """Return the keys that every training batch reports, in order."""
        keys = ["loss", "loss_labeled", "loss_pl", "loss_ctc"]
        if self.interctc_weight != 0.0:
            layers = self.encoder.interctc_layer_idx
            keys += [f"loss_interctc_layer{layer}" for layer in layers]
        if self.use_transducer_decoder:
            keys.append("loss_transducer")
        elif self.ctc_weight != 1.0:
            keys += ["loss_att", "acc"]
        return (*keys, *PL_STATISTICS)

    def collect_feats(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor | None = None,
        text_lengths: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        """Extract features for `--collect_stats`, with or without transcripts.

        Args:
            speech: Waveforms, (B, N).
            speech_lengths: Samples per utterance, (B,).
            text: Not used.
            text_lengths: Not used.
            **kwargs: Not used.

        Returns:
            `feats` (B, frames, D) and `feats_lengths` (B,).
        """
        feats, feats_lengths = self._extract_feats(speech, speech_lengths)
        return {"feats": feats, "feats_lengths": feats_lengths}


def frames_of(model: SoftPLModel, num_samples: int) -> int:
    """Count the encoder frames that a model makes of an utterance.

    Args:
        model: The model; its mode is left as it is.
        num_samples: Length of the utterance in samples.

    Returns:
        The number of frames after subsampling, of the utterance alone; in a padded
        batch ESPnet may count one more.
    """
    speech = torch.zeros(1, num_samples, device=next(model.parameters()).device)
    with torch.no_grad():
        _, lengths = model.ctc_log_probs(speech, torch.tensor([num_samples]))
    return int(lengths[0])
