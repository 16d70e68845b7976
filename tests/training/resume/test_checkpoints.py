"""ESPnet's own trainer, killed at every operation on files, ends as if it were not.

The trainer's loop is the real one; an epoch's work is a line of arithmetic.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import logging
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.main_funcs import average_nbest_models as averaging
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.trainer import Trainer

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import load_state, save_atomically
from espnet_softpl.training.resume import checkpoints

EPOCHS = 5
CRITERIA = [["valid", "loss", "min"], ["train", "acc", "max"], ["valid", "none", "min"]]
# By epoch; of each criterion the second best comes after the best.
LOSSES = {1: 3.0, 2: 1.0, 3: 4.0, 4: 2.0, 5: 5.0, 6: 6.0}
ACCURACIES = {1: 0.3, 2: 0.4, 3: 0.9, 4: 0.1, 5: 0.9, 6: 0.1}


class Killed(BaseException):
    """The process is dead; nothing may catch this and go on writing."""


class Model(AbsESPnetModel):
    """A few weights, and an engine's state that must follow them."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(size, size)
        self.norm = torch.nn.BatchNorm1d(size)
        self.side = 0.0

    def forward(self, **batch: torch.Tensor) -> Any:
        """Not called."""

    def collect_feats(self, **batch: torch.Tensor) -> Any:
        """Not called."""


class NoBatches(AbsIterFactory):
    """ESPnet wants a factory; the work of an epoch needs no data."""

    def build_iter(self, epoch: int, shuffle: bool | None = None) -> Iterator:
        """Return nothing to iterate over."""
        return iter(())


class TinyTrainer(Trainer):
    """ESPnet's loop; an epoch depends on the weights, the random state and the side."""

    @classmethod
    def train_one_epoch(cls, model, optimizers, reporter, **kwargs) -> bool:
        """Take one step of the optimizer, on a random loss."""
        model.side = 0.5 * model.side + model.linear.weight.sum().item()
        noise = torch.randn_like(model.linear.weight)
        loss = (model.linear.weight * noise).sum() * (1.0 + model.side)
        loss.backward()
        optimizers[0].step()
        optimizers[0].zero_grad()
        model.norm.num_batches_tracked += 1
        reporter.register({"loss": loss.detach(), "acc": ACCURACIES[reporter.epoch]})
        reporter.next()
        return False

    @classmethod
    def validate_one_epoch(cls, model, reporter, options, **kwargs) -> None:
        """Report the epoch's loss, then save the side state."""
        reporter.register({"loss": LOSSES[reporter.epoch]})
        reporter.next()
        out, epoch = Path(options.output_dir), reporter.epoch
        save_atomically({"side": model.side}, out / f"pl_state/{epoch}epoch.rank0.pth")
        (out / f"pl_state/{epoch - 2}epoch.rank0.pth").unlink(missing_ok=True)

    @staticmethod
    def resume(checkpoint, model, reporter, **kwargs) -> None:
        """Resume, with the side state of the same epoch."""
        Trainer.resume(checkpoint, model, reporter, **kwargs)
        epoch = reporter.get_epoch()
        path = Path(checkpoint).parent / f"pl_state/{epoch}epoch.rank0.pth"
        model.side = load_state(path)["side"]


def build_options(out: Path, **changes: Any) -> Any:
    """Return the trainer's options; what is not named is off."""
    options = dict.fromkeys(
        (
            *("use_amp", "grad_noise", "no_forward_run", "use_matplotlib", "adapter"),
            *("use_tensorboard", "use_wandb", "use_adapter", "sharded_ddp"),
            *("unused_parameters", "create_graph_in_tensorboard"),
            *("gradient_as_bucket_view",),
        ),
        False,
    )
    options.update(ngpu=0, resume=True, train_dtype="float32", accum_grad=1, seed=0)
    options.update(grad_clip=5.0, grad_clip_type=2.0, log_interval=None, patience=None)
    options.update(save_strategy="all", output_dir=out, max_epoch=EPOCHS)
    options.update(keep_nbest_models=[1, 2], nbest_averaging_interval=2)
    options.update(early_stopping_criterion=["valid", "loss", "min"])
    options.update(best_model_criterion=CRITERIA, ddp_comm_hook=None)
    options.update(val_scheduler_criterion=["valid", "loss"])
    options.update(wandb_model_log_interval=-1, **changes)
    return TinyTrainer.build_options(argparse.Namespace(**options))


