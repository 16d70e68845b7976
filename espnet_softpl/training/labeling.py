"""From an unlabeled mini-batch to its labels: teacher, shaping, filters, cache.

B utterances, T frames after subsampling, V tokens with blank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from espnet_softpl import filters
from espnet_softpl.cache import LabelCache, label_change
from espnet_softpl.criteria.decoder_ce import decoder_disagreement
from espnet_softpl.filters import Candidate, Filter
from espnet_softpl.labels.forms import LabelForms
from espnet_softpl.labels.prior import RunningMean
from espnet_softpl.labels.pseudo_label import (
    DecoderLabel,
    Labels,
    best_path,
    without_nan,
)
from espnet_softpl.monitors.statistics import DECODER_DISAGREEMENT, label_statistics
from espnet_softpl.shaping import Shaping
from espnet_softpl.teacher.generator import PseudoLabelGenerator, TeacherOutputs
from espnet_softpl.training import unlabeled_head
from espnet_softpl.training.batch import UnlabeledBatch
from espnet_softpl.training.schedule import Scheduled


@dataclasses.dataclass(kw_only=True)
class Labeling:
    """Labels unlabeled mini-batches.

    Attributes:
        generator: Makes the pseudo-labels.
        forms: Who learns from them beside the last layer's CTC.
        shaping: Changes to the teacher's label before the criterion, in order, by step.
        filters: Which labels to trust, by name, in order.
        cache: Keeps the labels; None makes them anew for every mini-batch.
        labeled_tokens_per_sample: Speech rate of the labeled data, NaN if unknown.
        prior: The mean frame posterior on labeled batches; None if nobody asks.
        begun: Whether the first unlabeled mini-batch has been labeled.
    """

    generator: PseudoLabelGenerator
    forms: LabelForms = LabelForms()
    shaping: Sequence[Scheduled[Shaping]] = ()
    filters: Sequence[tuple[str, Filter]] = ()
    cache: LabelCache | None = None
    labeled_tokens_per_sample: float = float("nan")
    prior: RunningMean | None = dataclasses.field(init=False, default=None)
    begun: bool = dataclasses.field(init=False, default=False)

    def make(
        self, student: torch.nn.Module, batch: UnlabeledBatch, step: int
    ) -> Labels:
        """Label a mini-batch with the teacher, shape the labels and filter them.

        Returns:
            The labels, without gradient.
        """
        if not self.begun:
            unlabeled_head.start(student)
            self.begun = True
        speech = (batch.speech, batch.speech_lengths)
        outputs = self.generator.run(student, *speech)
        label = outputs.label
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
        labels = Labels(
            utterance_ids=list(batch.utt_id),
            label=label._replace(weight=weight),
            path=best_path(outputs.label.log_probs, outputs.label.lengths),
            reason=reason,
            statistics=label_statistics(
                outputs.label, batch.speech_lengths, self.labeled_tokens_per_sample
            ),
            step=step,
            layers=outputs.layers,
        )
        return self._force(student, outputs, labels) if self.forms.forced else labels

    def _force(
        self, student: torch.nn.Module, outputs: TeacherOutputs, labels: Labels
    ) -> Labels:
        """Add what the teacher's decoder answers to the labels' transcripts."""
        label = labels.label
        answer, targets = self.generator.force(student, outputs, label)
        log_probs, sound = without_nan(answer.log_probs, answer.lengths)
        unsound = (label.weight > 0) & ~sound
        disagreement = decoder_disagreement(answer, targets)
        return dataclasses.replace(
            labels,
            label=label._replace(weight=label.weight * sound),
            reason=labels.reason.masked_fill(unsound, len(self.filters)),
            statistics={**labels.statistics, DECODER_DISAGREEMENT.name: disagreement},
            decoder=DecoderLabel(
                answer.tokens, answer.lengths, log_probs if self.forms.soft else None
            ),
        )

    def labels_of(
        self,
        student: torch.nn.Module,
        batch: UnlabeledBatch,
        insertions: Sequence[UnlabeledBatch],
        step: int,
    ) -> tuple[Labels, float]:
        """Return the labels to train on, new or from the cache, and their change.

        Args:
            student: The model in training.
            batch: The mini-batch that is trained on.
            insertions: Mini-batches to label for the cache; the labels that they
                replace are trained on once more.
            step: Number of the mini-batch in the whole training.

        Returns:
            The labels, and how far they have changed since they were made, NaN if that
            is not known.
        """
        if self.cache is None:
            return self.make(student, batch, step), float("nan")
        cached = self.cache.take(batch.slot, batch.utt_id, batch.speech.device)
        labels = cached
        if labels is None:
            labels = self.make(student, batch, step)
            self.cache.insert(batch.slot, labels, batch.draw)
        inserted = self.insert(student, insertions, step)
        change = float("nan")
        if cached is not None:
            change = self._change(student, batch, cached, inserted, step)
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
        inserted = {batch.slot: self.make(student, batch, step) for batch in insertions}
        for batch in insertions:
            self.cache.insert(batch.slot, inserted[batch.slot], batch.draw)
        return inserted

    def _change(
        self,
        student: torch.nn.Module,
        batch: UnlabeledBatch,
        old: Labels,
        inserted: dict[int, Labels],
        step: int,
    ) -> float:
        """Measure how far labels have changed, if the cache wants to know."""
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
