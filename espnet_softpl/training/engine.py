"""The pseudo-labeling engine: what a model needs to learn from unlabeled batches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from espnet_softpl.core.errors import CollapseError
from espnet_softpl.core.modules import read_columns, read_values
from espnet_softpl.labels.prior import RunningMean
from espnet_softpl.labels.pseudo_label import Labels, PseudoLabel
from espnet_softpl.monitors import statistics
from espnet_softpl.monitors.diagnosis import explain
from espnet_softpl.monitors.guard import Guard, broken_alarm
from espnet_softpl.monitors.learned import LearnedFrom
from espnet_softpl.monitors.oracle import Oracle
from espnet_softpl.monitors.samples import SampleRecorder
from espnet_softpl.training import features, hooks
from espnet_softpl.training.labeling import UnlabeledBatch
from espnet_softpl.training.losses import Losses, Outcome, frames_differ


@dataclasses.dataclass(kw_only=True)
class PseudoLabeling(Losses):
    """Labels unlabeled mini-batches, and computes what the student learns from them.

    It hangs on the model as a plain attribute, so that nothing in it shows in
    `parameters()` or `state_dict()`.
    """

    dropout: hooks.DropoutSwitch | None = None  # Rates before and in pseudo-labeling.
    oracle: Oracle | None = None  # Scores the labels if true transcripts exist.
    guard: Guard | None = None  # Watches for collapse.
    samples: SampleRecorder | None = None  # Records a few labels for people to read.
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)  # To resume.
    allow_changed_resume: bool = False  # Whether other settings may go on with the run.
    sample_rate: float = 16000  # In Hz, to count hours; NaN if it is not known.

    def __post_init__(self) -> None:
        self.kept_hours = 0.0  # Of audio this process has learned from with a label.
        # The epoch whose end the guard's back-off returns to.
        self.healthy_epoch: int | None = None
        # Utterance ids and label of the batch that was labeled last, for reports.
        self.last_batch: tuple[list[str], PseudoLabel] | None = None
        # The statistics of labels made for a cache that the guard has not yet seen.
        self.made: list[Mapping[str, Any]] = []
        # Whose weights are not finite, if that was seen: for the guard.
        self.broken = ""
        self.learned = LearnedFrom([name for name, _ in self.filters])
        parts = (self.criterion, *self.regularizers, *self.shaping)
        if any(part.ever("needs_prior") for part in parts):
            self.prior = RunningMean()

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Stay out of copies of the model: a teacher needs none of this."""
        return None

    def make(self, student: nn.Module, batch: UnlabeledBatch, step: int) -> Labels:
        """Label a mini-batch; remember for the guard what it must see."""
        labels = super().make(student, batch, step)
        if self.guard is not None:
            self.last_batch = (labels.utterance_ids, labels.label)
        if self.cache is not None:  # It stores numbers. Else `step` reads them.
            values = read_values(labels.statistics)
            labels = dataclasses.replace(labels, statistics=values)
            if self.guard is not None:
                self.made.append(values)
            if math.isinf(values[statistics.FRAME_ENTROPY.name]):
                self._judge_teacher(student, step)
        return labels

    def _judge_teacher(self, student: nn.Module, step: int) -> None:
        """Look at a teacher that has said nothing finite; see `_judge`."""
        module = self.generator.teacher.module(student)
        self._judge(module.state_dict().values(), "weights of the teacher", step)

    def _judge(self, weights: Iterable[Tensor], what: str, step: int) -> None:
        """Look at weights that give no finite output: are they finite themselves?

        One output that is not finite may pass; weights stay so, and nothing can be
        learned any more. All processes have the same, and see it at the same step.
        CollapseError if there is no guard to act.
        """
        if all(bool(part.isfinite().all()) for part in weights):
            return
        self.broken = what
        if self.guard is None:
            alarm = explain(broken_alarm(step, 1, what))
            raise CollapseError(f"training is stopped: {alarm}")

    @features.shared()
    def step(
        self,
        student: nn.Module,
        batch: UnlabeledBatch,
        insertions: Sequence[UnlabeledBatch],
        step: int,
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Label a mini-batch, and compute the losses of a `SoftPLModel` on it.

        `insertions` are mini-batches to label for the cache; steps count mini-batches.

        Returns:
            Losses by name, scalars with gradient: `loss` is what is differentiated,
            `loss_pl` the same without its weight, `loss_pl_*` the parts of that. And
            the statistics by name; see `monitors.statistics`.

        Raises:
            RuntimeError: Teacher and student disagree on the number of frames.
            CollapseError: See `_judge`.
        """
        labels, change = self.labels_of(student, batch, insertions, step)
        outcome = self._learn(student, batch, labels, step)
        label = outcome.label
        loss = student.combine_losses(outcome.losses)
        weight = torch.full((), batch.weight, device=loss.device)
        factor = batch.weight
        if self.guard is not None:
            weight = self.guard.weight_factor * weight
            factor *= self.guard.weight_factor
            self.last_batch = self.last_batch or (labels.utterance_ids, labels.label)
        self._take_in(student, batch, labels, outcome, factor, step)
        if self.samples is not None:
            self.samples.record(step, labels, label, outcome.log_probs)
        values = statistics.step_statistics(
            labels,
            label,
            outcome.log_probs,
            outcome.best,
            outcome.usable,
            batch.speech_lengths,
            step,
        )
        values[statistics.KEPT_HOURS.name] = self.kept_hours
        values[statistics.WEIGHT.name] = weight
        for index, (name, _) in enumerate(self.filters):
            dropped = (labels.reason == index).float().mean()
            values[statistics.dropped_by(name)] = dropped
        if self.cache is not None:
            values[statistics.TURNOVER.name] = self.cache.turnover
            values[statistics.LABEL_CHANGE.name] = change
        if self.oracle is not None:
            values |= self.oracle.score(batch.utt_id, label)
        return {"loss": weight * loss, "loss_pl": loss, **outcome.losses}, values

    def _take_in(
        self,
        student: nn.Module,
        batch: UnlabeledBatch,
        labels: Labels,
        outcome: Outcome,
        factor: float,
        step: int,
    ) -> None:
        """Read what came of a mini-batch, at once and before anything is learned."""
        silent = torch.zeros_like(outcome.sound)
        if self.cache is None:  # Else `make` has looked.
            entropy = labels.statistics[statistics.FRAME_ENTROPY.name]
            silent = entropy.isinf().expand_as(silent)
        seen = read_columns(
            kept=outcome.label.weight > 0,
            reason=labels.reason,
            usable=outcome.usable,
            sound=outcome.sound,
            same_frames=outcome.lengths == outcome.label.lengths,
            samples=batch.speech_lengths,
            silent=silent,
        )
        if not all(seen["same_frames"]):
            raise frames_differ(outcome.label, outcome.lengths)
        if any(seen["silent"]):
            self._judge_teacher(student, step)
        if not any(seen["sound"]):
            self._judge(student.parameters(), "weights of the student", step)
        self.learned.count(seen["kept"], seen["reason"], seen["usable"], factor)
        samples = sum(n for n, kept in zip(seen["samples"], seen["kept"]) if kept)
        self.kept_hours += samples / self.sample_rate / 3600.0

    def statistics_keys(self, student: nn.Module) -> list[str]:
        """Return the keys that this engine's parts add to every batch's, in order."""
        layers = self.forms.layers != "none"
        decoder = self.decoder_target(student) != "none"
        parts = {
            "loss_pl_ctc": layers or decoder,
            "loss_pl_interctc": layers,
            "loss_pl_decoder": decoder,
            statistics.DECODER_DISAGREEMENT.name: self.forms.forced,
        }
        keys = [name for name, is_reported in parts.items() if is_reported]
        keys += [statistics.dropped_by(name) for name, _ in self.filters]
        if self.cache is not None:
            keys += [each.name for each in statistics.OF_CACHE]
        if self.oracle is not None:
            keys += [each.name for each in statistics.OF_ORACLE]
        return keys

    def state_dict(self, student: nn.Module, cache: bool = True) -> dict[str, Any]:
        """Return what a resumed run needs, tensors and plain values only.

        Without `cache`, for a back-off, the labels in the cache are left out.
        """
        parts = {"cache": self.cache if cache else None, **self._parts(student)}
        states = {n: None if p is None else p.state_dict() for n, p in parts.items()}
        return {
            "begun": self.begun,
            "healthy_epoch": self.healthy_epoch,
            "kept_hours": self.kept_hours,
            "learned": self.learned.state_dict(),
            "teacher": self.generator.teacher.state_dict(),
            "shaping": [part.state_dict() for part in self.shaping],
            "filters": [part.state_dict() for _, part in self.filters],
            **states,
        }

    def _parts(self, student: nn.Module) -> dict[str, Any]:
        """Return the parts that a training may have besides the cache, by name."""
        parts = {"head": hooks.head_of(student), "prior": self.prior}
        return {**parts, "guard": self.guard, "samples": self.samples}

    def load_state_dict(
        self, state: dict[str, Any], student: nn.Module, back_off: bool = False
    ) -> None:
        """Restore what `state_dict` returned.

        At a back-off the state is an earlier one of this same training. The guard then
        stays as it is, for it remembers what it undid; and the labels in the cache are
        thrown away, for the schedule does not go back with them.

        Raises:
            ValueError: The state is that of other settings.
        """
        self.begun = state["begun"]
        if self.begun and self.dropout is not None:
            # A teacher copies the student with its rates; those of its labels are on.
            self.dropout.at(self.dropout.start_step)
        self.generator.teacher.load_state_dict(state["teacher"], student)
        for part, saved in zip(self.shaping, state["shaping"], strict=True):
            part.load_state_dict(saved)
        for (_, part), saved in zip(self.filters, state["filters"], strict=True):
            part.load_state_dict(saved)
        for name, part in self._parts(student).items():
            # A run may have been without these two before it was resumed.
            is_optional = name in ("guard", "samples")
            skip = is_optional and (back_off or state.get(name) is None)
            if part is not None and not skip:
                part.load_state_dict(state[name])
        if back_off:
            if self.cache is not None:
                self.cache.clear()
            return
        self.healthy_epoch = state["healthy_epoch"]
        self.kept_hours = state["kept_hours"]
        if "learned" in state:
            self.learned.load_state_dict(state["learned"])
        if (self.cache is None) != (state["cache"] is None):
            has = "no cache" if state["cache"] is None else "a cache"
            raise ValueError(f"pl_cache: the saved state has {has}, this run differs")
        if self.cache is not None:
            self.cache.load_state_dict(state["cache"])