def finish(out: Path, keep: Any = (1, 2), interval: int = 2) -> int | None:
    """Finish the epoch's end as a resumed run does."""
    options = SimpleNamespace(
        best_model_criterion=CRITERIA,
        keep_nbest_models=keep,
        nbest_averaging_interval=interval,
    )
    return checkpoints.finish_epoch(out, options)


def run(out: Path, mended: bool = True, size: int = 8, **changes: Any) -> None:
    """Start a run, or resume it, as the task does."""
    options = build_options(out, **changes)
    out.mkdir(exist_ok=True)
    if mended:
        checkpoints.finish_epoch(out, options)
        early = (options.patience, options.early_stopping_criterion)
        options.max_epoch = checkpoints.early_stop(out, *early) or options.max_epoch
    torch.manual_seed(0)
    model = Model(size)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    with checkpoints.whole_files():
        TinyTrainer.run(
            model=model,
            optimizers=[optimizer],
            schedulers=[torch.optim.lr_scheduler.StepLR(optimizer, 2)],
            train_iter_factory=NoBatches(),
            valid_iter_factory=NoBatches(),
            plot_attention_iter_factory=None,
            trainer_options=options,
            distributed_option=DistributedOption(),
        )


@dataclasses.dataclass
class Disk:
    """Counts operations on files, and dies at one of them.

    Attributes:
        last: Number of the operation that is not done, or only in part; -1 is none.
        share: Share of the bytes that are written when it is a write.
        done: What was asked for so far.
    """

    last: int = -1
    share: float = 0.0
    done: list[str] = dataclasses.field(default_factory=list)

    def before(self, what: str) -> bool:
        """Note an operation; return whether it is the last one."""
        if 0 <= self.last < len(self.done):
            raise Killed  # The dead do nothing, in whatever handler they are.
        self.done.append(what)
        return len(self.done) - 1 == self.last

    def wrap(self, name: str, real: Callable[..., Any], path_at: int = 0) -> Any:
        """Return an operation that may be the last."""

        def operation(*args: Any, **kwargs: Any) -> Any:
            if not self.before(f"{name} {Path(args[path_at]).name}"):
                return real(*args, **kwargs)
            if name == "save" and self.share > 0.0:
                real(*args, **kwargs)
                path = Path(args[path_at])
                os.truncate(path, int(self.share * path.stat().st_size))
            raise Killed

        return operation


def put_under(disk: Disk, patch: pytest.MonkeyPatch) -> None:
    """Let every operation on files pass through a disk that can fail."""
    for owner, name, path_at in (
        *((torch, "save", 1), (os, "replace", 1)),
        *((Path, "unlink", 0), (Path, "symlink_to", 0)),
    ):
        patch.setattr(owner, name, disk.wrap(name, getattr(owner, name), path_at))


@pytest.fixture
def disk(monkeypatch) -> Disk:
    """Put a disk that can fail under ESPnet and this package."""
    disk = Disk()
    put_under(disk, monkeypatch)
    return disk


def run_until(disk: Disk, last: int, share: float, out: Path, **changes: Any) -> bool:
    """Run, and be killed at an operation; return whether that came to pass."""
    disk.last, disk.share, disk.done = last, share, []
    try:
        run(out, **changes)
    except Killed:
        return True
    finally:
        disk.last, disk.done = -1, []
    return False


