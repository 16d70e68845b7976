"""Steps of trainings, made by ESPnet's own trainer, for benchmarks.

A step is one mini-batch as `train_one_epoch` runs it: the model's forward and backward
pass, clipping, optimizer, teacher, monitors, guard and ESPnet's reporter. Mini-batches
are made beforehand: loading them is not in it.

B utterances, N samples, T frames after subsampling, V tokens with blank, U labels.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import criteria
import step_cost
import torch
from common import ROOT, now, read_config
from espnet2.tasks.abs_task import scheduler_classes
from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.reporter import Reporter

from espnet_softpl.cache.plan import CachePlan
from espnet_softpl.core.modules import frozen_copy
from espnet_softpl.training.labeling import UnlabeledBatch
from espnet_softpl.training.reports import EpochLine
from espnet_softpl.training.task import SoftPLTask
from espnet_softpl.training.trainer import SoftPLTrainer

CONF = ROOT / "egs2/librispeech_softpl/conf"
LETTERS = [*map(chr, range(ord("A"), ord("Z") + 1)), "'"]
TOKENS = ["<blank>", "<unk>", "<space>", *LETTERS, "<sos/eos>"]
RATE = 16000
CHARACTERS_PER_SECOND = 13.4  # See `step_cost.Entry`.

Fields = dict[str, Any]


class Batch(NamedTuple):
    """One mini-batch, and what every model of the benchmark says of it.

    Attributes:
        ids: Of B utterances.
        speech: Noise, (B, N), on the CPU.
        speech_lengths: N for each, (B,).
        text: Transcripts of usual length, (B, U), padded with -1.
        text_lengths: (B,).
        logits: Added to the output of every CTC head, (B, T, V): else a model without
            training would label with next to nothing.
    """

    ids: list[str]
    speech: torch.Tensor
    speech_lengths: torch.Tensor
    text: torch.Tensor
    text_lengths: torch.Tensor
    logits: torch.Tensor

    def labeled(self, views: int = 1) -> Fields:
        """Return a labeled mini-batch that has each utterance `views` times."""
        names = ("speech", "speech_lengths", "text", "text_lengths")
        return {name: torch.cat([getattr(self, name)] * views) for name in names}

    def unlabeled(self, **more: Any) -> UnlabeledBatch:
        """Return the same audio as an unlabeled mini-batch, some fields given."""
        usable = torch.ones(len(self.ids), dtype=torch.bool)
        return UnlabeledBatch(
            self.ids, self.speech, self.speech_lengths, usable=usable
        )._replace(**more)


def configure(preset: str, small: bool) -> dict[str, Any]:
    """Read a configuration of the recipe for steps that are all alike.

    Args:
        preset: A file below the recipe's `conf`.
        small: Make the encoder tiny.

    Returns:
        The configuration, with a learning rate so small that the weights stay.
    """
    conf = read_config(CONF / preset)
    conf["optim_conf"] = {**conf["optim_conf"], "lr": 1e-12}
    if small:
        tiny = dict(output_size=16, attention_heads=2, linear_units=16, num_blocks=1)
        conf["encoder_conf"] = {**conf["encoder_conf"], **tiny}
    return conf


def make_batch(model: torch.nn.Module, size: int, seconds: float, seed: int) -> Batch:
    """Make a mini-batch of noise with labels as a trained model makes them.

    Args:
        model: Any of the models.
        size: B.
        seconds: Of each utterance.
        seed: Of the draws.

    Returns:
        The mini-batch; see `criteria.make_batch` for its posteriors.
    """
    generator = torch.Generator().manual_seed(seed)
    samples = round(seconds * RATE)
    speech = 0.1 * torch.randn(size, samples, generator=generator)
    lengths = torch.full((size,), samples)
    with torch.no_grad():
        frames = int(model.encode(speech[:1], lengths[:1])[1])
    count = max(min(round(seconds * CHARACTERS_PER_SECOND), frames // 2), 1)
    shape = (size, frames, len(TOKENS))
    label = criteria.make_batch(shape, count, seed, torch.device("cpu")).label
    ids = [f"utterance-{seed}-{number}" for number in range(size)]
    return Batch(
        ids, speech, lengths, label.tokens, label.token_lengths, label.log_probs
    )


def write_transcripts(batch: Batch, file: Path) -> None:
    """Write a mini-batch's transcripts as the oracle's, a line an utterance."""
    with open(file, "w", encoding="utf-8") as stream:
        for key, row in zip(batch.ids, batch.text.tolist()):
            letters = (TOKENS[index] for index in row if index > 1)
            print(key, "".join(letters).replace("<space>", " "), file=stream)


def speak(model: torch.nn.Module, logits: torch.Tensor) -> None:
    """Add logits to what a model's CTC head says, from now on, its copies' too.

    Args:
        model: The model.
        logits: (B, T, V); they repeat from utterance B on, as for a second view, and
            from frame T on.
    """

    def add(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        size, frames = output.shape[:2]
        times = -(-size // len(logits)), -(-frames // logits.size(1))
        return output + logits.repeat(*times, 1)[:size, :frames]

    logits = logits.to(next(model.parameters()).device)
    model.ctc.ctc_lo.register_forward_hook(add)


class _Trainer(SoftPLTrainer):
    line = EpochLine(1)  # Set by `run`, which makes whole epochs.


class Run:
    """A training whose steps are made one at a time.

    Args:
        conf: Its configuration; without `pl_criterion` it is stock.
        work: Its directory, which is made.
        device: Where it trains.
    """

    def __init__(self, conf: dict[str, Any], work: Path, device: torch.device) -> None:
        work.mkdir(parents=True)
        args = step_cost.parse({**conf, "log_interval": 50}, TOKENS, work)
        args.ngpu = int(device.type == "cuda")
        self.args, self.device = args, device
        self.model = SoftPLTask.build_model(args).to(device)
        self.optimizers = SoftPLTask.build_optimizers(args, self.model)
        schedule = scheduler_classes[args.scheduler]
        self.schedulers = [schedule(self.optimizers[0], **args.scheduler_conf)]
        reporter = Reporter()
        reporter.set_epoch(1)
        self.reporter = reporter.start_epoch("train")
        self.options = SoftPLTrainer.build_options(args)
        self.steps = 0
        engine = getattr(self.model, "pl", None)
        if engine is not None:  # As `SoftPLTrainer.run` does.
            teacher = engine.generator.teacher
            hook = self.optimizers[0].register_step_post_hook
            hook(lambda *_: teacher.update(self.model))
            if engine.cache is not None:
                engine.cache.plan = CachePlan(engine.cache.settings.size, seed=0)

    def step(self, ids: Sequence[str], fields: Fields) -> float:
        """Make one step by `train_one_epoch`, on an epoch of one mini-batch.

        Args:
            ids: Of the utterances.
            fields: What the model is called with.

        Returns:
            Seconds from the moment when the trainer gets the mini-batch to the moment
            when it asks for the next one; see `common.now`.
        """
        taken = 0.0
        if getattr(self.model, "pl", None) is not None:
            fields = {**fields, "pl_step": self.steps, "pl_factor": 1.0}

        class Epoch:
            def __len__(self) -> int:
                return 1

            def __iter__(inner) -> Iterator[tuple[list[str], Fields]]:
                nonlocal taken
                start = now(self.device)
                yield list(ids), dict(fields)
                taken = now(self.device) - start

        _Trainer.train_one_epoch(
            model=self.model,
            optimizers=self.optimizers,
            schedulers=self.schedulers,
            iterator=Epoch(),
            reporter=self.reporter,
            scaler=None,
            summary_writer=None,
            options=self.options,
            distributed_option=DistributedOption(),
        )
        self.steps += 1
        return taken


class Bench:
    """Trainings of the recipe's presets on one mini-batch, and what they cost.

    Args:
        work: A directory for all of them.
        device: Where they train.
        size: Utterances of the mini-batch.
        seconds: Of each.
        small: Make the encoder tiny.
        seed: Of weights and mini-batch.
        stock: Preset of the model, a file below the recipe's `conf`.
    """

    def __init__(
        self,
        work: Path,
        device: torch.device,
        size: int,
        seconds: float,
        small: bool = False,
        seed: int = 1,
        stock: str = "train_control.yaml",
    ) -> None:
        self.work, self.device, self.small, self.seed = work, device, small, seed
        self._numbers = itertools.count()
        work.mkdir(parents=True, exist_ok=True)
        self.oracle = work / "text.oracle"
        self.stock = self.build(stock)
        model = copy.deepcopy(self.stock.model).cpu().eval()
        self.batch = make_batch(model, size, seconds, seed)
        self.other = self.batch._replace(ids=[f"other-{key}" for key in self.batch.ids])
        write_transcripts(self.batch, self.oracle)
        speak(self.stock.model, self.batch.logits)

    def build(self, preset: str) -> Run:
        """Start a training of a preset, if it is PL with oracle and monitors."""
        torch.manual_seed(self.seed)
        conf = configure(preset, self.small)
        if "pl_criterion" in conf:
            conf["unlabeled_oracle_text"] = str(self.oracle)
        run = Run(conf, self.work / str(next(self._numbers)), self.device)
        if hasattr(self, "batch"):
            speak(run.model, self.batch.logits)
            samples = int(self.batch.speech_lengths.sum())
            if getattr(run.model, "pl", None) is not None:
                tokens = int(self.batch.text_lengths.sum())
                run.model.pl.labeled_tokens_per_sample = tokens / samples
        return run

    def labeled(self, run: Run, views: int = 1) -> Callable[[], float]:
        """Return labeled steps of a training, with each utterance `views` times."""
        ids, fields = self.batch.ids * views, self.batch.labeled(views)
        return lambda: run.step(ids, fields)

    def unlabeled(self, preset: str) -> Callable[[], float]:
        """Return unlabeled steps of a new training of a preset in `conf/tuning`."""
        run = self.build(f"tuning/train_pl_{preset}.yaml")
        fields = {"unlabeled": self.batch.unlabeled()}
        return lambda: run.step(self.batch.ids, fields)

    def cached(self, replacing: bool) -> Callable[[], float]:
        """Return steps of slimIPL on labels that a cache has.

        Args:
            replacing: Whether other labels take their place at each step, as they do
                at a share `probability` of the steps.
        """
        run = self.build("tuning/train_pl_slimipl_ls100.yaml")
        batches = [b.unlabeled(slot=0) for b in (self.batch, self.other)]

        def step() -> float:
            trained, new = batches[:: 1 if run.steps % 2 == 0 or not replacing else -1]
            fields: Fields = {"unlabeled": trained._replace(draw=run.steps)}
            if replacing:
                fields["insertions"] = [new._replace(draw=run.steps)]
            return run.step(trained.utt_id, fields)

        return step

    def teacher(self) -> Callable[[], float]:
        """Return bare teacher forwards: encoder and CTC head, without gradient."""
        model = frozen_copy(self.stock.model)
        speech = self.batch.speech.to(self.device)
        lengths = self.batch.speech_lengths.to(self.device)

        @torch.no_grad()
        def step() -> float:
            start = now(self.device)
            model.ctc.ctc_lo(model.encode(speech, lengths)[0])
            return now(self.device) - start

        return step
