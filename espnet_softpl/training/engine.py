"""The pseudo-labeling engine: label, shape, filter, cache, criterion, guard.

B utterances, N samples, T frames after subsampling, V tokens with blank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from espnet_softpl import filters
from espnet_softpl.cache import LabelCache, label_change
from espnet_softpl.criteria import PLCriterion
from espnet_softpl.criteria.decoder_ce import decoder_disagreement
from espnet_softpl.filters import Candidate, Filter
from espnet_softpl.labels.forms import LabelForms
from espnet_softpl.labels.prior import RunningMean
from espnet_softpl.labels.pseudo_label import (
    DecoderLabel,
    Labels,
    PseudoLabel,
    best_path,
    without_nan,
)
from espnet_softpl.monitors.guard import Guard
from espnet_softpl.monitors.oracle import Oracle
from espnet_softpl.monitors.samples import SampleRecorder
from espnet_softpl.monitors.statistics import label_statistics
from espnet_softpl.shaping import Shaping
from espnet_softpl.teacher.generator import Heard, PseudoLabelGenerator
from espnet_softpl.training import unlabeled_head
from espnet_softpl.training.batch import UnlabeledBatch
from espnet_softpl.training.dropout import DropoutSwitch
from espnet_softpl.training.schedule import Scheduled


@dataclasses.dataclass
class PseudoLabeling:
    """What a model needs to learn from unlabeled batches.

    It hangs on the model as a plain attribute, so that nothing in it shows in
    `parameters()` or `state_dict()`.

    Attributes:
        criterion: The loss against a pseudo-label, by step.
        generator: Makes the pseudo-labels.
        forms: Who learns from them beside the last layer's CTC.
        regularizers: Terms added to the criterion, by step.
        shaping: Changes to the teacher's label before the criterion, in order, by step.
        filters: Which labels to trust, by name, in order.
        cache: Keeps the labels; None makes them anew for every mini-batch.
        dropout: The model's dropout rates, before pseudo-labeling and in it; or None.
        start_step: The first mini-batch at which there may be unlabeled ones.
        oracle: Scores them where true transcripts exist, else None.
        guard: Watches for collapse, or None.
        samples: Records the labels of a few utterances for people to read, or None.
        labeled_tokens_per_sample: Speech rate of the labeled data, NaN if unknown.
        sample_rate: In Hz, to count hours; NaN where that is not known.
        kept_hours: Hours of audio that this process has learned from with a label.
        prior: The mean frame posterior on labeled batches; None where nobody asks.
        begun: Whether the first unlabeled batch has been seen.
        healthy_epoch: The epoch whose end the guard's back-off returns to, or None.
        last_batch: Utterance ids and label of the latest unlabeled batch, for reports.
    """

    criterion: Scheduled[PLCriterion]
    generator: PseudoLabelGenerator
    forms: LabelForms = LabelForms()
    regularizers: Sequence[Scheduled[PLCriterion]] = ()
    shaping: Sequence[Scheduled[Shaping]] = ()
    filters: Sequence[tuple[str, Filter]] = ()
    cache: LabelCache | None = None
    dropout: DropoutSwitch | None = None
    start_step: int = 0
    oracle: Oracle | None = None
    guard: Guard | None = None
    samples: SampleRecorder | None = None
    labeled_tokens_per_sample: float = float("nan")
    sample_rate: float = 16000
    kept_hours: float = dataclasses.field(init=False, default=0.0)
    prior: RunningMean | None = dataclasses.field(init=False)
    begun: bool = dataclasses.field(init=False, default=False)
    healthy_epoch: int | None = dataclasses.field(init=False, default=None)
    last_batch: tuple[list[str], PseudoLabel] | None = dataclasses.field(
        init=False, default=None
    )

    def __post_init__(self) -> None:
        parts = (self.criterion, *self.regularizers, *self.shaping)
        asked = any(part.at(0).needs_prior for part in parts)
        self.prior = RunningMean() if asked else None

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Stay out of copies of the model: a teacher needs none of this."""
        return None

    def begin(self, student: torch.nn.Module, head: torch.nn.Module) -> None:
        """At the first unlabeled batch, let the unlabeled head start from the other.

        Args:
            student: The model in training.
            head: Its CTC head for labeled batches, by now that of the seed.
        """
        own = unlabeled_head.of(student)
        if own is not None and not self.begun:
            own.load_state_dict(head.state_dict())
        self.begun = True

    def make(
        self, student: torch.nn.Module, batch: UnlabeledBatch, step: int
    ) -> Labels:
        """Label a mini-batch with the teacher, shape the labels and filter them.

        Args:
            student: The model in training.
            batch: The mini-batch.
            step: The mini-batch of training.

        Returns:
            The labels, without gradient.
        """
        speech = (batch.speech, batch.speech_lengths)
        heard = self.generator.listen(student, *speech)
        label = made = heard.label
        if batch.usable is not None:
            label = label._replace(weight=label.weight * batch.usable)
        if self.prior is not None:
            label = label._replace(prior=self.prior.value)
        for shaping in self.shaping:
            label = shaping.at(step)(label)
        candidate = Candidate(
            label=label,
            speech_lengths=batch.speech_lengths,
            labeled_tokens_per_sample=self.labeled_tokens_per_sample,
            relabel=lambda: self.generator(student, *speech, dropout=True),
        )
        weight, reason = filters.apply(self.filters, candidate)
        statistics = label_statistics(
            made, batch.speech_lengths, self.labeled_tokens_per_sample
        )
        labels = Labels(
            utterance_ids=list(batch.utt_id),
            label=label._replace(weight=weight),
            path=best_path(made.log_probs, made.lengths),
            reason=reason,
            statistics=statistics,
            step=step,
            layers=heard.layers,
        )
        return self._force(student, heard, labels) if self.forms.forced else labels

    def _force(self, student: torch.nn.Module, heard: Heard, labels: Labels) -> Labels:
        """Add what the teacher's decoder answers to the labels' transcripts."""
        label = labels.label
        answer, targets = self.generator.force(student, heard, label)
        log_probs, sound = without_nan(answer.log_probs, answer.lengths)
        decoder = DecoderLabel(
            answer.tokens, answer.lengths, log_probs if self.forms.soft else None
        )
        lost = (label.weight > 0) & ~sound
        return dataclasses.replace(
            labels,
            label=label._replace(weight=label.weight * sound),
            reason=labels.reason.masked_fill(lost, len(self.filters)),
            statistics={
                **labels.statistics,
                "pl_decoder_disagreement": decoder_disagreement(answer, targets),
            },
            decoder=decoder,
        )

    def labels_of(
        self,
        student: torch.nn.Module,
        batch: UnlabeledBatch,
        insertions: Sequence[UnlabeledBatch],
        step: int,
    ) -> tuple[Labels, float]:
        """Return the labels to train on: new ones, or those in the cache.

        Args:
            student: The model in training.
            batch: The mini-batch that is trained on.
            insertions: Mini-batches whose labels the cache is to get at this step; the
                labels that they replace are trained on once more.
            step: The mini-batch of training.

        Returns:
            The labels, and how far they have changed since they were made where that
            is known, else NaN.
        """
        if self.cache is None:
            return self.make(student, batch, step), float("nan")
        found = self.cache.take(batch.slot, batch.utt_id, batch.speech.device)
        labels = found
        if labels is None:
            labels = self.make(student, batch, step)
            self.cache.insert(batch.slot, labels, batch.draw)
        inserted = self.insert(student, insertions, step)
        change = float("nan")
        if found is not None:
            change = self._change(student, batch, found, inserted, step)
        if self.cache.decides:
            self.cache.decide(batch.draw, change)
        return labels, change

    def insert(
        self,
        student: torch.nn.Module,
        insertions: Sequence[UnlabeledBatch],
        step: int,
    ) -> dict[int, Labels]:
        """Label mini-batches and store the labels; return them by slot."""
        made = {batch.slot: self.make(student, batch, step) for batch in insertions}
        for batch in insertions:
            self.cache.insert(batch.slot, made[batch.slot], batch.draw)
        return made

    def _change(
        self,
        student: torch.nn.Module,
        batch: UnlabeledBatch,
        old: Labels,
        inserted: dict[int, Labels],
        step: int,
    ) -> float:
        """Measure how far labels have changed, where the cache wants to know."""
        new = inserted.get(batch.slot)
        if self.cache.decides:
            new = self.make(student, batch, step)
            if self.cache.refreshes and batch.slot not in inserted:
                self.cache.insert(batch.slot, new, batch.draw)
        elif new is None:
            return float("nan")
        elif new.utterance_ids != old.utterance_ids:
            if not self.cache.measures_change:
                return float("nan")
            new = self.make(student, batch, step)
        return label_change(old, new)

    def losses(
        self,
        log_probs: torch.Tensor,
        lengths: torch.Tensor,
        label: PseudoLabel,
        step: int,
        regularized: bool = True,
    ) -> torch.Tensor:
        """Compute the loss of each utterance at one layer.

        Args:
            log_probs: The student's normalized frame log-posteriors, (B, T, V).
            lengths: Frames per utterance, (B,).
            label: The label of `labels_of`; with `second_view` for two views.
            step: The mini-batch of training.
            regularized: Whether the regularizers are added to the criterion.

        Returns:
            (B,), in nats per utterance.
        """
        if self.prior is not None:
            label = label._replace(prior=self.prior.value)
        more = self.regularizers if regularized else ()
        parts = [part.at(step) for part in (self.criterion, *more)]
        device = log_probs.device  # A user's criterion may hold buffers.
        return sum(part.to(device)(log_probs, lengths, label) for part in parts)

    @property
    def weight_factor(self) -> float:
        """What is left of the unlabeled loss after the guard's back-offs, in (0, 1]."""
        return 1.0 if self.guard is None else self.guard.weight_factor

    def count_kept(self, batch: UnlabeledBatch, label: PseudoLabel) -> None:
        """Add a mini-batch to the hours of audio that were learned from."""
        samples = batch.speech_lengths[label.weight > 0].sum()
        self.kept_hours += float(samples) / self.sample_rate / 3600.0

    def observe_labeled(self, *batch: torch.Tensor) -> None:
        """Let the filters that calibrate themselves see a labeled mini-batch.

        Args:
            *batch: log_probs (B, T, V), lengths (B,), tokens (B, U), token_lengths
                (B,).
        """
        for _, part in self.filters:
            if part.needs_labeled:
                part.observe(*batch)

    @property
    def observes_labeled(self) -> bool:
        """Whether anything looks at the posteriors of labeled batches."""
        wanted = any(part.needs_labeled for _, part in self.filters)
        return wanted or self.prior is not None

    def state_dict(
        self, student: torch.nn.Module, cache: bool = True
    ) -> dict[str, Any]:
        """Return what a resumed run needs, tensors and plain values only.

        Args:
            student: The model in training, for what its own state leaves out.
            cache: False leaves out the labels in the cache, for a back-off.
        """
        head = unlabeled_head.of(student)
        kept = self.cache if cache else None
        return {
            "begun": self.begun,
            "healthy_epoch": self.healthy_epoch,
            "head": None if head is None else head.state_dict(),
            "teacher": self.generator.teacher.state_dict(),
            "shaping": [part.state_dict() for part in self.shaping],
            "filters": [part.state_dict() for _, part in self.filters],
            "cache": None if kept is None else kept.state_dict(),
            "kept_hours": self.kept_hours,
            "prior": None if self.prior is None else self.prior.state_dict(),
            "guard": None if self.guard is None else self.guard.state_dict(),
            "samples": None if self.samples is None else self.samples.state_dict(),
        }

    def load_state_dict(
        self, state: dict[str, Any], student: torch.nn.Module, back_off: bool = False
    ) -> None:
        """Restore a state.

        Args:
            state: What `state_dict` returned, with the same settings.
            student: The model in training, for its structure and device.
            back_off: The state is an earlier one of this same training. The guard then
                stays as it is, for it remembers what it undid; and the labels in the
                cache are thrown away, for the schedule does not go back with them.

        Raises:
            ValueError: The state is that of other settings.
        """
        self.begun = state["begun"]
        head = unlabeled_head.of(student)
        if head is not None:
            head.load_state_dict(state["head"])
        self.generator.teacher.load_state_dict(state["teacher"], student)
        for part, saved in zip(self.shaping, state["shaping"], strict=True):
            part.load_state_dict(saved)
        for (_, part), saved in zip(self.filters, state["filters"], strict=True):
            part.load_state_dict(saved)
        if self.prior is not None:
            self.prior.load_state_dict(state["prior"])
        if back_off:
            if self.cache is not None:
                self.cache.clear()
            return
        self.healthy_epoch = state["healthy_epoch"]
        self.kept_hours = state["kept_hours"]
        if (self.cache is None) != (state["cache"] is None):
            has = "no cache" if state["cache"] is None else "a cache"
            raise ValueError(f"pl_cache: the saved state has {has}, this run differs")
        if self.cache is not None:
            self.cache.load_state_dict(state["cache"])
        if self.guard is not None and state["guard"] is not None:
            self.guard.load_state_dict(state["guard"])
        # States of earlier versions of this package have no such key.
        if self.samples is not None and state.get("samples") is not None:
            self.samples.load_state_dict(state["samples"])
