"""Where a training step waits for its own results, and how many operations it starts.

    python benchmarks/syncs.py [--json FILE] [--lines]

A host that reads a value of a GPU waits until all work before it is done, and the GPU
then waits for the host. Such reads, and operations that torch's dispatcher sees, are
counted here on the CPU, in whole steps of ESPnet's trainer on noise: of a stock model,
and of ours on labeled and unlabeled mini-batches, with a small model as the mini
recipe's. Counted are single values (`item`, `bool`, `float`, an index), comparisons,
lists, copies to the CPU, operations whose result has a size that depends on values, and
tensors made of Python numbers, which are copied the other way. Some would not wait on a
GPU: the figures are an upper limit, and comparable.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import functools
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import common
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_softpl.ctc import kernels

aten = torch.ops.aten
# Operations that wait, and how often.
WAITS = {
    aten._local_scalar_dense: 1,
    aten.equal: 1,
    aten.nonzero: 1,
    aten.masked_select: 1,
    aten.bincount: 1,
    aten._unique2: 1,
    aten.unique_dim: 1,
    aten.unique_consecutive: 1,
    aten.repeat_interleave: 1,  # With a tensor of repeats.
    aten.lift_fresh: 1,  # `torch.tensor(3)`, `new_tensor`.
    aten._ctc_loss: 2,  # Both lengths are read.
}
READERS = ("tolist", "cpu", "numpy")  # Methods that the dispatcher does not see.
CRITERIA = ("hard_ctc", "soft_ce", "soft_ctc")


class Syncs(TorchDispatchMode):
    """Counts operations and waits while it is entered.

    Attributes:
        operations: Their number.
        waits: By place, the innermost line of ours or of ESPnet's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.waits: collections.Counter[str] = collections.Counter()
        self._readers = contextlib.ExitStack()

    def __enter__(self) -> Syncs:
        """Count from here on, what is done on a GPU: without kernels for the CPU."""
        no_kernels = mock.patch.object(kernels, "on_cpu", lambda tensor: False)
        self._readers.enter_context(no_kernels)
        for name in READERS:
            method = getattr(torch.Tensor, name)
            self._readers.callback(setattr, torch.Tensor, name, method)
            setattr(torch.Tensor, name, self._counting(method))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Count no longer."""
        super().__exit__(*error)
        self._readers.close()

    def _counting(self, method: Any) -> Any:
        @functools.wraps(method)
        def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            before = self.waits.total()
            result = method(tensor, *args, **kwargs)
            if self.waits.total() == before:  # Of one value it is an `item`.
                self._wait(1)
            return result

        return call

    def __torch_dispatch__(
        self, op: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Count an operation, and do it."""
        self.operations += 1
        packet, times = op.overloadpacket, WAITS.get(op.overloadpacket, 0)
        if packet in (aten.index, aten.index_put, aten.index_put_):
            # A mask is turned to positions, except to fill with a number of the host.
            fills = packet != aten.index and args[2].numel() == 1
            times = sum(i is not None and i.dtype == torch.bool for i in args[1])
            times = 0 if fills else times
        if times:
            self._wait(times)
        return op(*args, **(kwargs or {}))

    def _wait(self, times: int) -> None:
        """Note a wait, with the place it came from."""
        frame, place = sys._getframe(2), "elsewhere"
        while frame is not None:
            file = frame.f_code.co_filename
            if "/torch/optim/" in file:  # Its counters stay on the CPU.
                return
            if inside := re.search(r".*/((espnet2|espnet_softpl)/.*)", file):
                place = f"{inside[1]}:{frame.f_lineno}"
                break
            frame = frame.f_back
        self.waits[place] += times


def count_steps(
    model: torch.nn.Module, batches: Sequence[dict[str, Any]], args: Any
) -> list[Syncs]:
    """Train on mini-batches, one an update, by the trainer of the model's task.

    Args:
        model: A stock model of ESPnet, or ours.
        batches: Keyword arguments of the model, with `utt_id`.
        args: Options of the task; `output_dir` is one that exists.

    Returns:
        What each step counted.
    """
    from espnet2.train.distributed_utils import DistributedOption
    from espnet2.train.reporter import Reporter
    from espnet2.train.trainer import Trainer

    from espnet_softpl.training.reports import EpochLine
    from espnet_softpl.training.trainer import SoftPLTrainer

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    engine, trainer = getattr(model, "pl", None), Trainer
    if engine is not None:
        trainer = SoftPLTrainer
        trainer.line = EpochLine(1)
        teacher = engine.generator.teacher
        teacher.begin_run(1000)
        optimizer.register_step_post_hook(lambda *_: teacher.update(model))
    options = trainer.build_options(args)
    options.ngpu = 0
    counts: list[Syncs] = []

    def watched() -> Iterator[tuple[list[str], dict[str, Any]]]:
        for batch in batches:
            fields = dict(batch)
            with Syncs() as counter:
                yield fields.pop("utt_id"), fields
            counts.append(counter)

    class Batches(list):
        __iter__ = staticmethod(lambda *_: watched())

    with Reporter().observe("train", 1) as reporter:
        trainer.train_one_epoch(
            model=model,
            iterator=Batches(batches),
            optimizers=[optimizer],
            schedulers=[None],
            scaler=None,
            reporter=reporter,
            summary_writer=None,
            options=options,
            distributed_option=DistributedOption(),
        )
    return counts


