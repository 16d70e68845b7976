"""What processes agree on: alone here, together in tests/end_to_end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from espnet_softpl.core import processes
from espnet_softpl.core.errors import UserError


def refuse() -> None:
    raise UserError("the first process found it")


def test_one_process_agrees_with_itself() -> None:
    done: list[int] = []
    assert processes.rank_and_world() == (0, 1)
    assert processes.any_process(True) and not processes.any_process(False)
    processes.on_first_process(lambda: done.append(1))
    processes.wait_for_all()
    assert done == [1] and processes.from_all({"a": 1}) == [{"a": 1}]
    with pytest.raises(UserError, match="the first process found it"):
        processes.on_first_process(refuse)


def work(rank: int, directory: str) -> None:
    """Be one of two processes."""
    store = f"file://{directory}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    assert processes.rank_and_world() == (rank, 2)
    assert processes.any_process(rank == 1) and not processes.any_process(False)
    mine = Path(directory) / f"rank{rank}"
    processes.on_first_process(mine.touch)
    with pytest.raises(UserError, match="the first process found it"):
        processes.on_first_process(refuse)
    assert processes.from_all({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    processes.wait_for_all()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree(tmp_path: Path) -> None:
    mp.start_processes(work, (str(tmp_path),), nprocs=2, start_method="fork")
    assert sorted(file.name for file in tmp_path.glob("rank*")) == ["rank0"]
