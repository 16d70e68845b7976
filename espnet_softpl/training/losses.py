"""What the student's outputs cost, on unlabeled and on labeled mini-batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from espnet_softpl.criteria import PLCriterion
from espnet_softpl.criteria.base import weighted_mean
from espnet_softpl.labels.pseudo_label import Labels, PseudoLabel, all_frames
from espnet_softpl.teacher.generator import CTCOutputs
from espnet_softpl.training import features, hooks
from espnet_softpl.training.labeling import Labeling, UnlabeledBatch
from espnet_softpl.training.schedule import Scheduled


class Outcome(NamedTuple):
    """Losses of an unlabeled mini-batch, and what they were computed from.

    All is on the model's device.
    """

    losses: dict[str, Tensor]  # Scalars with gradient, by branch.
    label: PseudoLabel  # With the final weight.
    log_probs: Tensor  # The student's log-posteriors, (B, T, V).
    lengths: Tensor  # Frames per utterance, (B,).
    best: Tensor  # The highest log-posterior of each frame, (B, T).
    sound: Tensor  # Whose posteriors are finite, (B,).
    usable: Tensor  # Whose audio, posteriors and loss can be used, (B,).


def frames_differ(label: PseudoLabel, lengths: Tensor) -> RuntimeError:
    """Say that a label is not of the student's frames, of lengths (B,)."""
    return RuntimeError(
        f"teacher and student disagree on the number of frames: "
        f"{label.lengths.tolist()} and {lengths.tolist()}"
    )


@dataclasses.dataclass(kw_only=True)
class Losses(Labeling):
    """Computes losses against the labels that it makes."""

    criterion: Scheduled[PLCriterion]  # The loss against a pseudo-label.
    regularizers: Sequence[Scheduled[PLCriterion]] = ()  # Terms added to it.

    def _learn(
        self, student: nn.Module, batch: UnlabeledBatch, labels: Labels, step: int
    ) -> Outcome:
        """Compute the branches' losses; tell what was learned from."""
        label, usable = labels.label, batch.usable
        if usable is None:
            usable = torch.ones_like(label.weight, dtype=torch.bool)
        label = label._replace(weight=label.weight * usable)
        views, label = self._student_views(student, batch, label, step)
        log_probs, lengths, encoder_out, _ = views[0]
        losses = self._losses(log_probs, lengths, label, step)
        # An utterance without a finite loss teaches nothing, and is counted. Of
        # posteriors that are NaN a loss may be 0.
        best = log_probs.detach().amax(-1)
        sound = all_frames(best.isfinite(), lengths)
        usable = torch.isfinite(losses.detach()) & sound & usable
        label = label._replace(weight=label.weight * usable)
        parts = {"loss_pl_ctc": weighted_mean(losses, label.weight)}
        if self.forms.layers != "none":
            parts["loss_pl_interctc"] = self._layers_loss(views, labels, label, step)
        target = self.decoder_target(student, step)
        if target != "none":
            parts["loss_pl_decoder"] = student.pseudo_decoder_loss(
                target, encoder_out, lengths, label, labels.decoder
            )
        return Outcome(parts, label, log_probs, lengths, best, sound, usable)

    def _student_views(
        self, student: nn.Module, batch: UnlabeledBatch, label: PseudoLabel, step: int
    ) -> tuple[list[CTCOutputs], PseudoLabel]:
        """Run the student on the views that the losses want; label the second.

        The label also gets the frames masked in each view, if a loss wants them.
        """
        parts = self._losses_at(step)
        count = max(part.views for part in parts)
        wanted = any(part.needs_masked for part in parts)
        heard = batch.speech if batch.augmented is None else batch.augmented
        with hooks.recorded_masks(student.specaug if wanted else None) as masks:
            outputs = student.ctc_outputs(
                *features.repeated(heard, batch.speech_lengths, count),
                layers=self.forms.layers != "none",
                head=hooks.head_of(student),
            )
        views = outputs.views(count)
        if views[0].log_probs.shape != label.log_probs.shape:
            raise frames_differ(label, views[0].lengths)
        if count == 2:
            label = label._replace(second_view=views[1].log_probs)
        if masks:
            masked = hooks.masks_of_encoder(masks[0], views[0].log_probs.size(1))
            masked = dict(zip(("masked", "second_masked"), masked.chunk(count)))
            label = label._replace(**masked)
        return views, label

    def _losses(
        self,
        log_probs: Tensor,
        lengths: Tensor,
        label: PseudoLabel,
        step: int,
        regularized: bool = True,
    ) -> Tensor:
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
    ) -> Tensor:
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

    def decoder_target(self, student: nn.Module, step: int | None = None) -> str:
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
        log_probs: Tensor,
        lengths: Tensor,
        tokens: Tensor,
        token_lengths: Tensor,
        step: int,
    ) -> Tensor | float:
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