def tensors_of(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every tensor and number in a nested state."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from tensors_of(inner, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from tensors_of(inner, f"{name}.{index}")
    elif not name.endswith((".time", "_GB")):
        yield name, value


def contents(out: Path) -> dict[str, Any]:
    """Return what a directory holds: the targets of links, the tensors of files."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in out.rglob("*") if not p.is_dir() or p.is_symlink()):
        name = str(path.relative_to(out))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            state = torch.load(path, weights_only=False)
            for key, value in tensors_of(state):
                if isinstance(value, torch.Tensor):
                    sha = hashlib.sha256(value.numpy().tobytes()).hexdigest()
                    value = (value.shape, value.dtype, sha)
                found[f"{name}{key}"] = value
    directories = (p for p in out.rglob("*") if p.is_dir())
    return {**found, **{str(p.relative_to(out)): "directory" for p in directories}}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("undisturbed") / "exp"
    run(out)
    return contents(out)


@pytest.fixture(scope="module")
def operations(tmp_path_factory) -> list[str]:
    """List what an undisturbed run does to files, in order."""
    disk, out = Disk(), tmp_path_factory.mktemp("operations") / "exp"
    with pytest.MonkeyPatch.context() as patch:
        put_under(disk, patch)
        run(out)
    return disk.done


def test_the_undisturbed_run_is_one_to_learn_from(undisturbed, operations) -> None:
    files = {name.partition(".pth")[0] for name in undisturbed if ".pth" in name}
    # The two best by each criterion, and the last; of two as good the first is best.
    epochs = {f for f in files if f[0].isdigit()}
    assert epochs == {"2epoch", "3epoch", "4epoch", "5epoch"}
    assert {f for f in files if f.startswith("pl_state")} == {
        "pl_state/4epoch.rank0",
        "pl_state/5epoch.rank0",
    }
    assert undisturbed["latest.pth"] == "5epoch.pth"
    assert undisturbed["valid.loss.best.pth"] == "2epoch.pth"
    assert undisturbed["train.acc.best.pth"] == "3epoch.pth"
    assert undisturbed["checkpoint.pth.reporter.epoch"] == EPOCHS
    assert "valid.loss.ave_2best.till4epoch" in files
    assert not any("none" in name for name in undisturbed)
    kinds = {what.split()[0] for what in operations}
    assert kinds == {"save", "replace", "unlink", "symlink_to"}
    assert "unlink 1epoch.pth" in operations and len(operations) > 50


def indices(operations: list[str], *kinds: str) -> list[int]:
    return [i for i, what in enumerate(operations) if what.split()[0] in kinds]


@pytest.mark.slow
def test_killed_before_any_operation(disk, operations, undisturbed, tmp_path) -> None:
    for last in range(len(operations)):
        out = tmp_path / f"exp{last}"
        assert run_until(disk, last, 0.0, out), operations[last]
        run(out)
        assert contents(out) == undisturbed, operations[last]
        shutil.rmtree(out)


@pytest.mark.slow
def test_killed_while_writing(disk, operations, undisturbed, tmp_path) -> None:
    """A file of one byte, half a file, all but its last bytes, and a whole file."""
    shares = (1e-4, 0.5, 0.99, 0.9999, 1.0)
    for last, share in itertools.product(indices(operations, "save"), shares):
        out = tmp_path / f"exp{last}"
        assert run_until(disk, last, share, out), operations[last]
        run(out)
        assert contents(out) == undisturbed, (operations[last], share)
        shutil.rmtree(out)


@pytest.mark.slow
def test_a_repair_that_is_killed_is_repaired(
    disk, operations, undisturbed, tmp_path
) -> None:
    """After each kill, kill the repair at each of its operations too."""
    repairs = 0
    for last in indices(operations, "save", "symlink_to", "unlink"):
        wreck = tmp_path / "wreck"
        assert run_until(disk, last, 0.5, wreck)
        for again in itertools.count():
            out = tmp_path / "exp"
            shutil.copytree(wreck, out, symlinks=True)
            disk.last, disk.share, disk.done = again, 0.5, []
            try:
                finish(out)
                break
            except Killed:
                repairs += 1
            finally:
                disk.last, disk.done = -1, []
            run(out)
            assert contents(out) == undisturbed, (operations[last], again)
            shutil.rmtree(out)
        shutil.rmtree(out)
        shutil.rmtree(wreck)
    assert repairs > 100


@pytest.mark.slow
def test_killed_again_and_again(disk, undisturbed, tmp_path) -> None:
    rng, kills = random.Random(3), 0
    for trial in range(20):
        out = tmp_path / f"exp{trial}"
        # The nearer the end, the fewer operations are left to be killed at.
        while run_until(disk, rng.randrange(40), rng.choice((0.0, 0.3, 0.99)), out):
            kills += 1
        assert contents(out) == undisturbed, trial
    assert kills > 40


def run_in_child(out: Path, seconds: float) -> int:
    """Run in another process, kill it (-9) after a while; return its status."""
    child = os.fork()
    if child == 0:
        try:
            run(out, size=800)
            os._exit(0)
        except BaseException:
            logging.getLogger(__name__).exception("in the child")
        finally:
            os._exit(1)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
def test_killed_for_real(tmp_path) -> None:
    """Whatever moment the kill comes at, the run ends as if it had not come."""
    assert run_in_child(tmp_path / "whole", 600.0) == 0
    expected, rng, kills = contents(tmp_path / "whole"), random.Random(7), 0
    out = tmp_path / "exp"
    while True:
        # Longer and longer, so that it comes to an end on a slow machine too.
        status = run_in_child(out, rng.uniform(0.0, 0.2) * 1.2**kills)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        kills += 1
    assert contents(out) == expected


def test_without_the_repair_a_kill_does_harm(disk, operations, tmp_path) -> None:
    """The tests above would see nothing if nothing were broken."""
    last = operations.index("save .3epoch.pth.tmp")
    assert run_until(disk, last, 0.5, tmp_path / "exp")
    with pytest.raises(FileNotFoundError):
        run(tmp_path / "exp", mended=False)


def test_a_run_that_goes_on_beyond_its_end(tmp_path) -> None:
    run(tmp_path / "whole", max_epoch=6)
    for last in (2, 4, 6):
        run(tmp_path / "parts", max_epoch=last)
    whole, parts = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    assert whole == parts


def test_a_rebuilt_epoch_has_the_same_bytes(disk, operations, tmp_path, caplog) -> None:
    run(tmp_path / "whole", max_epoch=2)
    expected = (tmp_path / "whole" / "2epoch.pth").read_bytes()
    out = tmp_path / "exp"
    assert run_until(disk, operations.index("save .2epoch.pth.tmp"), 0.7, out)
    assert not (out / "2epoch.pth").exists()
    assert finish(out) == 2
    assert (out / "2epoch.pth").read_bytes() == expected
    assert "The end of epoch 2 was cut off; done now: wrote 2epoch.pth" in caplog.text


def test_an_epoch_of_an_older_run_is_replaced(tmp_path) -> None:
    """Killed right after the checkpoint, where an older run had the same epoch."""
    out = tmp_path / "exp"
    run(out, max_epoch=2)
    expected = contents(out)
    torch.save({"linear.weight": torch.zeros(8, 8)}, out / "2epoch.pth")
    before = (out / "checkpoint.pth").stat().st_mtime_ns - 1
    os.utime(out / "2epoch.pth", ns=(before, before))
    finish(out, interval=0)
    assert contents(out) == expected


def test_a_whole_directory_is_left_alone(disk, tmp_path, caplog) -> None:
    out = tmp_path / "exp"
    run(out)
    before = {p: p.lstat().st_mtime_ns for p in out.rglob("*")}
    disk.done.clear()
    caplog.clear()
    assert finish(out) == EPOCHS
    assert not disk.done and not caplog.records
    assert {p: p.lstat().st_mtime_ns for p in out.rglob("*")} == before


@pytest.mark.parametrize("keep", [1, [1], []])
def test_keep_nbest_models_as_espnet_takes_it(tmp_path, keep) -> None:
    run(tmp_path / "whole", keep_nbest_models=keep or [1], nbest_averaging_interval=0)
    out = tmp_path / "exp"
    shutil.copytree(tmp_path / "whole", out, symlinks=True)
    (out / "1epoch.pth").write_bytes((out / "2epoch.pth").read_bytes())
    finish(out, keep, 0)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_full_disk_leaves_a_checkpoint(tmp_path, undisturbed) -> None:
    """ESPnet's torch.save breaks off half-way, as on a full disk."""
    out = tmp_path / "exp"
    run(out, max_epoch=2)
    before = contents(out)
    size = (out / "checkpoint.pth").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises((OSError, RuntimeError)):
            run(out, max_epoch=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = contents(out)
    assert {key: after[key] for key in before if "pl_state" not in key} == {
        key: value for key, value in before.items() if "pl_state" not in key
    }
    assert finish(out) == 2
    run(out)
    assert contents(out) == undisturbed


def test_a_disk_that_is_full_while_the_end_is_finished(tmp_path, monkeypatch) -> None:
    out = tmp_path / "exp"
    run(out, max_epoch=2)
    expected = contents(out)
    (out / "2epoch.pth").unlink()
    real = torch.save

    def full(state: Any, path: Path) -> None:
        real(state, path)
        os.truncate(path, 100)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        finish(out)
    assert not list(out.glob(".*"))
    monkeypatch.undo()
    finish(out)
    assert contents(out) == expected


def test_what_a_kill_left_of_a_file_is_removed(tmp_path) -> None:
    out = tmp_path / "exp"
    run(out, max_epoch=2)
    expected = contents(out)
    for name in (".checkpoint.pth.tmp", "pl_state/.3epoch.rank0.pth.tmp"):
        (out / name).write_bytes(b"half")
    (out / ".notes").write_text("mine")
    finish(out)
    assert not list(out.rglob(".*.tmp")) and (out / ".notes").exists()
    (out / ".notes").unlink()
    assert contents(out) == expected


def test_a_checkpoint_that_is_damaged_is_refused(tmp_path) -> None:
    out = tmp_path / "exp"
    run(out, max_epoch=3)
    checkpoint = out / "checkpoint.pth"
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)
    files = sorted(out.rglob("*"))
    with pytest.raises(UserError) as refused:
        finish(out)
    message = str(refused.value)
    assert f"cannot resume: {checkpoint} cannot be read" in message
    assert "Bring it back from a copy" in message and "--init_param" in message
    assert sorted(out.rglob("*")) == files
    # Without a checkpoint at all ESPnet starts anew, as ever.
    checkpoint.unlink()
    assert finish(out) is None


def test_a_best_model_that_is_missing_is_named(tmp_path, caplog) -> None:
    out = tmp_path / "exp"
    run(out)
    (out / "2epoch.pth").unlink()
    assert finish(out) == EPOCHS
    assert "Missing: 2epoch.pth" in caplog.text


def test_espnet_gets_its_own_torch_back(tmp_path) -> None:
    with pytest.raises(KeyError), checkpoints.whole_files():
        assert averaging.torch is not torch and averaging.torch.nn is torch.nn
        averaging.torch.save({"a": 1}, str(tmp_path / "file.pth"))
        raise KeyError
    assert averaging.torch is torch
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]
    assert torch.load(tmp_path / "file.pth") == {"a": 1}


