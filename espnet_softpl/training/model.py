"""The ESPnet model: its own forward on labeled batches, the PL forward on others."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from espnet2.asr.decoder.rnn_decoder import RNNDecoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable
from torch import Tensor, nn

from espnet_softpl.criteria.base import weighted_mean
from espnet_softpl.criteria.decoder_ce import hard_losses, soft_losses, with_ends
from espnet_softpl.ctc import PADDING
from espnet_softpl.labels.pseudo_label import DecoderLabel, PseudoLabel
from espnet_softpl.monitors import statistics
from espnet_softpl.teacher.generator import CTCOutputs
from espnet_softpl.training import features
from espnet_softpl.training.engine import PseudoLabeling
from espnet_softpl.training.labeling import UnlabeledBatch

# A loss, statistics by name, and the size of the batch, as ESPnet's trainer wants them.
Reported = tuple[Tensor, dict[str, Tensor], Tensor]


class SoftPLModel(ESPnetASRModel):
    """A stock ASR model that also learns from batches without transcripts.

    Its checkpoints are stock checkpoints: it adds no parameter and no buffer to them.
    """

    pl: PseudoLabeling | None = None  # None makes this the stock model.
    _labeled_encoding: tuple[Tensor, Tensor] | None = None

    def forward(
        self,
        speech: Tensor | None = None,
        speech_lengths: Tensor | None = None,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        unlabeled: UnlabeledBatch | None = None,
        insertions: Sequence[UnlabeledBatch] = (),
        pl_step: int = 0,
        pl_factor: float = 1.0,
        **kwargs: Any,
    ) -> Reported:
        """Compute the loss of a labeled or an unlabeled batch.

        A labeled one has waveforms (B, N) and token ids (B, U), padded with -1, and
        their lengths (B,); of an unlabeled one `unlabeled` has all. `insertions` are
        labeled for the cache first; `pl_step` counts mini-batches of the training, and
        `pl_factor` multiplies what is differentiated, not what is reported.

        Returns:
            loss, statistics (the same keys in the same order for every training
            batch, NaN where undefined), and the batch size.
        """
        if (text is None) == (unlabeled is None):
            raise ValueError("a batch has either text or is unlabeled")
        if self.pl is not None and self.pl.dropout is not None and self.training:
            self.pl.dropout.at(pl_step)
        if unlabeled is not None:
            losses, values = self.pl.step(self, unlabeled, insertions, pl_step)
            size = unlabeled.speech.size(0)
            return self._report(losses, values, size, pl_factor)
        if insertions:
            self.pl.insert(self, insertions, pl_step)
        batch = (speech, speech_lengths, text, text_lengths)
        if self.pl is None or not self.training:
            return super().forward(*batch, **kwargs)
        views = self.pl.labeled_views(pl_step)
        self._labeled_encoding = None
        with features.shared() if views == 2 else contextlib.nullcontext():
            if views == 2:
                texts = (torch.cat([tensor, tensor]) for tensor in batch[2:])
                batch = (*features.repeated(*batch[:2], 2), *texts)
            loss, stats, _ = super().forward(*batch, **kwargs)
        if views > 0:
            encoder_out, lengths = self._labeled_encoding
            log_probs = self._frame_log_probs(encoder_out, self.ctc.ctc_lo)
            more = self.pl.on_labeled(log_probs, lengths, *batch[2:], pl_step)
            loss = loss + self.ctc_weight * more
        self._labeled_encoding = None
        losses = {"loss": loss, "loss_labeled": loss}
        return self._report(losses, stats, len(speech), pl_factor)

    def _calc_ctc_loss(
        self, encoder_out: Tensor, encoder_out_lens: Tensor, *args: Any
    ) -> tuple[Tensor, float | None]:
        """Run the stock CTC branch; remember what the last layer gave it."""
        # Intermediate layers come later. In eval mode nothing must be kept alive.
        if self.pl is not None and self.training and self._labeled_encoding is None:
            self._labeled_encoding = (encoder_out, encoder_out_lens)
        return super()._calc_ctc_loss(encoder_out, encoder_out_lens, *args)

    def _report(
        self, losses: dict[str, Tensor], stats: dict[str, Any], size: int, factor: float
    ) -> Reported:
        """Bring a batch's loss and statistics to the form that ESPnet wants."""
        # The trainer divides the loss in place; the statistic must not follow.
        stats = stats | {name: loss.detach().clone() for name, loss in losses.items()}
        loss = factor * losses["loss"]
        # A number is filled in on the device; to copy one there would wait for it.
        as_vector = functools.partial(torch.full, (1,), device=loss.device)
        # ESPnet gathers statistics between processes by position: keys that differ
        # between batches would be mixed up without any error.
        values = {key: stats.get(key, math.nan) for key in self.statistics_keys()}
        stats = {
            key: value if isinstance(value, Tensor) else as_vector(float(value))
            for key, value in values.items()
        }
        return force_gatherable((loss, stats, as_vector(size)), loss.device)

    def combine_losses(self, parts: dict[str, Tensor]) -> Tensor:
        """Add up the branches' losses, scalars, weighted as ESPnet weighs them.

        They are `loss_pl_ctc`, and `loss_pl_interctc` and `loss_pl_decoder` if these
        branches learn.
        """
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

    def _frame_log_probs(self, encoder_out: Tensor, head: nn.Module) -> Tensor:
        """Apply a CTC head, (B, T, D) -> (B, T, V), normalized in float32."""
        rate = self.ctc.dropout_rate
        dropped = nn.functional.dropout(encoder_out, rate, self.training)
        return head(dropped).float().log_softmax(-1)

    def _extract_feats(
        self, speech: Tensor, speech_lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the stock front end, unless its features are known."""
        extract = super()._extract_feats
        return features.of(self.frontend, speech, speech_lengths, extract)

    def ctc_log_probs(
        self, speech: Tensor, speech_lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the stock head's log-posteriors (B, T, V) and their lengths (B,)."""
        return self.ctc_outputs(speech, speech_lengths)[:2]

    def ctc_outputs(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        layers: bool = False,
        head: nn.Module | None = None,
    ) -> CTCOutputs:
        """Run the encoder and a CTC head; only train mode augments the features.

        Args:
            speech: Waveforms, (B, N).
            speech_lengths: Samples per utterance, (B,).
            layers: Whether the stock head is run on intermediate layers too.
            head: The head of the last layer; None for the stock one.
        """
        encoder_out, lengths = self.encode(speech, speech_lengths)
        between, stock = (), self.ctc.ctc_lo
        if isinstance(encoder_out, tuple):
            encoder_out, between = encoder_out
        log_probs = self._frame_log_probs(encoder_out, head or stock)
        outputs = [layer for _, layer in between] if layers else []
        of_layers = tuple(self._frame_log_probs(layer, stock) for layer in outputs)
        return CTCOutputs(log_probs, lengths, encoder_out, of_layers)

    def decoder_scores(
        self,
        encoder_out: Tensor,
        lengths: Tensor,
        tokens: Tensor,
        token_lengths: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Feed the attention decoder with transcripts, all positions at once.

        Args:
            encoder_out: (B, T, D).
            lengths: Frames per utterance, (B,).
            tokens: (B, U), padded with any value.
            token_lengths: (B,), at most U.

        Returns:
            Its scores before the softmax, (B, P, V), and the transcripts with their
            ends, (B, P), padded with -1. P is U + 1, one more with `lang_token_id`.
        """
        if self.lang_token_id is not None:
            language = self.lang_token_id.to(tokens).expand(tokens.size(0), 1)
            tokens, token_lengths = torch.cat([language, tokens], 1), token_lengths + 1
        inputs, targets = with_ends(tokens, token_lengths, self.sos, self.eos)
        scores, _ = self.decoder(encoder_out, lengths, inputs, token_lengths + 1)
        return scores, targets

    def pseudo_decoder_loss(
        self,
        target: str,
        encoder_out: Tensor,
        lengths: Tensor,
        label: PseudoLabel,
        answer: DecoderLabel | None = None,
    ) -> Tensor:
        """Compute the loss of the decoder on pseudo-labels.

        Args:
            target: `transcript`, `forced` or `forced_soft`; see `LabelForms`.
            encoder_out: (B, T, D).
            lengths: Frames per utterance, (B,).
            label: A weight of 0 leaves an utterance out, whatever is in it; a
                transducer is not trained on empty transcripts.
            answer: What the teacher's decoder answered; for the last two targets.

        Returns:
            sum(weights * losses) / B, a scalar; 0 if no utterance is used.
        """
        is_used = label.weight > 0
        if self.use_transducer_decoder:
            is_used = is_used & (label.token_lengths > 0)
        rows = is_used.nonzero().squeeze(1)  # The utterances that are used.
        if rows.numel() == 0:
            return encoder_out.new_zeros(())
        encoder_out, lengths = encoder_out[rows], lengths[rows]
        if self.use_transducer_decoder or isinstance(self.decoder, RNNDecoder):
            # They take the longest utterance to fill all frames.
            encoder_out = encoder_out[:, : int(lengths.max())]
        token_lengths, weight = label.token_lengths[rows], label.weight[rows]
        tokens = label.tokens[rows, : int(token_lengths.max())]
        share = rows.numel() / label.weight.numel()
        inputs = (encoder_out, lengths, tokens, token_lengths)
        if self.use_transducer_decoder:
            return self._transducer_loss(*inputs, weight) * share
        if target == "transcript" and bool((weight == 1.0).all()):
            return self._calc_att_loss(*inputs)[0] * share
        scores, targets = self.decoder_scores(*inputs)  # (B', P, V), (B', P)
        if target == "forced_soft":
            tokens, log_probs = (
                part[rows, : scores.size(1)]
                for part in (answer.tokens, answer.log_probs)
            )
            answer = DecoderLabel(tokens, answer.lengths[rows], log_probs)
            losses = soft_losses(scores, answer)
        else:
            if target == "forced":
                targets = answer.tokens[rows, : scores.size(1)]
            losses = hard_losses(scores, targets, self.criterion_att.smoothing)
        if self.criterion_att.normalize_length:
            losses = losses * (rows.numel() / (targets != PADDING).sum())
        return weighted_mean(losses, weight) * share

    def _transducer_loss(
        self,
        encoder_out: Tensor,
        lengths: Tensor,
        tokens: Tensor,
        token_lengths: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """Compute a transducer's loss, a mean over utterances."""
        if bool((weight == 1.0).all()):
            return self._calc_transducer_loss(encoder_out, lengths, tokens)[0]
        # ESPnet's loss is a mean already: utterances of their own weight go alone.
        losses = [
            self._calc_transducer_loss(
                encoder_out[i : i + 1, : int(lengths[i])],
                lengths[i : i + 1],
                tokens[i : i + 1, : int(token_lengths[i])],
            )[0].reshape(())
            for i in range(len(weight))
        ]
        return weighted_mean(torch.stack(losses), weight)

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
        keys += [statistic.name for statistic in statistics.ALWAYS]
        if self.pl is not None:
            keys += self.pl.statistics_keys(self)
        return tuple(keys)


def frames_of(model: SoftPLModel, num_samples: int, dim: int | None = None) -> int:
    """Count the encoder frames that a model makes of one utterance.

    `num_samples` counts frames of features if there is a `dim`, theirs. In a padded
    batch ESPnet may count one more.
    """
    shape = (1, num_samples) if dim is None else (1, num_samples, dim)
    speech = torch.zeros(shape, device=next(model.parameters()).device)
    with torch.no_grad():
        _, lengths = model.ctc_log_probs(speech, torch.tensor([num_samples]))
    return int(lengths[0])
