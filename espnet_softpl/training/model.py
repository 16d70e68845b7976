"""The ESPnet model: the stock forward on labeled batches, the PL forward on unlabeled.

B utterances, N samples, T frames after subsampling, V tokens with blank, U labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from espnet2.torch_utils.device_funcs import force_gatherable

from espnet_softpl.criteria.base import weighted_mean
from espnet_softpl.labels.pseudo_label import Labels, PseudoLabel
from espnet_softpl.monitors.statistics import disagreement
from espnet_softpl.teacher.generator import CTCOutputs
from espnet_softpl.training import unlabeled_head
from espnet_softpl.training.batch import UnlabeledBatch
from espnet_softpl.training.decoder_model import DecoderModel
from espnet_softpl.training.engine import PseudoLabeling

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


class SoftPLModel(DecoderModel):
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
        speech: torch.Tensor | None = None,
        speech_lengths: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        text_lengths: torch.Tensor | None = None,
        unlabeled: UnlabeledBatch | None = None,
        insertions: Sequence[UnlabeledBatch] = (),
        pl_step: int = 0,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Compute the loss of a labeled or an unlabeled batch.

        Args:
            speech: Waveforms, (B, N); of labeled batches, like the next three.
            speech_lengths: Samples per utterance, (B,).
            text: Token ids, (B, U), padded with -1.
            text_lengths: Tokens per utterance, (B,).
            unlabeled: The batch, if it is an unlabeled one.
            insertions: Unlabeled batches to label for the cache before anything is
                learned.
            pl_step: Number of the mini-batch in the whole training.
            **kwargs: What the stock model takes.

        Returns:
            loss, statistics (the same keys in the same order for every training
            batch, NaN where undefined), and the batch size.

        Raises:
            ValueError: An unlabeled batch comes with text, or a labeled one without.
        """
        if (text is None) == (unlabeled is None):
            raise ValueError("a batch has either text or is unlabeled")
        if self.pl is not None and self.training and self.pl.dropout is not None:
            self.pl.dropout.set(pl_step >= self.pl.start_step)
        if insertions or unlabeled is not None:
            self.pl.begin(self, self.ctc.ctc_lo)
        if unlabeled is not None:
            return self._forward_unlabeled(unlabeled, insertions, pl_step)
        if insertions:
            self.pl.insert(self, insertions, pl_step)
        if self.pl is None or not self.training:
            return super().forward(speech, speech_lengths, text, text_lengths, **kwargs)
        batch = (speech, speech_lengths, text, text_lengths)
        loss, stats = self._forward_labeled(batch, pl_step, kwargs)
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
        # Intermediate layers come later. Where nobody asks, nothing must be kept alive.
        if self.pl is not None and self.training and self._labeled_encoding is None:
            self._labeled_encoding = (encoder_out, encoder_out_lens)
        return super()._calc_ctc_loss(encoder_out, encoder_out_lens, *args)

    def _forward_unlabeled(
        self,
        batch: UnlabeledBatch,
        insertions: Sequence[UnlabeledBatch],
        step: int,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Get the batch's labels, and compute the student's loss."""
        labels, change = self.pl.labels_of(self, batch, insertions, step)
        label = labels.label
        usable = torch.ones_like(label.weight, dtype=torch.bool)
        if batch.usable is not None:
            usable = batch.usable
        label = label._replace(weight=label.weight * usable)
        views, label = self._student(batch, label, self.pl.criterion.at(step).views)
        log_probs, lengths, encoder_out, _ = views[0]
        losses = self.pl.losses(log_probs, lengths, label, step)
        # An utterance without a finite loss teaches nothing, and is counted.
        finite = torch.isfinite(losses.detach())
        label = label._replace(weight=label.weight * finite)
        parts = {"loss_pl_ctc": weighted_mean(losses, label.weight)}
        if self.pl.forms.layers != "none":
            parts["loss_pl_interctc"] = self._layers_loss(views, labels, label, step)
        target = self._decoder_target(step)
        if target != "none":
            parts["loss_pl_decoder"] = self.pseudo_decoder_loss(
                target, encoder_out, lengths, label, labels.decoder
            )
        loss_pl = self._combine(parts)
        if self.pl.samples is not None:
            self.pl.samples.note(step, labels, label, log_probs)
        weight = torch.full((), batch.weight, device=loss_pl.device)
        weight = self.pl.weight_factor * weight
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
            **{key: part.detach().clone() for key, part in parts.items()},
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
        self, batch: UnlabeledBatch, label: PseudoLabel, count: int
    ) -> tuple[list[CTCOutputs], PseudoLabel]:
        """Run the student on one or two augmented views of a batch.

        Returns:
            The outputs of each view, and the label, with the last layer's second view
            if there is one.
        """
        outputs = self._outputs(
            torch.cat([batch.speech] * count),
            torch.cat([batch.speech_lengths] * count),
            unlabeled_head.of(self) or self.ctc.ctc_lo,
            self.pl.forms.layers != "none",
        )
        views = outputs.views(count)
        if count == 2:
            label = label._replace(second_view=views[1].log_probs)
        if not torch.equal(views[0].lengths, label.lengths):
            raise RuntimeError(
                f"teacher and student disagree on the number of frames: "
                f"{label.lengths.tolist()} and {views[0].lengths.tolist()}"
            )
        return views, label

    def _layers_loss(
        self,
        views: Sequence[CTCOutputs],
        labels: Labels,
        label: PseudoLabel,
        step: int,
    ) -> torch.Tensor:
        """Compute the criterion's loss at the intermediate layers, their mean."""
        means = []
        for index, log_probs in enumerate(views[0].layers):
            target = label
            if self.pl.forms.layers == "own":
                own = labels.layers[index]
                target = own._replace(weight=own.weight * label.weight)
            if len(views) == 2:
                target = target._replace(second_view=views[1].layers[index])
            lengths = views[0].lengths
            losses = self.pl.losses(log_probs, lengths, target, step, regularized=False)
            weight = target.weight * torch.isfinite(losses.detach())
            means.append(weighted_mean(losses, weight))
        return sum(means) / len(means)

    def _decoder_target(self, step: int) -> str:
        """Tell what the decoder learns from unlabeled batches; see `LabelForms`."""
        if self.ctc_weight == 1.0 and not self.use_transducer_decoder:
            return "none"
        return self.pl.forms.decoder_target(
            self.pl.criterion.at(step).trains_decoder, self.use_transducer_decoder
        )

    def _combine(self, parts: dict[str, torch.Tensor]) -> torch.Tensor:
        """Add up the losses of the branches, weighted as ESPnet weighs them."""
        loss = parts["loss_pl_ctc"]
        if "loss_pl_interctc" in parts:
            share = self.interctc_weight
            loss = (1.0 - share) * loss + share * parts["loss_pl_interctc"]
        if self.ctc_weight != 1.0:
            loss = self.ctc_weight * loss
        if "loss_pl_decoder" in parts:
            share = 1.0 if self.use_transducer_decoder else 1.0 - self.ctc_weight
            loss = loss + share * parts["loss_pl_decoder"]
        return loss

    def _outputs(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        head: torch.nn.Linear,
        layers: bool,
    ) -> CTCOutputs:
        """Run the encoder and a CTC head; on intermediate layers the stock head."""
        encoder_out, lengths = self.encode(speech, speech_lengths)
        between: list[tuple[int, torch.Tensor]] = []
        if isinstance(encoder_out, tuple):
            encoder_out, between = encoder_out
        log_probs = self._frame_log_probs(encoder_out, head)
        found = [
            self._frame_log_probs(layer, self.ctc.ctc_lo)
            for _, layer in (between if layers else ())
        ]
        return CTCOutputs(log_probs, lengths, encoder_out, tuple(found))

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
        outputs = self.ctc_outputs(speech, speech_lengths)
        return outputs.log_probs, outputs.lengths

    def ctc_outputs(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, layers: bool = False
    ) -> CTCOutputs:
        """Compute the stock CTC head's frame log-posteriors, and what else is there.

        Args:
            speech: Waveforms, (B, N).
            speech_lengths: Samples per utterance, (B,).
            layers: Whether intermediate layers' are wanted too.

        Returns:
            The outputs. In train mode the features are augmented, in eval mode they
            are not.
        """
        return self._outputs(speech, speech_lengths, self.ctc.ctc_lo, layers)

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
            keys += self._form_keys()
            keys += [f"pl_dropped_{name}" for name, _ in self.pl.filters]
            keys += CACHE_STATISTICS if self.pl.cache is not None else ()
            keys += ORACLE_STATISTICS if self.pl.oracle is not None else ()
        return tuple(keys)

    def _form_keys(self) -> list[str]:
        """Return the keys of the branches that unlabeled batches train."""
        layers = self.pl.forms.layers != "none"
        decoder = self._decoder_target(0) != "none"
        keys = ["loss_pl_ctc"] if layers or decoder else []
        keys += ["loss_pl_interctc"] if layers else []
        keys += ["loss_pl_decoder"] if decoder else []
        keys += ["pl_decoder_disagreement"] if self.pl.forms.forced else []
        return keys

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


def frames_of(model: SoftPLModel, num_samples: int, dim: int | None = None) -> int:
    """Count the encoder frames that a model makes of an utterance.

    Args:
        model: The model; its mode is left as it is.
        num_samples: Length of the utterance in samples, or in frames of features.
        dim: Dimension of the features; None where the model takes samples.

    Returns:
        The number of frames after subsampling, of the utterance alone; in a padded
        batch ESPnet may count one more.
    """
    shape = (1, num_samples) if dim is None else (1, num_samples, dim)
    speech = torch.zeros(shape, device=next(model.parameters()).device)
    with torch.no_grad():
        _, lengths = model.ctc_log_probs(speech, torch.tensor([num_samples]))
    return int(lengths[0])
