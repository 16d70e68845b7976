"""From an unlabeled mini-batch to its labels: teacher, shaping, filters, cache."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from espnet_softpl import filters
from espnet_softpl.cache import LabelCache, label_change
from espnet_softpl.core.timing import Stopwatch
from espnet_softpl.criteria.decoder_ce import decoder_disagreement
from espnet_softpl.filters import Candidate, Filter
from espnet_softpl.labels.forms import LabelForms
from espnet_softpl.labels.prior import RunningMean
from espnet_softpl.labels.pseudo_label import DecoderLabel, Labels, without_nan
from espnet_softpl.monitors.statistics import DECODER_DISAGREEMENT, label_statistics
from espnet_softpl.shaping import Shaping
from espnet_softpl.teacher.generator import PseudoLabelGenerator, TeacherOutputs
from espnet_softpl.training import hooks
from espnet_softpl.training.schedule import Scheduled


class UnlabeledBatch(NamedTuple):
    """A mini-batch of B utterances of at most N samples without transcripts.

    ESPnet's `to_device` and torch's `scatter` move the tensors of a NamedTuple.
    """

    utt_id: list[str]
    speech: Tensor  # Clean waveforms, (B, N): what the teacher hears.
    speech_lengths: Tensor  # Samples per utterance, (B,).
    weight: float = 1.0  # The schedule's factor on the unlabeled loss (lambda), >= 0.
    usable: Tensor | None = None  # (B,), False if silence replaces bad audio.
    slot: int | None = None  # The slot of the label cache that it belongs to, if any.
    draw: int = 0  # Unlabeled turns of the schedule before this one.
    # What the student hears, (B, N), if the loader augments; None for `speech`.
    augmented: Tensor | None = None


@dataclasses.dataclass(kw_only=True)
class Labeling:
    """Labels unlabeled mini-batches."""

    generator: PseudoLabelGenerator
    forms: LabelForms = LabelForms()  # Who learns beside the last layer's CTC.
    shaping: Sequence[Scheduled[Shaping]] = ()  # Changes to the label, in order.
    filters: Sequence[tuple[str, Filter]] = ()  # Labels to trust, by name.
    cache: LabelCache | None = None  # None labels every mini-batch anew.
    labeled_tokens_per_sample: float = math.nan  # Of the labeled data, if known.
    # The mean frame posterior on labeled batches; None if nobody asks.
    prior: RunningMean | None = dataclasses.field(init=False, default=None)
    # Whether the first unlabeled mini-batch has been labeled.
    begun: bool = dataclasses.field(init=False, default=False)
    # The time that labels take.
    stopwatch: Stopwatch = dataclasses.field(init=False, default_factory=Stopwatch)

    def make(self, student: nn.Module, batch: UnlabeledBatch, step: int) -> Labels:
        """Label a mini-batch with the teacher, shape and filter the labels."""
        with self.stopwatch.running(batch.speech.device):
            return self._make(student, batch, step)

    def _make(self, student: nn.Module, batch: UnlabeledBatch, step: int) -> Labels:
        if not self.begun:
            hooks.start_head(student)
            self.begun = True
        speech = (batch.speech, batch.speech_lengths)
        outputs = self.generator.run(student, *speech)
        label = outputs.label
        # The monitors are of what the teacher said; of none if no label is sound.
        log_probs, heard = without_nan(label.log_probs, label.lengths)
        label = label._replace(log_probs=log_probs, weight=label.weight * heard)
        of_label = label_statistics(
            label, outputs.path, batch.speech_lengths, self.labeled_tokens_per_sample
        )
        if batch.usable is not None:
            label = label._replace(weight=label.weight * batch.usable)
        if self.prior is not None:
            label = label._replace(prior=self.prior.value)
        relabel = functools.partial(self.generator, student, *speech, dropout=True)
        for shaping in self.shaping:
            part = shaping.at(step)
            label = part(label, relabel) if part.needs_dropout else part(label)
        if self.shaping:
            log_probs, sound = without_nan(label.log_probs, label.lengths)
            label = label._replace(log_probs=log_probs, weight=label.weight * sound)
        candidate = Candidate(
            label=label,
            speech_lengths=batch.speech_lengths,
            labeled_tokens_per_sample=self.labeled_tokens_per_sample,
            relabel=relabel,
        )
        weight, reason = filters.apply(self.filters, candidate)
        labels = Labels(
            utterance_ids=list(batch.utt_id),
            label=label._replace(weight=weight),
            path=outputs.path,
            reason=reason,
            statistics=of_label,
            step=step,
            layers=outputs.layers,
        )
        return self._force(student, outputs, labels) if self.forms.forced else labels

    def _force(
        self, student: nn.Module, outputs: TeacherOutputs, labels: Labels
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
        student: nn.Module,
        batch: UnlabeledBatch,
        insertions: Sequence[UnlabeledBatch],
        step: int,
    ) -> tuple[Labels, float]:
        """Return the labels to train on, new or from the cache, and their change.

        The change since they were made is NaN if it is not known. `insertions` are
        labeled for the cache; the labels that they replace are trained on once more.
        """
        if self.cache is None:
            return self.make(student, batch, step), math.nan
        labels = self.cache.take(batch.slot, batch.utt_id, batch.speech.device)
        change = math.nan
        if labels is None:
            labels = self.insert(student, [batch], step)[batch.slot]
            self.insert(student, insertions, step)
        else:
            new = self.insert(student, insertions, step).get(batch.slot)
            is_new = new is not None
            # The slot may have got the next mini-batch: its labels are no comparison.
            is_other = is_new and new.utterance_ids != labels.utterance_ids
            if self.cache.decides or (is_other and self.cache.measures_change):
                new = self.make(student, batch, step)
            elif is_other:
                new = None
            if self.cache.refreshes and not is_new:
                self.cache.insert(batch.slot, new, batch.draw)
            if new is not None:
                change = label_change(labels, new)
        if self.cache.decides:
            self.cache.decide(batch.draw, change)
        return labels, change

    def insert(
        self, student: nn.Module, batches: Sequence[UnlabeledBatch], step: int
    ) -> dict[int, Labels]:
        """Label mini-batches and store the labels; return them by slot."""
        inserted = {batch.slot: self.make(student, batch, step) for batch in batches}
        for batch in batches:
            self.cache.insert(batch.slot, inserted[batch.slot], batch.draw)
        return inserted
