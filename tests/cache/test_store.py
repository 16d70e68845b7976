"""The label store: what goes in comes out, after a kill as well."""

from __future__ import annotations

import collections
import copy
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from espnet_softpl.cache import store as cache_store
from espnet_softpl.cache.store import LabelStore
from espnet_softpl.core.errors import UserError

KILOBYTE = 1000


def record(value: int, num_bytes: int = KILOBYTE) -> dict[str, Any]:
    """Make a record with tensors of so many bytes, and of everything else."""
    return {
        "bytes": torch.full((num_bytes - 8,), value % 256, dtype=torch.uint8),
        "nested": [{"number": torch.tensor([value, -1], dtype=torch.int32)}, (1, 2.5)],
        "ids": ["a", "b"],
        7: None,
        "yes": True,
    }


def equal(one: Any, two: Any) -> bool:
    """Compare records, types included."""
    if type(one) is not type(two):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(equal(one[k], two[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(equal, one, two))
    return one == two


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """Send a state through a file that may hold no code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def names(directory: Path) -> set[str]:
    """List a directory that need not exist."""
    return {p.name for p in directory.iterdir()} if directory.is_dir() else set()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_what_goes_in_comes_out(directory) -> None:
    store = LabelStore(directory)
    for slot in (3, 0, 12):
        store.put(slot, record(slot))
    assert len(store) == 3
    assert 12 in store and 1 not in store
    for slot in (12, 3, 0, 3):
        assert equal(store.get(slot), record(slot))
    with pytest.raises(KeyError):
        store.get(1)
    assert len(names(directory)) == 3


@pytest.mark.parametrize(
    "value",
    [
        {},
        torch.zeros(0, 3),
        torch.tensor(2.5, dtype=torch.float64),
        {"a": torch.zeros(0), "b": torch.tensor(True)},
        [torch.ones(3, dtype=torch.bfloat16)],
        "text",
        None,
    ],
)
def test_odd_records(directory, value) -> None:
    store = LabelStore(directory)
    store.put(0, value)
    assert equal(store.get(0), value)
    other = LabelStore(directory)
    other.load_state_dict(saved(store.state_dict()))
    assert equal(other.get(0), value)


def test_edits_of_the_caller_do_not_reach_the_store(directory) -> None:
    store = LabelStore(directory)
    mine = record(1)
    store.put(0, mine)
    mine["bytes"].zero_()
    mine["ids"].append("c")
    got = store.get(0)
    got["nested"][0]["number"].fill_(9)
    got["bytes"].zero_()
    del got["ids"]
    assert equal(store.get(0), record(1))
    # Nor does a state that is loaded.
    state = saved(store.state_dict())
    other = LabelStore(directory)
    other.load_state_dict(state)
    state["files"].clear()
    assert equal(other.get(0), record(1))


def test_views_bring_only_what_is_seen(directory) -> None:
    whole = torch.randn(1000, 1000, requires_grad=True)
    views = [whole[3, :10], whole.t()[:5, 7], whole[:1, :2].expand(3, 2)]
    store = LabelStore(directory)
    store.put(0, views)
    assert sum(path.stat().st_size for path in directory.iterdir()) < 10 * KILOBYTE
    for view, got in zip(views, store.get(0)):
        assert torch.equal(view, got) and not got.requires_grad


Pair = collections.namedtuple("Pair", "one two")


@pytest.mark.parametrize(
    "bad",
    [
        {"a": np.zeros(3)},
        {"a": np.float64(0.5)},
        [Path("x")],
        Pair(1, 2),
        collections.OrderedDict(a=1),
        {(1, 2): 3},
        {True: 3},
        (print,),
        {"set": {1}},
        b"bytes",
    ],
)
def test_only_tensors_and_plain_values(directory, bad) -> None:
    store = LabelStore(directory)
    store.put(0, record(1))
    with pytest.raises(TypeError, match="a record"):
        store.put(0, bad)
    assert equal(store.get(0), record(1))
    assert len(names(directory)) == 1


class Trap:
    """Would run code where a file is loaded without care."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Trap, "sprung", True))


def test_a_file_with_code_is_refused(directory) -> None:
    store = LabelStore(directory)
    store.put(0, record(1))
    (path,) = directory.iterdir()
    torch.save({"a": Trap()}, path)
    with pytest.raises(UserError, match=path.name):
        store.get(0)
    with pytest.raises(UserError, match=path.name):
        LabelStore(directory).load_state_dict(saved(store.state_dict()))
    assert not Trap.sprung
    # The trap itself works.
    pickle.loads(pickle.dumps(Trap()))
    assert Trap.sprung


def test_a_resumed_store_holds_the_same(directory) -> None:
    store = LabelStore(directory)
    for slot in range(5):
        store.put(slot, record(slot))
    store.put(1, record(20))
    state = saved(store.state_dict())
    # What happens after the state must not change what it means.
    store.put(1, record(30))
    store.put(2, record(31))
    store.clear()
    resumed = LabelStore(directory)
    resumed.put(9, record(40))  # A store is not empty, necessarily.
    resumed.load_state_dict(state)
    assert len(resumed) == 5 and 9 not in resumed
    expected = {0: 0, 1: 20, 2: 2, 3: 3, 4: 4}
    for slot, value in expected.items():
        assert equal(resumed.get(slot), record(value))
    assert saved(resumed.state_dict())["files"] == state["files"]


def test_no_file_is_overwritten(directory) -> None:
    """Whatever is written, resumed, killed: a name has one content."""
    contents: dict[str, bytes] = {}

    def check() -> None:
        for path in directory.iterdir():
            assert contents.setdefault(path.name, path.read_bytes()) == (
                path.read_bytes()
            )

    store = LabelStore(directory)
    store.put(0, record(0))
    early = saved(store.state_dict())
    for value in range(1, 4):
        store.put(0, record(value))
        check()
    late = saved(store.state_dict())
    # Resumed from the early state, though later files are there: a guard's back-off.
    store.load_state_dict(early)
    store.put(0, record(10))
    check()
    # The same after a kill, by a new process; and a new run in an old directory.
    resumed = LabelStore(directory)
    resumed.load_state_dict(early)
    resumed.put(0, record(11))
    check()
    fresh = LabelStore(directory)
    fresh.put(0, record(12))
    check()
    assert len(contents) == 7
    for state, value in ((early, 0), (late, 3)):
        fresh.load_state_dict(state)
        assert equal(fresh.get(0), record(value))


def test_names_are_not_reused_when_files_are_gone(directory) -> None:
    store = LabelStore(directory)
    seen: list[str] = []
    for value in range(4):
        store.put(0, record(value))
        seen += names(directory)
        store.clear()
        store.forget([])
        state = saved(store.state_dict())
        store = LabelStore(directory)
        store.load_state_dict(state)
    assert len(seen) == len(set(seen)) == 4


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cannot be read"),
        (lambda path: path.write_bytes(bytes(2000)), "cannot be read"),
    ],
)
def test_a_missing_or_torn_file_is_named(directory, harm, message) -> None:
    store = LabelStore(directory)
    store.put(0, record(0))
    store.put(1, record(1))
    state = saved(store.state_dict())
    path = directory / "slot1-2.pt"
    harm(path)
    with pytest.raises(UserError, match=message) as refusal:
        store.get(1)
    assert str(path) in str(refusal.value)
    other = LabelStore(directory)
    other.put(7, record(7))
    with pytest.raises(UserError, match=message) as refusal:
        other.load_state_dict(state)
    assert str(path) in str(refusal.value)
    # As it was before.
    assert len(other) == 1 and equal(other.get(7), record(7))


