"""What the student's outputs cost, on unlabeled and on labeled mini-batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from espnet_softpl.criteria import PLCriterion
from espnet_softpl.criteria.base import weighted_mean
from espnet_softpl.labels.pseudo_label import Labels, PseudoLabel
from espnet_softpl.teacher.generator import CTCOutputs
from espnet_softpl.training.labeling import Labeling
from espnet_softpl.training.schedule import Scheduled


@dataclasses.dataclass(kw_only=True)
class Losses(Labeling):
    """Computes losses against the labels that it makes."""

    criterion: Scheduled[PLCriterion]  # The loss against a pseudo-label.
    regularizers: Sequence[Scheduled[PLCriterion]] = ()  # Terms added to it.

    def _losses(
        self,
        log_probs: torch.Tensor,
        lengths: torch.Tensor,
        label: PseudoLabel,
        step: int,
        regularized: bool = True,
    ) -> torch.Tensor:
        """Compute the loss of each utterance at one layer, (B,), in nats."""
        if self.prior is not None:
            label = label._replace(prior=self.prior.value)
        excludes_empty = any(part.excludes_empty for _, part in self.filters)
        label = label._replace(excludes_empty=excludes_empty)
        parts = self._losses_at(step)[: None if regularized else 1]
        device = log_probs.device  # A user's criterion may hold buffers.
        return sum(part.to(device)(log_probs, lengths, label) for part in parts)

    def _losses_at(self, step: int) -> list[PLCriterion]:
        """Return the criterion, and after it the regularizers, of a step."""
        return [part.at(step) for part in (self.criterion, *self.regularizers)]

    def _layers_loss(
        self, views: list[CTCOutputs], labels: Labels, label: PseudoLabel, step: int
    ) -> torch.Tensor:
        """Compute the criterion's loss at the intermediate layers, their mean."""
        means = []
        for index, log_probs in enumerate(views[0].layers):
            target = label
            if self.forms.layers == "own":
                own = labels.layers[index]
                target = own._replace(
                    weight=own.weight * label.weight,
                    masked=label.masked,
                    second_masked=label.second_masked,
                )
            if len(views) == 2:
                target = target._replace(second_view=views[1].layers[index])
            lengths = views[0].lengths
            losses = self._losses(log_probs, lengths, target, step, regularized=False)
            weight = target.weight * torch.isfinite(losses.detach())
            means.append(weighted_mean(losses, weight))
        return sum(means) / len(means)

    def decoder_target(self, student: torch.nn.Module, step: int | None = None) -> str:
        """Tell what the decoder learns from unlabeled batches; see `LabelForms`.

        At a step, or without one what it learns at any.
        """
        transducer = student.use_transducer_decoder
        if student.ctc_weight == 1.0 and not transducer:
            return "none"
        if step is None:
            on_transcripts = self.criterion.ever("trains_decoder")
        else:
            on_transcripts = self.criterion.at(step).trains_decoder
        return self.forms.decoder_target(on_transcripts, transducer)

    def labeled_views(self, step: int) -> int:
        """Return how many views of a labeled batch `on_labeled` wants, 0 for none."""
        if any(part.labeled_weight > 0.0 for part in self._losses_at(step)):
            return 2
        observed = any(part.needs_labeled for _, part in self.filters)
        return int(observed or self.prior is not None)

    def on_labeled(
        self,
        log_probs: torch.Tensor,
        lengths: torch.Tensor,
        tokens: torch.Tensor,
        token_lengths: torch.Tensor,
        step: int,
    ) -> torch.Tensor | float:
        """Let the prior, the filters and the losses see a labeled mini-batch.

        It has the student's posteriors (B, T, V) and the true transcripts (B, U), of
        all views one after the other. The result is the loss between two views, of
        criterion and regularizers, a mean over utterances; 0 for one view.
        """
        if self.prior is not None:
            self.prior.update(log_probs, lengths)
        for _, part in self.filters:
            if part.needs_labeled:
                part.observe(log_probs.detach(), lengths, tokens, token_lengths)
        if self.labeled_views(step) < 2:
            return 0.0
        first, second = log_probs.chunk(2)
        views = (first, lengths.chunk(2)[0], second)
        parts = [p for p in self._losses_at(step) if p.labeled_weight > 0.0]
        return sum(part.on_labeled(*views).mean() for part in parts)
