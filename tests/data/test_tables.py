"""Tables of utterances: read, refused by line, and written whole."""

import gzip
import re
import subprocess
import sys

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