def test_forget_keeps_what_states_and_the_store_name(directory) -> None:
    store = LabelStore(directory)
    states = []
    for epoch in range(4):
        for slot in range(epoch + 1):
            store.put(slot, record(10 * epoch + slot))
        states.append(saved(store.state_dict()))
    store.put(0, record(99))
    store.put(0, record(100))
    store.forget(states[2:])
    # 3 files of one state and 4 of the next, and the live one of slot 0.
    assert len(names(directory)) == 3 + 4 + 1
    assert equal(store.get(0), record(100))
    for epoch in (2, 3):
        resumed = LabelStore(directory)
        resumed.load_state_dict(states[epoch])
        for slot in range(epoch + 1):
            assert equal(resumed.get(slot), record(10 * epoch + slot))
    for gone in states[:2]:
        with pytest.raises(UserError, match="is missing"):
            LabelStore(directory).load_state_dict(gone)


def test_loading_leaves_all_files_alone(directory) -> None:
    store = LabelStore(directory)
    state = saved(store.state_dict())
    store.put(0, record(0))
    (directory / ".slot0-2.pt.tmp").write_bytes(b"half")
    before = names(directory)
    LabelStore(directory).load_state_dict(state)
    assert names(directory) == before


def test_nothing_is_left_after_clear_and_forget(directory) -> None:
    store = LabelStore(directory)
    for slot in range(3):
        store.put(slot, record(slot))
    store.clear()
    assert len(store) == 0 and 0 not in store
    store.forget([])
    assert names(directory) == set()
    store.put(0, record(5))
    assert len(store) == len(names(directory)) == 1