def mini_arguments(output_dir: Path, **changes: Any) -> Any:
    """Return the options of a model as the mini recipe's, without data.

    Args:
        output_dir: Where it may write.
        changes: Options to set.
    """
    from espnet_softpl.training.task import SoftPLTask

    conf = common.read_config(
        common.ROOT / "egs2/librispeech_softpl/conf/train_warmup.yaml"
    )
    args = SoftPLTask.get_parser().parse_args(["--output_dir", str(output_dir)])
    conf = {k: v for k, v in conf.items() if k not in ("init_param", "base_config")}
    letters = ["<space>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
    conf["token_list"] = ["<blank>", "<unk>", *letters, "<sos/eos>"]
    conf |= dict(normalize="utterance_mvn", token_type="char", **changes)
    for key, value in conf.items():
        setattr(args, key, value)
    return args


def noise(labeled: bool, size: int, seconds: float) -> dict[str, Any]:
    """Make a mini-batch of noise, labeled or not.

    Args:
        labeled: Whether it has transcripts.
        size: Utterances.
        seconds: Of the longest; the others are a little shorter.
    """
    from espnet_softpl.training.labeling import UnlabeledBatch

    ids = [f"utt{i}" for i in range(size)]
    lengths = torch.tensor([int(16000 * seconds) - 640 * i for i in range(size)])
    speech = 0.1 * torch.randn(size, int(lengths.max()))
    if not labeled:
        return {"utt_id": ids, "unlabeled": UnlabeledBatch(ids, speech, lengths)}
    text_lengths = torch.tensor([int(5 * seconds) - i for i in range(size)])
    text = torch.randint(2, 29, (size, int(text_lengths.max())))
    places = torch.arange(text.size(1))
    text[places >= text_lengths.unsqueeze(1)] = -1
    speech_fields = {"speech": speech, "speech_lengths": lengths}
    return {"utt_id": ids, **speech_fields, "text": text, "text_lengths": text_lengths}


def measure(
    work: Path, size: int = 8, seconds: float = 4.0, **changes: Any
) -> dict[str, Syncs]:
    """Count a step of each kind: the third, when all that is made once is there.

    Args:
        work: A directory that exists.
        size: Utterances in a mini-batch.
        seconds: Of the longest.
        changes: Options of the models.
    """
    from espnet2.tasks.asr import ASRTask

    from espnet_softpl.training.task import SoftPLTask

    torch.manual_seed(1)
    args = mini_arguments(work, **changes)
    stock = ASRTask.build_model(args)
    labeled, unlabeled = noise(True, size, seconds), noise(False, size, seconds)
    counts = {"stock": count_steps(stock, [copy.deepcopy(labeled)] * 3, args)}
    for criterion in CRITERIA:
        pl = dict(pl_criterion=criterion, pl_guard="stop")
        args = mini_arguments(work, **pl, **changes)
        model = SoftPLTask.build_model(args)
        counts[criterion] = count_steps(model, [unlabeled] * 3, args)
        counts.setdefault("labeled", count_steps(model, [labeled] * 3, args))
    return {name: steps[-1] for name, steps in counts.items()}


def figures_of(counts: Mapping[str, Syncs]) -> dict[str, int]:
    """Return waits and operations by kind of step, flat."""
    found = {f"{name}.operations": c.operations for name, c in counts.items()}
    return found | {f"{name}.waits": c.waits.total() for name, c in counts.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line's words, those of the process if None."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--lines", action="store_true", help="show where it waits")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as work:
        counts = measure(Path(work))
    rows = [[n, str(c.waits.total()), str(c.operations)] for n, c in counts.items()]
    print(common.format_table(["step", "waits", "operations"], rows))
    for name, counter in counts.items() if options.lines else ():
        print(f"\n{name}")
        for place, times in counter.waits.most_common():
            print(f"{times:5}  {place}")
    if options.json:
        machine = common.describe_machine(torch.device("cpu"))
        common.write_json(options.json, {**machine, **figures_of(counts)})


if __name__ == "__main__":
    main()
