"""Tables of utterances: read, refused by line, and written whole."""

import gzip
import pickle
import random
import re
import subprocess
import sys

import numpy as np
import pytest

from espnet_softpl.core import errors
from espnet_softpl.data import tables

PYTHON = sys.executable


def test_read_scp(tmp_path) -> None:
    path = tmp_path / "wav.scp"
    path.write_text("a x y.wav\nb z.wav\n")
    assert tables.read_scp(path) == {"a": "x y.wav", "b": "z.wav"}
    bad = {
        "a\n": "wav.scp:1: not",
        "a x\na y\n": "wav.scp:2: a occurs twice",
        "a x\n\nb y\n": "wav.scp:2: the line is empty",
    }
    for content, message in bad.items():
        path.write_text(content)
        with pytest.raises(errors.UserError, match=message):
            tables.read_scp(path)
    path.write_text("a\nb  two  words \n")
    assert tables.read_scp(path, empty=True) == {"a": "", "b": "two  words"}
    path.write_bytes(b"a \xff\n")
    with pytest.raises(errors.UserError, match="not UTF-8"):
        tables.read_scp(path)
    with pytest.raises(ValueError, match="does not exist"):
        tables.read_scp(tmp_path / "none")
    with pytest.raises(ValueError, match="is a directory, not a file"):
        tables.read_scp(tmp_path)


def test_read_lengths(tmp_path) -> None:
    path = tmp_path / "speech_shape"
    path.write_text("a 1330,80\nb 7\n")
    assert tables.read_lengths(path) == {"a": 1330, "b": 7}
    path.write_text("a long\n")
    with pytest.raises(ValueError, match="not a shape file"):
        tables.read_lengths(path)


def test_tables_are_written_in_order_or_sorted(tmp_path) -> None:
    path = tmp_path / "new" / "table"
    tables.write_lines(path, {"b": 1, "a": "x  y", "c": ""})
    assert path.read_text() == "b 1\na x  y\nc\n"
    tables.write_table(path, {"b": 1, "a": "\u00e9"})
    assert path.read_bytes() == "a \u00e9\nb 1\n".encode()
    with pytest.raises(TypeError):
        tables.write_table(path, {"b": 1, 2: "keys of two types cannot be sorted"})
    assert tables.read_scp(path) == {"a": "\u00e9", "b": "1"}
    assert [file.name for file in path.parent.iterdir()] == ["table"]


def test_what_people_take_for_tables(tmp_path) -> None:
    """A byte order mark, and manifests of NeMo and lhotse."""
    path = tmp_path / "wav.scp"
    path.write_bytes("\ufeffa x.wav\n".encode())
    with pytest.raises(errors.UserError, match="byte order mark.*: sed -i"):
        tables.read_scp(path)
    command = "".join(re.findall(r"sed .*", message(path)))
    subprocess.run(["bash", "-c", command], check=True)
    assert tables.read_scp(path) == {"a": "x.wav"}
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"audio_filepath": "/a b.wav", "duration": 1.0}\n' * 2)
    found = re.search(r"manifest: (python .*wav.scp) \(likewise", message(manifest))
    command = found[1].replace("MANIFEST", str(manifest)).replace("python", PYTHON, 1)
    subprocess.run(["bash", "-c", command], check=True, cwd=tmp_path)
    assert tables.read_scp(path) == {"utt0000000": "/a b.wav", "utt0000001": "/a b.wav"}
    packed = tmp_path / "cuts.jsonl.gz"
    packed.write_bytes(gzip.compress(b"{}"))
    assert "lhotse kaldi export" in message(packed)


