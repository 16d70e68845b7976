"""The label store: what goes in comes out, after a kill as well."""

from __future__ import annotations

import collections
import copy
import io
import pickle
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from espnet_softpl.cache import store as cache_store
from espnet_softpl.cache.store import LabelStore
from espnet_softpl.core.errors import UserError
from tests.support.espnet_runs import flip_bit

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
    assert store.slots() == [0, 3, 12]
    assert 12 in store and 1 not in store and 13 not in store
    for slot in (12, 3, 0, 3):
        assert equal(store.get(slot), record(slot))
    for slot in (1, 13):
        with pytest.raises(KeyError):
            store.get(slot)
    assert names(directory) == {"segment1.bin"}


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
    state["places"].zero_()
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


class Trap:
    """Would run code where a file is loaded without care."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Trap, "sprung", True))


def test_a_file_with_code_is_refused(directory) -> None:
    store = LabelStore(directory)
    file = io.BytesIO()
    torch.save({"a": Trap()}, file)
    store._append(0, zlib.compress(file.getvalue()))
    with pytest.raises(UserError, match=r"segment1\.bin"):
        store.get(0)
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
    assert resumed.slots() == [0, 1, 2, 3, 4]
    expected = {0: 0, 1: 20, 2: 2, 3: 3, 4: 4}
    for slot, value in expected.items():
        assert equal(resumed.get(slot), record(value))
    for key in ("segments", "slots", "places"):
        assert equal(saved(resumed.state_dict())[key], state[key])


def test_no_file_is_overwritten(directory) -> None:
    """Whatever is written, resumed, killed: a file may grow, until a state names it."""
    contents: dict[str, bytes] = {}

    def check() -> None:
        for path in directory.iterdir():
            now = path.read_bytes()
            assert now.startswith(contents.get(path.name, b""))
            contents[path.name] = now

    store = LabelStore(directory)
    store.put(0, record(0))
    early = saved(store.state_dict())
    check()
    named = dict(contents)
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
    # Of the early state, of the late one (copied), and one for each way to go on.
    assert len(contents) == 6 and contents == {**contents, **named}
    for state, value in ((early, 0), (late, 3)):
        fresh.load_state_dict(state)
        assert equal(fresh.get(0), record(value))


def test_names_are_not_reused_when_files_are_gone(directory) -> None:
    store = LabelStore(directory)
    seen: list[str] = []
    for value in range(4):
        store.put(0, record(value))
        seen += names(directory)
        assert len(names(directory)) == 1
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
        (lambda path: path.write_bytes(b""), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged"),
        (flip_bit, "is damaged"),
    ],
)
def test_a_missing_or_torn_file_is_named(directory, harm, message) -> None:
    store = LabelStore(directory)
    store.put(0, record(0))
    store.state_dict()
    store.put(1, record(1))
    state = saved(store.state_dict())
    other = LabelStore(directory)
    other.put(7, record(7))
    path = directory / "segment2.bin"
    harm(path)
    with pytest.raises(UserError, match=message) as refusal:
        store.get(1)
    assert str(path) in str(refusal.value)
    assert equal(store.get(0), record(0))
    with pytest.raises(UserError, match=message) as refusal:
        other.load_state_dict(state)
    assert str(path) in str(refusal.value)
    # As it was before.
    assert other.slots() == [7] and equal(other.get(7), record(7))


def test_every_bit_counts(directory) -> None:
    store = LabelStore(directory)
    store.put(0, record(0))
    state, path = saved(store.state_dict()), directory / "segment1.bin"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        )
        with pytest.raises(UserError, match=r"segment1\.bin is damaged"):
            LabelStore(directory).load_state_dict(state)
    path.write_bytes(whole)
    LabelStore(directory).load_state_dict(state)


def old_state(directory: Path, slots: int) -> dict[str, Any]:
    """Write what version 0.1 has written: a file of torch per slot."""
    directory.mkdir()
    files = {slot: f"slot{slot}-{slot + 5}.pt" for slot in range(slots)}
    for slot, name in files.items():
        torch.save(record(slot), directory / name)
    return {"number": slots + 5, "files": files}


def test_a_state_of_a_file_per_slot_can_be_loaded(directory) -> None:
    state = old_state(directory, 3)
    store = LabelStore(directory)
    store.load_state_dict(state)
    for slot in range(3):
        assert equal(store.get(slot), record(slot))
    # The files stay as long as a state names them.
    new = saved(store.state_dict())
    store.forget([state, new])
    assert names(directory) == {*state["files"].values(), "segment1.bin"}
    store.forget([new])
    assert names(directory) == {"segment1.bin"}


@pytest.mark.parametrize("harm", [Path.unlink, flip_bit])
def test_a_damaged_file_of_a_slot_is_named(directory, harm) -> None:
    state = old_state(directory, 2)
    harm(directory / state["files"][1])
    store = LabelStore(directory)
    with pytest.raises(UserError, match="slot1-6.pt"):
        store.load_state_dict(state)
    assert store.slots() == []


@pytest.mark.parametrize("per_epoch", [1, 7, 100])
def test_the_space_is_bounded(directory, monkeypatch, per_epoch) -> None:
    """Whatever is replaced how often, of a few slots or of all of them."""
    monkeypatch.setattr(cache_store, "SEGMENT_BYTES", 4 * KILOBYTE)
    draw = random.Random(3)
    store = LabelStore(directory)
    kept, states, copied = dict.fromkeys(range(30), 0), [], 0

    def noise(value: int) -> torch.Tensor:  # Zeros would take no space.
        generator = torch.Generator().manual_seed(value)
        return torch.randint(256, (KILOBYTE,), dtype=torch.uint8, generator=generator)

    for slot, value in kept.items():
        store.put(slot, noise(value))
    states = [saved(store.state_dict())]
    for epoch in range(60):
        for number in range(per_epoch):
            slot, value = draw.randrange(30), 100 * epoch + number
            kept[slot] = value
            store.put(slot, noise(value))
        states = [states[-1], saved(store.state_dict())]
        store.forget(states)
        sizes = {p.name: p.stat().st_size for p in directory.iterdir()}
        least = [int(state["places"][:, 2].sum()) for state in states]
        of_last = sum(sizes[f"segment{n}.bin"] for n in states[1]["segments"])
        copied += of_last < sum(sizes.values())
        assert of_last <= cache_store.MOST_SPACE * least[1]
        assert sum(sizes.values()) <= cache_store.MOST_SPACE * sum(least)
        if per_epoch == 1:  # Most of the last state is that of the one before it.
            assert sum(sizes.values()) <= 1.7 * least[1]
    assert copied > 5
    resumed = LabelStore(directory)
    resumed.load_state_dict(states[1])
    for each in (store, resumed):
        assert all(torch.equal(each.get(s), noise(v)) for s, v in kept.items())


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
    # Each state has a segment, and there is the one that grows.
    assert names(directory) == {f"segment{number}.bin" for number in (3, 4, 5)}
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
    (directory / "segment7.bin").write_bytes(b"half")
    before = names(directory)
    LabelStore(directory).load_state_dict(state)
    assert names(directory) == before


def test_nothing_is_left_after_clear_and_forget(directory) -> None:
    store = LabelStore(directory)
    for slot in range(3):
        store.put(slot, record(slot))
    store.clear()
    assert store.slots() == [] and 0 not in store
    store.forget([])
    assert names(directory) == set()
    store.put(0, record(5))
    assert names(directory) == {"segment2.bin"} and equal(store.get(0), record(5))


def test_forget_touches_no_files_of_others(directory) -> None:
    LabelStore(directory).forget([])  # Before there is a directory.
    store = LabelStore(directory)
    store.put(0, record(0))
    others = {"notes.txt", "slot1.pt", "slot1-2.pt.bak", ".hidden", "segment.bin"}
    for name in others:
        (directory / name).write_text("mine")
    store.clear()
    store.forget([])
    assert names(directory) == others


def test_a_kill_while_a_file_is_written(directory) -> None:
    store = LabelStore(directory)
    store.put(0, record(0))
    state = saved(store.state_dict())
    (directory / "segment2.bin").write_bytes(b"half of a record")
    resumed = LabelStore(directory)
    resumed.load_state_dict(state)
    resumed.put(0, record(2))
    assert equal(resumed.get(0), record(2))
    resumed.forget([state])
    assert names(directory) == {"segment1.bin", "segment3.bin"}


def test_a_full_disk_leaves_the_store_as_it_was(directory, monkeypatch) -> None:
    store = LabelStore(directory)
    store.put(0, record(0))
    length = (directory / "segment1.bin").stat().st_size

    class Full:
        """A file that takes 100 bytes more."""

        def __init__(self, path: Path) -> None:
            self.path = path

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: Any) -> None:
            pass

        def write(self, block: bytes) -> None:
            with open(self.path, "ab") as file:
                file.write(block[:100])
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode: Full(path))
        for slot in (0, 1):
            with pytest.raises(OSError, match="No space"):
                store.put(slot, record(1))
        assert (directory / "segment1.bin").stat().st_size == length
    assert equal(store.get(0), record(0)) and 1 not in store
    store.put(1, record(1))
    assert equal(store.get(1), record(1)) and len(names(directory)) == 1


def test_a_state_waits_for_the_disk(directory, monkeypatch) -> None:
    """Every segment that a state names is synced before, once; others need not be."""
    synced: list[str] = []
    monkeypatch.setattr(cache_store, "sync", lambda path: synced.append(path.name))
    store = LabelStore(directory)
    for slot in range(3):
        store.put(slot, record(slot))
    assert not synced
    store.state_dict()
    assert synced == ["segment1.bin", directory.name]
    store.state_dict()
    assert len(synced) == 2
    for _ in range(9):  # Most of it is not worth its space, and is left out.
        store.put(0, record(5))
    store.state_dict()
    assert synced[2:] == ["segment3.bin", directory.name]


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