def test_early_stopping_is_espnets(disk, tmp_path) -> None:
    """Killed in the averages after an early stop, the run is over all the same."""
    early = dict(patience=1, max_epoch=6, nbest_averaging_interval=0)
    disk.done.clear()
    run(tmp_path / "whole", **early)
    last = disk.done.index("save .valid.loss.ave_2best.pth.tmp")
    expected = contents(tmp_path / "whole")
    assert expected["checkpoint.pth.reporter.epoch"] == 4  # 2 was the best.
    out = tmp_path / "exp"
    assert run_until(disk, last, 0.5, out, **early)
    run(out, **early)
    assert contents(out) == expected
    criterion = ("valid", "loss", "min")
    answers = {
        patience: checkpoints.early_stop(out, patience, criterion)
        for patience in (None, 0, 1, 2)
    }
    assert answers == {None: None, 0: 4, 1: 4, 2: None}
    assert checkpoints.early_stop(out, 0, ("valid", "acc", "max")) is None
    assert checkpoints.early_stop(tmp_path / "new", 0, criterion) is None


def test_what_the_checkpoint_says(tmp_path) -> None:
    out = tmp_path / "exp"
    assert checkpoints.finished_epochs(out, ("valid", "loss", "min")) == []
    run(out, max_epoch=3)
    finished = checkpoints.finished_epochs(out, ("valid", "loss", "min"))
    assert finished == [(epoch, LOSSES[epoch]) for epoch in (1, 2, 3)]
    assert all(type(value) is float for _, value in finished)
    assert checkpoints.finished_epochs(out, ("valid", "none")) == []
    assert checkpoints.finished_epochs(out, ("test", "loss")) == []


