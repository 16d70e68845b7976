"""The ESPnet model: its own forward on labeled batches, the PL forward on others."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from espnet2.torch_utils.device_funcs import force_gatherable

from espnet_softpl.monitors import statistics
from espnet_softpl.teacher.generator import CTCOutputs
from espnet_softpl.training import features, unlabeled_head
from espnet_softpl.training.batch import UnlabeledBatch
from espnet_softpl.training.decoder_model import DecoderModel
from espnet_softpl.training.engine import PseudoLabeling

# A loss, statistics by name, and the size of the batch, as ESPnet's trainer wants them.
Reported = tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]


class SoftPLModel(DecoderModel):
    """A stock ASR model that also learns from batches without transcripts.

    Its checkpoints are stock checkpoints: it adds no parameter and no buffer to them.
    """

    pl: PseudoLabeling | None = None  # None makes this the stock model.
    _labeled_encoding: tuple[torch.Tensor, torch.Tensor] | None = None

    def add_unlabeled_head(self) -> None:
        """Give unlabeled batches a CTC head of their own; see `unlabeled_head`."""
        unlabeled_head.add(self)

    def forward(
        self,
        speech: torch.Tensor | None = None,
        speech_lengths: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        text_lengths: torch.Tensor | None = None,
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
        if self.pl is not None and self.training:
            self.pl.set_dropout(pl_step)
        if unlabeled is not None:
            losses, values = self.pl.step(self, unlabeled, insertions, pl_step)
            size = unlabeled.speech.size(0)
            return self._report(losses, values, size, pl_factor)
        if insertions:
            self.pl.insert(self, insertions, pl_step)
        if self.pl is None or not self.training:
            return super().forward(speech, speech_lengths, text, text_lengths, **kwargs)
        batch = (speech, speech_lengths, text, text_lengths)
        return self._forward_labeled(batch, pl_step, pl_factor, kwargs)

    def _forward_labeled(
        self,
        batch: tuple[torch.Tensor, ...],
        step: int,
        factor: float,
        kwargs: dict[str, Any],
    ) -> Reported:
        """Run the stock forward, on two views of the batch if they are wanted."""
        size, views = len(batch[0]), self.pl.labeled_views(step)
        self._labeled_encoding = None
        with features.shared() if views == 2 else contextlib.nullcontext():
            if views == 2:
                text = (torch.cat([tensor, tensor]) for tensor in batch[2:])
                batch = (*features.repeated(*batch[:2], 2), *text)
            loss, stats, _ = super().forward(*batch, **kwargs)
        if views > 0:
            encoder_out, lengths = self._labeled_encoding
            log_probs = self._frame_log_probs(encoder_out, self.ctc.ctc_lo)
            more = self.pl.on_labeled(log_probs, lengths, *batch[2:], step)
            loss = loss + self.ctc_weight * more
        self._labeled_encoding = None
        return self._report({"loss": loss, "loss_labeled": loss}, stats, size, factor)

    def _calc_ctc_loss(
        self, encoder_out: torch.Tensor, encoder_out_lens: torch.Tensor, *args: Any
    ) -> tuple[torch.Tensor, float | None]:
        """Run the stock CTC branch; remember what the last layer gave it."""
        # Intermediate layers come later. In eval mode nothing must be kept alive.
        if self.pl is not None and self.training and self._labeled_encoding is None:
            self._labeled_encoding = (encoder_out, encoder_out_lens)
        return super()._calc_ctc_loss(encoder_out, encoder_out_lens, *args)

    def _report(
        self,
        losses: dict[str, torch.Tensor],
        stats: dict[str, Any],
        size: int,
        factor: float,
    ) -> Reported:
        """Bring a batch's loss and statistics to the form that ESPnet wants."""
        # The trainer divides the loss in place; the statistic must not follow.
        stats = stats | {name: loss.detach().clone() for name, loss in losses.items()}
        # ESPnet gathers statistics between processes by position: keys that differ
        # between batches would be mixed up without any error.
        stats = {key: stats.get(key, math.nan) for key in self.statistics_keys()}
        loss = factor * losses["loss"]
        # A number is filled in on the device; to copy one there would wait for it.
        as_vector = functools.partial(torch.full, (1,), device=loss.device)
        stats = {
            key: value if isinstance(value, torch.Tensor) else as_vector(float(value))
            for key, value in stats.items()
        }
        return force_gatherable((loss, stats, as_vector(size)), loss.device)

    def combine_losses(self, parts: dict[str, torch.Tensor]) -> torch.Tensor:
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

    def _frame_log_probs(
        self, encoder_out: torch.Tensor, head: torch.nn.Linear
    ) -> torch.Tensor:
        """Apply a CTC head, (B, T, D) -> (B, T, V), normalized in float32."""
        dropped = F.dropout(encoder_out, self.ctc.dropout_rate, self.training)
        return head(dropped).float().log_softmax(-1)

    def _extract_feats(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the stock front end, unless its features are known."""
        extract = super()._extract_feats
        return features.of(self.frontend, speech, speech_lengths, extract)

    def ctc_log_probs(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the stock head's log-posteriors (B, T, V) and their lengths (B,)."""
        return self.ctc_outputs(speech, speech_lengths)[:2]

    def ctc_outputs(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        layers: bool = False,
        head: torch.nn.Module | None = None,
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

    def collect_feats(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Extract features for `--collect_stats`, with or without transcripts.

        They are `feats` (B, frames, D) and `feats_lengths` (B,).
        """
        feats, feats_lengths = self._extract_feats(speech, speech_lengths)
        return {"feats": feats, "feats_lengths": feats_lengths}


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