def test_forget_touches_no_files_of_others(directory) -> None:
    LabelStore(directory).forget([])  # Before there is a directory.
    store = LabelStore(directory)
    store.put(0, record(0))
    others = {"notes.txt", "slot1.pt", "slot1-2.pt.bak", ".hidden", "my.slot1-2.pt"}
    for name in others:
        (directory / name).write_text("mine")
    store.clear()
    store.forget([])
    assert names(directory) == others


def test_a_kill_while_a_file_is_written(directory) -> None:
    store = LabelStore(directory)
    store.put(0, record(0))
    state = saved(store.state_dict())
    (directory / "slot0-2.pt").write_bytes(b"half of a record")
    resumed = LabelStore(directory)
    resumed.load_state_dict(state)
    resumed.put(0, record(2))
    assert equal(resumed.get(0), record(2))
    resumed.forget([state])
    assert names(directory) == {"slot0-1.pt", "slot0-3.pt"}


def test_a_full_disk_leaves_the_store_as_it_was(directory, monkeypatch) -> None:
    store = LabelStore(directory)
    store.put(0, record(0))
    save = torch.save

    def break_off(value: Any, path: Path) -> None:
        save(value, path)
        os.truncate(path, 100)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", break_off)
        for slot in (0, 1):
            with pytest.raises(OSError, match="No space"):
                store.put(slot, record(1))
    assert equal(store.get(0), record(0)) and 1 not in store
    assert len(names(directory)) == 1
    store.put(1, record(1))
    assert equal(store.get(1), record(1))


def test_a_state_waits_for_the_disk(directory, monkeypatch) -> None:
    """Every file that a state names is synced before, once; the others need not be."""
    synced: list[str] = []
    monkeypatch.setattr(cache_store, "sync", lambda path: synced.append(path.name))
    store = LabelStore(directory)
    for value in range(3):
        store.put(0, record(value))
    store.put(1, record(4))
    assert not synced
    store.state_dict()
    assert sorted(synced[:2]) == ["slot0-3.pt", "slot1-4.pt"]
    assert synced[2:] == [directory.name]
    store.state_dict()
    assert len(synced) == 3


def test_a_record_outlives_its_file(directory) -> None:
    store = LabelStore(directory)
    store.put(0, record(5, 10**6))
    got = store.get(0)
    store.clear()
    store.forget([])
    assert names(directory) == set()
    assert equal(got, record(5, 10**6))


def test_a_state_is_a_snapshot(directory) -> None:
    store = LabelStore(directory)
    store.put(0, record(0))
    state = store.state_dict()
    before = copy.deepcopy(state)
    store.put(0, record(1))
    store.put(1, record(2))
    store.clear()
    assert equal(state, before)


@pytest.mark.parametrize("slot", [-1, 1.5, True, "0"])
def test_bad_slots_are_refused(directory, slot) -> None:
    with pytest.raises(ValueError, match="slot must be an integer >= 0"):
        LabelStore(directory).put(slot, {})
