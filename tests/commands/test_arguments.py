"""Options that several commands have: their defaults are shown, ranges are kept."""

from __future__ import annotations

import argparse
from types import ModuleType

import pytest
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher
from espnet_softpl.commands.arguments import (
    Parser,
    Settings,
    add_model_arguments,
    at_least,
    directory,
    existing,
    existing_file,
    existing_path,
    names_in,
    new_directory,
    new_file,
    new_path,
    share,
)


def test_numbers_out_of_range() -> None:
    assert (share("0"), share("1"), at_least(0)("0"), at_least(2)("7")) == (0, 1, 0, 7)
    for parse, text in ((share, "1.1"), (share, "nan"), (at_least(2), "1")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"{text} is not"):
            parse(text)
    with pytest.raises(ValueError):
        at_least(0)("one")


def test_help_names_defaults_once() -> None:
    parser = Parser("First line.\n\n  Indented.")
    add_model_arguments(parser)
    parser.add_argument("--plain", help="has none")
    parser.add_argument("--told", default="a", help="the default is b")
    text = " ".join(parser.format_help().split())
    assert "First line. Indented." in text
    assert "has not (default: student)" in text and "(default: 0.5)" in text
    assert text.endswith("--plain PLAIN has none --told TOLD the default is b")
    assert parser.parse_args(["--asr_exp", "."]).which == "student"


@pytest.mark.parametrize(
    "room", (cache, criteria, filters, regularizers, shaping, teacher)
)
def test_names_are_read_from_the_sources(room: ModuleType) -> None:
    """The guard's names are registered in a loop, and no command lists them."""
    name = room.__name__.removeprefix("espnet_softpl.")
    assert tuple(names_in(name)) == room.available() != ()


def test_paths(tmp_path) -> None:
    (tmp_path / "file").touch()
    file = f"{tmp_path}/./file"
    assert existing(file) == file and existing_path(file) == tmp_path / "file"
    assert directory(str(tmp_path)) == tmp_path
    for parse in (existing, existing_path, directory):
        with pytest.raises(argparse.ArgumentTypeError, match="none (does not|is no)"):
            parse(f"{tmp_path}/none")
    with pytest.raises(argparse.ArgumentTypeError, match="file is no directory"):
        directory(file)
    with pytest.raises(argparse.ArgumentTypeError, match="is a directory, not a file"):
        existing_file(str(tmp_path))
    assert existing_file(file) == tmp_path / "file"


def test_paths_to_write_are_refused_before_any_work(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    new = tmp_path / "a" / "b"
    assert new_file(str(new)) == new_directory(str(new)) == new_path(str(new)) == new
    assert new_file(str(tmp_path / "file")) == tmp_path / "file"
    assert new_directory(str(tmp_path)) == tmp_path
    for parse, path, fault in (
        (new_file, tmp_path, "is a directory, not a file"),
        (new_directory, tmp_path / "file", "is no directory"),
        (new_path, tmp_path / "file" / "x" / "y", f"{tmp_path}/file is no directory"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=fault):
            parse(str(path))
    monkeypatch.setattr("os.access", lambda place, mode: False)  # Root may write all.
    for path in (new, tmp_path):
        with pytest.raises(
            argparse.ArgumentTypeError, match=f"{tmp_path} cannot be wr"
        ):
            new_path(str(path))


def test_the_level_of_the_log_is_set_and_no_option_is_left(monkeypatch) -> None:
    given = []
    monkeypatch.setattr("logging.basicConfig", lambda **more: given.append(more))
    for words in ([], ["--log-level", "debug"], ["--log_level=ERROR"]):
        assert vars(Parser("x").parse_args(words)) == {}
    assert [more["level"] for more in given] == ["WARNING", "DEBUG", "ERROR"]


@pytest.mark.parametrize(
    "words", ([], ["a.b=1"], ["a.b=1", "{c: 2}", "d=[x]"], ["a.b=1", "a.c=2"])
)
def test_settings_are_espnets(words: list[str]) -> None:
    found = []
    for action in (Settings, NestedDictAction):
        parser = Parser("x")
        parser.add_argument("--conf", action=action, default={})
        options = parser.parse_args([part for w in words for part in ("--conf", w)])
        found.append(options.conf)
    assert found[0] == found[1] and bool(found[0]) == bool(words)
