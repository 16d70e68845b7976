"""What a step of pseudo-labeling consists of, beside its arithmetic.

Functions are timed, each without the others that it calls. A step of `hard_ctc` is set
beside a step of a stock training and a bare teacher forward: what an item takes beyond
these is overhead.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from common import take_turns
from steps import Bench

# What watches a step, and neither makes labels nor learns from them.
BOOKKEEPING = {
    "statistics of the labels": [
        "espnet_softpl.training.labeling:label_statistics",
        "espnet_softpl.monitors.statistics:step_statistics",
    ],
    "statistics: the label's best path": ["espnet_softpl.teacher.generator:best_path"],
    "oracle error rates": ["espnet_softpl.monitors.oracle:Oracle.score"],
    "counts of what is learned from": [
        "espnet_softpl.monitors.learned:LearnedFrom.count",
        "espnet_softpl.training.engine:PseudoLabeling._take_in",
        "espnet_softpl.training.updates:teaches",
    ],
    "guard": ["espnet_softpl.training.guarding:consult_guard"],
    "gradient log": [
        "espnet_softpl.training.updates:GradientLog.after_step",
        "espnet_softpl.training.updates:GradientLog._end_update",
    ],
    "report of the model": ["espnet_softpl.training.model:SoftPLModel._report"],
    "ESPnet's reporter": [
        "espnet2.train.reporter:SubReporter.register",
        "espnet2.train.reporter:SubReporter.next",
    ],
}
PLACES = {
    **BOOKKEEPING,
    "front end of the {who}": [
        "espnet2.asr.espnet_model:ESPnetASRModel._extract_feats",
        "espnet2.layers.utterance_mvn:UtteranceMVN.forward",
    ],
    "augmentation": ["espnet2.asr.specaug.specaug:SpecAug.forward"],
    "encoder of the {who}": [
        "espnet2.asr.encoder.conformer_encoder:ConformerEncoder.forward"
    ],
    "CTC head and loss of the {who}": [
        "espnet2.asr.ctc:CTC.forward",
        "espnet_softpl.training.model:SoftPLModel._frame_log_probs",
        "espnet_softpl.training.engine:PseudoLabeling._losses",
    ],
    "backward pass": ["torch:Tensor.backward"],
    "clipping of the gradient": ["torch.nn.utils:clip_grad_norm_"],
    "optimizer": [
        "torch.optim.adamw:AdamW.step",
        "torch.optim.optimizer:Optimizer.zero_grad",
        "espnet2.schedulers.warmup_lr:WarmupLR.step",
    ],
    "teacher follows": ["espnet_softpl.teacher.following:FollowingTeacher.update"],
    "labeling beyond the teacher's forward": [
        "espnet_softpl.teacher.generator:PseudoLabelGenerator.run"
    ],
    "checks that labels and outputs are finite": [
        "espnet_softpl.labels.pseudo_label:without_nan",
        "espnet_softpl.training.losses:all_frames",
    ],
    "filters": ["espnet_softpl.filters:apply"],
    "the engine's other work": ["espnet_softpl.training.engine:PseudoLabeling.step"],
}
REST = "the trainer's other work"


class Spans:
    """Time spent in functions, each without the others that it calls.

    Args:
        clock: In seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds: collections.Counter[str] = collections.Counter()
        self._clock = clock
        self._inner: list[float] = []  # Of the functions that run, what others took.

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same and is timed under a name.

        `{who}` in it becomes teacher if no gradient is wanted, else student.
        """

        def call(*args: Any, **kwargs: Any) -> Any:
            who = "student" if torch.is_grad_enabled() else "teacher"
            start = self._clock()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                taken = self._clock() - start
                self.seconds[name.format(who=who)] += taken - self._inner.pop()
                if self._inner:
                    self._inner[-1] += taken

        call.__dict__.update(vars(function))  # Torch marks functions that it has seen.
        return call

    @contextlib.contextmanager
    def on(self, places: Mapping[str, Sequence[str]]) -> Iterator[None]:
        """Time functions while this lasts.

        Args:
            places: `module:name` or `module:Class.name`, as it is looked up, by name.
        """
        with contextlib.ExitStack() as stack:
            for name, paths in places.items():
                for path in paths:
                    stack.enter_context(self._one(name, path))
            yield

    @contextlib.contextmanager
    def _one(self, name: str, path: str) -> Iterator[None]:
        module, _, inner = path.partition(":")
        *owners, attribute = inner.split(".")
        owner: Any = importlib.import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        before = getattr(owner, attribute)
        setattr(owner, attribute, self.wrap(name, before))
        try:
            yield
        finally:
            setattr(owner, attribute, before)


def measure(bench: Bench, rounds: int) -> dict[str, dict[str, float]]:
    """Measure a step of `hard_ctc`, and its arithmetic.

    Args:
        bench: Model and mini-batch.
        rounds: Steps of each, at least 1.

    Returns:
        For each item milliseconds of a step (mean): `step` of `hard_ctc`, `arithmetic`
        of the stock step and the teacher's forward. Together they are the whole.
    """
    # Host time: on a GPU nothing is waited for beyond what the step itself waits for.
    cuda = bench.device.type == "cuda"
    spans = Spans(time.perf_counter if cuda else time.process_time)
    found: dict[str, collections.Counter[str]] = {}
    with spans.on(PLACES):
        # Made here, for optimizers keep the functions that they were made with.
        arms = {
            "step": [bench.unlabeled("hard_ctc")],
            "arithmetic": [bench.labeled(bench.build("train_control.yaml"))],
        }
        arms["arithmetic"].append(bench.teacher())

        def one(name: str) -> float:
            spans.seconds.clear()
            taken = sum(arm() for arm in arms[name])
            spans.seconds[REST] = taken - sum(spans.seconds.values())
            found.setdefault(name, collections.Counter()).update(spans.seconds)
            return taken

        turns = {name: functools.partial(one, name) for name in arms}
        take_turns(turns, 2)  # The first steps copy the teacher, and make buffers.
        found.clear()
        take_turns(turns, rounds)
    steps = 1 + rounds
    return {
        item: {name: 1000.0 * found[name][item] / steps for name in arms}
        for item in {**found["step"], **found["arithmetic"]}
    }
