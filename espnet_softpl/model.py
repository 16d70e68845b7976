"""The ESPnet model: the stock forward on labeled batches, the PL forward on unlabeled.

B utterances, N samples, T frames after subsampling, V tokens with blank, U labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable

from espnet_softpl import unlabeled_head
from espnet_softpl.criteria import PseudoLabel
from espnet_softpl.labels import Labels
from espnet_softpl.loss import weighted_mean
from espnet_softpl.metrics import disagreement
from espnet_softpl.pseudo_labeling import PseudoLabeling, UnlabeledBatch

PL_STATISTICS = (
    "pl_wer",
    "pl_cer",
    "pl_blank_share",
    "pl_frame_entropy",
    "pl_mean_entropy",
    "pl_mutual_information",
    "pl_length_ratio",
    "pl_empty_share",
    "pl_vocabulary",
    "pl_disagreement",
    "pl_kept",
    "pl_kept_audio",
    "pl_kept_hours",
    "pl_unusable",
    "pl_age",
    "pl_weight",
)
CACHE_STATISTICS = ("pl_uses", "pl_turnover", "pl_label_change")
ORACLE_STATISTICS = ("pl_wer_kept", "pl_wer_dropped")


class SoftPLModel(ESPnetASRModel):
    """A stock ASR model that also learns from batches without transcripts.

    Its checkpoints are stock checkpoints: it adds no parameter and no buffer to them.

    Attributes:
        pl: The pseudo-labeling engine; None makes this the stock model.
    """

    pl: PseudoLabeling | None = None
    _labeled_encoding: tuple[torch.Tensor, torch.Tensor] | None = None

    def add_unlabeled_head(self) -> None:
        """Give unlabeled batches a CTC head of their own; see `unlabeled_head`."""
        unlabeled_head.add(self, self.ctc.ctc_lo)

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor | None = None,
        text_lengths: torch.Tensor | None = None,
        unlabeled_weight: torch.Tensor | None = None,
        pl_step: torch.Tensor | None = None,
        unlabeled: dict[str, Any] | None = None,
        insertions: Sequence[dict[str, Any]] = (),
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
            pl_step: Number of the mini-batch, (B,), the same for all; None is 0.
            unlabeled: `usable`, `slot` and `draw` of an unlabeled batch, as
                `UnlabeledBatch` describes them.
            insertions: Unlabeled mini-batches, each the fields of an `UnlabeledBatch`,
                that are to be labeled for the cache before anything is learned.
            **kwargs: What the stock model takes; `utt_id` is needed to score labels.

        Returns:
            loss, statistics (the same keys in the same order for every training
            batch, NaN where undefined), and the batch size.

        Raises:
            ValueError: An unlabeled batch comes with text, or a labeled one without.
        """
        if (text is None) != (unlabeled_weight is not None):
            raise ValueError("a batch has either text or unlabeled_weight")
        step = 0 if pl_step is None else int(pl_step[0])
        if self.pl is not None and self.training and self.pl.dropout is not None:
            self.pl.dropout.set(step >= self.pl.start_step)
        waiting = [UnlabeledBatch(**insertion) for insertion in insertions]
        if waiting or unlabeled_weight is not None:
            self.pl.begin(self, self.ctc.ctc_lo)
        if unlabeled_weight is not None:
            ids = kwargs.get("utt_id", [])
            batch = UnlabeledBatch(ids, speech, speech_lengths, **(unlabeled or {}))
            return self._forward_unlabeled(batch, unlabeled_weight, step, waiting)
        if waiting:
            self.pl.insert(self, waiting, step)
        if self.pl is None or not self.training:
            return super().forward(speech, speech_lengths, text, text_lengths, **kwargs)
        batch = (speech, speech_lengths, text, text_lengths)
        loss, stats = self._forward_labeled(batch, step, kwargs)
        return force_gatherable(
            (loss, self._statistics(stats), speech.size(0)), loss.device
        )

    def _forward_labeled(
        self, batch: tuple[torch.Tensor, ...], step: int, kwargs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Run the stock forward, on two views of the batch where they are wanted."""
        criterion = self.pl.criterion.at(step)
        two_views = criterion.labeled_weight > 0.0
        if two_views:
            batch = tuple(torch.cat([tensor, tensor]) for tensor in batch)
        self._labeled_encoding = None
        loss, stats, _ = super().forward(*batch, **kwargs)
        if two_views or self.pl.observes_labeled:
            encoder_out, lengths = self._labeled_encoding
            log_probs = self._frame_log_probs(encoder_out, self.ctc.ctc_lo)
            if self.pl.prior is not None:
                self.pl.prior.update(log_probs, lengths)
            self.pl.observe_labeled(log_probs.detach(), lengths, *batch[2:])
            if two_views:
                views = log_probs.chunk(2)
                losses = criterion.on_labeled(views[0], lengths.chunk(2)[0], views[1])
                loss = loss + self.ctc_weight * losses.mean()
        self._labeled_encoding = None
        # The trainer divides the loss in place; the statistic must not follow.
        value = loss.detach().clone()
        return loss, {**stats, "loss": value, "loss_labeled": value}

    def _calc_ctc_loss(
        self, encoder_out: torch.Tensor, encoder_out_lens: torch.Tensor, *args: Any
    ) -> tuple[torch.Tensor, float | None]:
        """Run the stock CTC branch; remember what the last layer gave it."""
        if self._labeled_encoding is None:  # Intermediate layers come later.
            self._labeled_encoding = (encoder_out, encoder_out_lens)
        return super()._calc_ctc_loss(encoder_out, encoder_out_lens, *args)

    def _forward_unlabeled(
        self,
        batch: UnlabeledBatch,
        unlabeled_weight: torch.Tensor,
        step: int,
        waiting: Sequence[UnlabeledBatch],
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Get the batch's labels, and compute the student's loss."""
        labels, change = self.pl.labels_of(self, batch, waiting, step)
        label = labels.label
        usable = torch.ones_like(label.weight, dtype=torch.bool)
        if batch.usable is not None:
            usable = batch.usable
        label = label._replace(weight=label.weight * usable)
        criterion = self.pl.criterion.at(step)
        log_probs, label, encoder_out, lengths = self._student(
            batch.speech, batch.speech_lengths, label, criterion.views
        )
        losses = self.pl.losses(log_probs, lengths, label, step)
        # An utterance without a finite loss teaches nothing, and is counted.
        finite = torch.isfinite(losses.detach())
        label = label._replace(weight=label.weight * finite)
        loss_pl = weighted_mean(losses, label.weight)
        if self.ctc_weight != 1.0:
            loss_pl = self.ctc_weight * loss_pl
            if criterion.trains_decoder and not self.use_transducer_decoder:
                loss_att = self._attention_loss(encoder_out, lengths, label)
                loss_pl = loss_pl + (1.0 - self.ctc_weight) * loss_att
        if self.pl.samples is not None:
            self.pl.samples.note(step, labels, label, log_probs)
        weight = self.pl.weight_factor * unlabeled_weight[0]
        loss = weight * loss_pl
        self.pl.count_kept(batch, label)
        stats = {
            **labels.statistics,
            **self._use_statistics(batch, labels, label, step),
            "pl_disagreement": disagreement(log_probs, labels.path, lengths),
            "pl_unusable": 1.0 - (finite & usable).float().mean(),
            "pl_label_change": change,
            "pl_weight": weight,
            "loss": loss.detach().clone(),
            "loss_pl": loss_pl.detach().clone(),
        }
        if self.pl.guard is not None:
            self.pl.last_batch = (list(batch.utt_id), labels.label)
        return force_gatherable(
            (loss, self._statistics(stats), batch.speech.size(0)), loss.device
        )

    def _use_statistics(
        self, batch: UnlabeledBatch, labels: Labels, label: PseudoLabel, step: int
    ) -> dict[str, Any]:
        """Describe which labels are used, how old they are, and how wrong."""
        kept = label.weight > 0
        samples = batch.speech_lengths.float()
        stats: dict[str, Any] = {
            "pl_kept": kept.float().mean(),
            "pl_kept_audio": (samples * kept).sum() / samples.sum(),
            "pl_kept_hours": self.pl.kept_hours,
            "pl_age": float(step - labels.step),
        }
        for index, (name, _) in enumerate(self.pl.filters):
            stats[f"pl_dropped_{name}"] = (labels.reason == index).float().mean()
        if self.pl.cache is not None:
            stats["pl_uses"] = float(labels.uses)
            stats["pl_turnover"] = self.pl.cache.turnover
        if self.pl.oracle is not None:
            scored = (batch.utt_id, label.tokens, label.token_lengths)
            stats["pl_wer"], stats["pl_cer"] = self.pl.oracle.score(*scored)
            for which, chosen in (("kept", kept), ("dropped", ~kept)):
                stats[f"pl_wer_{which}"], _ = self.pl.oracle.score(*scored, chosen)
        return stats

    def _student(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        label: PseudoLabel,
        views: int,
    ) -> tuple[torch.Tensor, PseudoLabel, torch.Tensor, torch.Tensor]:
        """Run the student on one or two augmented views of a batch.

        Returns:
            log_probs (B, T, V) and encoder_out (B, T, D) of the first view, lengths
            (B,), and the label, with the second view if there is one.
        """
        if views == 2:
            speech = torch.cat([speech, speech])
            speech_lengths = torch.cat([speech_lengths, speech_lengths])
        encoder_out, lengths = self._encode_final(speech, speech_lengths)
        head = unlabeled_head.of(self) or self.ctc.ctc_lo
        log_probs = self._frame_log_probs(encoder_out, head)
        if views == 2:
            log_probs, second = log_probs.chunk(2)
            encoder_out, lengths = encoder_out.chunk(2)[0], lengths.chunk(2)[0]
            label = label._replace(second_view=second)
        if not torch.equal(lengths, label.lengths):
            raise RuntimeError(
                f"teacher and student disagree on the number of frames: "
                f"{label.lengths.tolist()} and {lengths.tolist()}"
            )
        return log_probs, label, encoder_out, lengths

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

    def _frame_log_probs(
        self, encoder_out: torch.Tensor, head: torch.nn.Linear
    ) -> torch.Tensor:
        """Apply a CTC head, (B, T, D) -> (B, T, V), normalized in float32."""
        dropped = F.dropout(encoder_out, self.ctc.dropout_rate, self.training)
        return head(dropped).float().log_softmax(-1)

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
        return self._frame_log_probs(encoder_out, self.ctc.ctc_lo), lengths

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
        keys += PL_STATISTICS
        if self.pl is not None:
            keys += [f"pl_dropped_{name}" for name, _ in self.pl.filters]
            keys += CACHE_STATISTICS if self.pl.cache is not None else ()
            keys += ORACLE_STATISTICS if self.pl.oracle is not None else ()
        return tuple(keys)

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