def begin_anew(out: Path, text: str) -> None:
    """Leave what a run makes, then start one in the same place without --resume."""
    (out / "pl_state").mkdir(exist_ok=True)
    for name in ("checkpoint.pth", "1epoch.pth", "pl_state/1epoch.rank0.pth"):
        (out / name).write_text(text)
    (out / "latest.pth").symlink_to("1epoch.pth")
    checkpoints.begin_directory(out, SimpleNamespace(resume=False))


def test_a_run_that_is_not_resumed_is_never_deleted(tmp_path, caplog) -> None:
    for text in ("first", "second", "third"):
        begin_anew(tmp_path, text)
    names = ["previous_run", "previous_run2", "previous_run3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name, text in zip(names, ("first", "second", "third"), strict=True):
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        assert [path.name for path in files] == [
            *("1epoch.pth", "checkpoint.pth", "latest.pth", "1epoch.rank0.pth")
        ]
        assert {path.read_text() for path in files} == {text}
    assert "its files are now in" in caplog.text
    checkpoints.begin_directory(tmp_path, SimpleNamespace(resume=False))
    assert len(list(tmp_path.iterdir())) == 3


def locking(out: Path, rank: int | None = None) -> Any:
    """Return the options that `sole_run` looks at."""
    options = SimpleNamespace(output_dir=str(out), dist_rank=rank, dist_launcher=None)
    vars(options).update(dry_run=False, collect_stats=False)
    options.distributed = rank is not None
    return options


def test_the_second_run_in_a_directory_is_refused(tmp_path) -> None:
    """Until the first is dead, even by SIGKILL, and though its loader lives on."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with checkpoints.sole_run(locking(tmp_path, rank=0)):
            loader = os.fork() or signal.pause()
            os.write(write, str(loader).encode())
            signal.pause()
        os._exit(1)
    loader = int(os.read(read, 20))
    wanted = rf"another run trains in {tmp_path} \(process {child} on \S+ since 20"
    for rank in (None, 0):
        with (
            pytest.raises(UserError, match=wanted),
            checkpoints.sole_run(locking(tmp_path, rank)),
        ):
            raise AssertionError
    with checkpoints.sole_run(locking(tmp_path, rank=1)):
        pass  # The first process speaks for all of a run.
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with checkpoints.sole_run(locking(tmp_path)):
        assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()
    os.kill(loader, signal.SIGKILL)
    with checkpoints.sole_run(locking(tmp_path)):
        pass  # The same process may train there again.


@pytest.fixture(autouse=True)
def quiet(monkeypatch) -> Iterator[None]:
    """Keep ESPnet's reports out of the log, and do not wait for disks."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    logger = logging.getLogger("root")
    level = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(level)
