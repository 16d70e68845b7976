"""Files are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
import torch

from espnet_softpl.core import files, processes
from espnet_softpl.core.errors import UserError
from tests.support.espnet_runs import flip_bit


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with files.atomic_file(path) as temporary:
        temporary.write_bytes(b"1")
        assert names(path.parent) == [".file.txt.tmp"]
    assert names(path.parent) == ["file.txt"] and path.read_bytes() == b"1"
    with files.atomic_write(str(path)) as stream:
        stream.write("\u00e9\n")
        assert path.read_bytes() == b"1"
    assert path.read_bytes() == "\u00e9\n".encode()


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.atomic_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="disk is full"):
        with files.atomic_write(path) as stream:
            stream.write("half")
            raise OSError("the disk is full")
    assert path.read_text() == "old" and names(tmp_path) == ["file.txt"]


def test_what_a_kill_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".state.pth.tmp").write_bytes(b"half")
    files.save_atomically({"step": 3}, tmp_path / "state.pth")
    assert names(tmp_path) == ["state.pth"]
    assert files.load_state(tmp_path / "state.pth") == {"step": 3}


def test_torch_that_says_nothing_of_a_full_disk(tmp_path, monkeypatch) -> None:
    """Version 2.5 loses what is in its last buffer, and returns."""
    path = tmp_path / "state.pth"
    files.save_atomically({"step": 3}, path)
    save = torch.save

    def save_most(state, file) -> None:
        save(state, file)
        os.truncate(file, os.path.getsize(file) - 100)  # noqa: PTH202

    monkeypatch.setattr(torch, "save", save_most)
    with pytest.raises(OSError, match="disk may be full.*state.pth"):
        files.save_atomically({"step": 4}, path)
    assert files.load_state(path) == {"step": 3} and names(tmp_path) == ["state.pth"]


def test_processes_of_a_run_do_not_share_a_temporary_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shape"
    with files.atomic_file(path) as first:
        monkeypatch.setattr(processes, "rank_and_world", lambda: (1, 2))
        with files.atomic_file(path) as second:
            assert first != second
            second.write_text("the same")
        first.write_text("the same")
    assert path.read_text() == "the same" and names(tmp_path) == ["shape"]


def test_the_disk_has_a_file_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace = os.replace
    monkeypatch.setattr(files, "sync", lambda path: done.append(path.name))
    monkeypatch.setattr(
        os, "replace", lambda old, new: (done.append("rename"), replace(old, new))
    )
    with files.atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("a")
    assert done == [".a.tmp", "rename", tmp_path.name]
    done.clear()
    with files.atomic_file(tmp_path / "b", durable=False) as temporary:
        temporary.write_text("b")
    assert done == ["rename"]


def test_torn_files_and_code_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "state.pth"
    files.save_atomically({"weight": torch.arange(3)}, path)
    state = files.load_state(path, mmap=True)
    assert state["weight"].tolist() == [0, 1, 2]
    whole = path.read_bytes()
    for torn in (b"", whole[: len(whole) // 2], b"no state at all"):
        path.write_bytes(torn)
        with pytest.raises(UserError, match="it is cut off"):
            files.load_state(path)

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "hacked",))

    torch.save(Trap(), path)
    with pytest.raises(UserError, match="cut off or not a PyTorch file: [^.]*failed$"):
        files.load_state(path)  # Nothing of torch's advice to load it all the same.
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("where", [0.0, 0.3, 1.0])
def test_a_bit_that_is_flipped_is_found(tmp_path: Path, where) -> None:
    path = tmp_path / "state.pth"
    files.save_atomically({"weight": torch.arange(3000.0)}, path)
    flip_bit(path, where)
    # torch itself sees nothing.
    loaded = torch.load(path, weights_only=True)["weight"]
    assert not torch.equal(loaded, torch.arange(3000.0))
    with pytest.raises(UserError, match=r"state.pth is damaged: \S*data/0 is not what"):
        files.load_state(path)


def test_no_wrong_bit_gives_other_weights_or_a_traceback(tmp_path: Path) -> None:
    """Wherever it is: in a header, in the directory at the end, in what fills up."""
    path, weight = tmp_path / "state.pth", torch.arange(16.0)
    files.save_atomically({"weight": weight}, path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        wrong = bytearray(whole)
        wrong[place] ^= 1 << place % 8
        path.write_bytes(wrong)
        with contextlib.suppress(UserError):
            assert torch.equal(files.load_state(path)["weight"], weight)


def test_a_file_of_an_older_torch_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    state = {"weight": torch.arange(30)}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert torch.equal(files.load_state(path)["weight"], state["weight"])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="it is cut off"):
        files.load_state(path)


def test_yaml_of_a_stranger(tmp_path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: &a {x: [1, no]}\nb: *a\nc: {<<: *a}\n")
    one = {"x": [1, False]}
    assert files.read_yaml(path) == {"a": one, "b": one, "c": one}
    path.write_text("")
    assert files.read_yaml(path) is None
    nine = [(i, ", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 9)]
    levels = [f"a{i}: &a{i} [{many}]" for i, many in nine]
    merged = [f"a{i}: &a{i} {{<<: [{many}]}}" for i, many in nine]
    for text, message in (
        ("\n".join(["a0: &a0 [x]", *levels]), "more than 1000000 values"),
        ("\n".join(["a0: &a0 {x: 1}", *merged]), "more than 1000000 values"),
        ("a: &a [*a]", "more than 1000000 values"),
        ("[" * 1200, "is no YAML file"),
        ("a: 2001-99-99", "is no YAML file"),
        ("a: !!python/object/apply:os.getcwd []", "is no YAML file"),
        ("? [a]\n: 1", "is no YAML file"),
        ("a: \x00", "is no YAML file"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            files.read_yaml(path)


def test_a_work_directory_is_empty_and_goes(tmp_path) -> None:
    path = tmp_path / ".work"
    path.mkdir()
    (path / "left").touch()
    with pytest.raises(KeyError), files.work_directory(path) as work:
        assert not list(work.iterdir())
        raise KeyError
    assert not path.exists()
