"""Options: declared where a search finds them, and lists of the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from espnet_softpl.training import keys, options


def test_every_option_is_declared_by_its_own_name() -> None:
    parser = argparse.ArgumentParser()
    options.add_pl_arguments(parser)
    source = Path(keys.__file__).read_text(encoding="utf-8")
    names = [name for a in parser._actions for name in a.option_strings]
    ours = [name for name in names if name not in ("-h", "--help")]
    assert len(ours) == 27 and "--pl_teacher" in ours
    assert [name for name in ours if source.count(f'"{name}"') != 1] == []


def test_settings_that_are_not_given_are_empty_and_not_shared() -> None:
    parser = argparse.ArgumentParser()
    options.add_pl_arguments(parser)
    args = parser.parse_args(["--pl_teacher_conf", "decay=0.5"])
    assert args.pl_teacher_conf == {"decay": 0.5}
    again = parser.parse_args([])
    assert again.pl_teacher_conf == again.pl_criterion_conf == {}


def test_lists_of_the_command_line_replace_those_of_the_file(tmp_path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"fold_length": [1, 2], "train_shape_file": ["a"]}))
    lists = {name: [] for name in options.LISTS}
    both = {"fold_length": [1, 2, 3], "train_shape_file": ["a"]}
    args = argparse.Namespace(config=str(file), **{**lists, **both})
    for _ in range(2):
        options.prefer_command_line(args)
        assert args.fold_length == [3] and args.train_shape_file == ["a"]
    args = argparse.Namespace(config=None, fold_length=[1])
    options.prefer_command_line(args)
    assert args.fold_length == [1]