def message(path) -> str:
    with pytest.raises(errors.UserError) as error:
        tables.read_scp(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_table_is_what_a_dictionary_would_be(tmp_path, monkeypatch) -> None:
    """Over several parts and blocks, of every sort of white space and letter."""
    monkeypatch.setattr(tables, "READ_BYTES", 2000)
    rng = random.Random(1)
    odd = [" ", "\t", "  ", "\u00a0", " \x0b", "\x1f"]
    path = tmp_path / "table"
    for spaces, ends, letters in (
        ([" "], ["\n"], "abc,|:/"),
        (odd, ["\n", " \n", "\r\n"], "a\u00e9\u4e2d"),
    ):
        expected = {}
        lines = []
        for number in range(500):
            key = "".join(rng.choices(letters, k=rng.randrange(1, 90))) + str(number)
            value = f"x{rng.choice(odd[:2])}{rng.choice(letters)}{number}"
            expected[key] = value
            lines.append(key + rng.choice(spaces) + value + rng.choice(ends))
        path.write_text("".join(lines)[:-1], encoding="utf-8", newline="")
        table = tables.Table(path)
        assert list(table.items()) == list(expected.items()) and table == expected
        assert list(table) == list(expected) and len(table) == 500
        assert list(table.values()) == list(expected.values())
        assert all(table[key] == value for key, value in expected.items())
        assert all(table.id_at(n) == key for n, key in enumerate(expected))
        assert all(table.row_of(key) == n for n, key in enumerate(expected))
        for key in ("", "a", "b" * 500, 7, None):
            assert key not in table
        with pytest.raises(KeyError, match="gone"):
            table["gone"]
        assert pickle.loads(pickle.dumps(table)) == expected
        path.write_text("".join([*lines, "b x\n", lines[3]]), encoding="utf-8")
        with pytest.raises(errors.UserError, match="table:502: .* occurs twice"):
            tables.Table(path)


def test_ids_of_one_hash_are_told_apart(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tables, "FACTOR", np.uint64(1))
    path = tmp_path / "table"
    path.write_text("ad 1\nbc 2\ncb 3\n")
    assert tables.Table(path) == {"ad": "1", "bc": "2", "cb": "3"}
    assert "da" not in tables.Table(path)
    path.write_text("ad 1\nbc 2\ncb 3\nbc 4\nad 5\n")
    with pytest.raises(errors.UserError, match="table:4: bc occurs twice"):
        tables.Table(path)


def test_lengths_are_numbers_as_python_reads_them(tmp_path) -> None:
    path = tmp_path / "shape"
    rows = ["7", "0", "1330,80", "999999999999999999", "12,3,4"]
    for more in ([], ["+5"], ["1_000"], [" 6"], ["-3"], ["1234567890123456789"]):
        path.write_text("".join(f"u{n} {v}\n" for n, v in enumerate(rows + more)))
        table = tables.Lengths(path)
        expected = [int(value.split(",")[0]) for value in rows + more]
        assert table.counts.tolist() == list(table.values()) == expected
        assert table["u2"] == 1330 and dict(table.items())["u4"] == 12
        assert all(type(value) is int for value in table.values())
    for bad in ("7.5", ",80", "1 2"):
        path.write_text(f"a {bad}\n")
        with pytest.raises(errors.UserError, match="not a shape file"):
            tables.Lengths(path)


def test_ids_that_are_drawn(tmp_path) -> None:
    def draw(ids: list[str], count: int) -> list[str]:
        (tmp_path / "shape").write_text("".join(f"{key} 1\n" for key in ids))
        return tables.Lengths(tmp_path / "shape").draw(count)

    ids = [f"utterance-{index}" for index in range(100)]
    drawn = draw(ids, 8)
    assert len(set(drawn)) == 8 and drawn == draw(ids[::-1], 8)
    # Fewer utterances: what is still there stays.
    assert set(drawn[1:]) <= set(draw([key for key in ids if key != drawn[0]], 8))
    assert draw(ids, 0) == draw([], 8) == [] and sorted(draw(ids[:3], 8)) == ids[:3]
    # Speakers come one after the other in the ids, and all are to be heard.
    tens = [int(key.split("-")[1]) // 10 for key in draw(ids, 20)]
    assert len(set(tens)) >= 8


def test_lines_that_have_a_text(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tables, "BLOCK", 2)
    (tmp_path / "wav.scp").write_text("a 1.wav\nb cat b |\nc|d 2.wav\nd 3.wav\n")
    table = tables.Table(tmp_path / "wav.scp")
    assert list(table.pairs_with("|")) == [("b", "cat b |"), ("c|d", "2.wav")]
    assert list(table.pairs_with("no such")) == []


def test_what_a_table_lacks(tmp_path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("".join(f"u{n} x\n" for n in range(0, 200, 2)))
    second.write_text("".join(f"u{n} 1\n" for n in range(199, -1, -1)))
    ours, theirs = tables.Table(first), tables.Lengths(second)
    assert ours.lacks(theirs) == [f"u{n}" for n in range(199, 0, -2)]
    assert theirs.lacks(ours) == []
    first.write_text("")
    assert tables.Table(first).lacks(ours) == list(ours)
    assert len(tables.Table(first)) == len(tables.Lengths(first)) == 0


def test_a_table_is_kept_until_its_file_changes(tmp_path) -> None:
    path = tmp_path / "shape"
    path.write_text("a 1\n")
    kept = tables.kept_lengths(path)
    assert tables.kept_lengths(str(path)) is kept
    tables.write_lines(path, {"a": 2})
    assert tables.kept_lengths(path) == {"a": 2}
    path.unlink()
    with pytest.raises(errors.UserError, match="does not exist"):
        tables.kept_lengths(path)
