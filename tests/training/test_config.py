"""The settings of a training, read from its options once."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import pytest

from espnet_softpl import cache, criteria, filters, teacher
from espnet_softpl.core.errors import UserError
from espnet_softpl.training import options
from espnet_softpl.training.config import PLConfig, read_token_list
from tests.training.test_schedule import RAMP


def parse(*words: str, **changes: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_pl_arguments(parser)
    args = parser.parse_args(["--pl_criterion", "soft_ce", *words])
    vars(args).update({"num_iters_per_epoch": None, "accum_grad": 1, **changes})
    return args


def test_the_defaults_are_those_of_the_options() -> None:
    config = PLConfig.from_args(parse())
    assert isinstance(config.criterion.at(0), criteria.SoftCE)
    assert isinstance(config.teacher, teacher.EMATeacher)
    assert config.cache is None and config.guard.action == "warn"
    assert [name for name, _ in config.filters] == ["tokens"]
    assert (config.regularizers, config.shaping) == ((), ())
    assert config.schedule.start_step == 0 and config.forms.decoder == "auto"
    assert config.needs_posteriors and not config.needs_labeled
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.guard = None


def test_every_part_has_its_name_and_settings() -> None:
    config = PLConfig.from_args(
        parse(
            pl_criterion="hard_ctc",
            pl_teacher="frozen",
            pl_cache="slimipl",
            pl_cache_conf={"size": 7},
            pl_guard="none",
            pl_filter=["rate", f"{__name__}:Mine"],
            pl_filter_conf={"rate": {"min_ratio": 0.5}},
            pl_regularizer=["prior_kl", "mean_entropy"],
            pl_regularizer_conf={"prior_kl": {"weight": RAMP}},
            pl_shaping="sharpen",
            pl_shaping_conf={"temperature": RAMP},
            pl_schedule_conf={"unlabeled_steps": 3},
            pl_interctc="own",
        )
    )
    assert config.cache == cache.SlimIPL(size=7) and config.guard is None
    assert [name for name, _ in config.filters] == ["rate", "Mine"]
    assert [part.at(4).weight for part in config.regularizers] == [1.0, 0.1]
    assert config.shaping[0].at(2).temperature == 1.5
    assert config.schedule.unlabeled_steps == 3 and config.forms.layers == "own"
    assert not config.criterion.at(0).needs_posteriors and config.needs_labeled


def test_what_is_needed_later_is_needed() -> None:
    rise = {"from": 0, "to": 4, "steps": 9}
    config = PLConfig.from_args(
        parse(
            pl_criterion="nbest_ctc",
            pl_criterion_conf={"nbest": {"from": 1, "to": 4, "steps": 9}},
        )
    )
    assert config.needs_posteriors and not config.needs_labeled
    for changes in (
        dict(pl_shaping="blank", pl_shaping_conf={"prior_scale": rise}),
        dict(pl_criterion="consistency", pl_criterion_conf={"labeled_weight": rise}),
    ):
        assert PLConfig.from_args(parse(**changes)).needs_labeled


class Mine(filters.TokenCount):
    """A user's own filter."""


def test_a_share_per_epoch_takes_the_epoch_of_the_run() -> None:
    args = parse(pl_teacher_conf={"retention": 0.25})
    with pytest.raises(UserError, match="retention: is a share per epoch"):
        PLConfig.from_args(args)
    args.num_iters_per_epoch, args.accum_grad = 100, 4
    for form, updates in (("interleaved", 25), ("block", 7)):
        args.pl_schedule_conf = {"form": form}
        expected = teacher.build("ema", retention=0.25, steps_per_epoch=updates)
        assert vars(PLConfig.from_args(args).teacher) == vars(expected)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pl_criterion": "hard"}, "pl_criterion: unknown criterion 'hard'"),
        ({"pl_decoder": "hard"}, "pl_decoder: must be one of auto"),
        (
            {"pl_criterion_conf": {"temperature": {"from": 1.0, "to": 2.0}}},
            "pl_criterion_conf: a scheduled value is",
        ),
        ({"pl_max_bad_share": 2.0}, r"pl_max_bad_share: must be a number in \[0, 1\]"),
        ({"pl_samples": -1}, "pl_samples: must be an integer >= 0, got -1"),
        ({"unlabeled_batch_bins": 0}, "unlabeled_batch_bins: must be an integer >= 1"),
        ({"unlabeled_batch_size": -3}, "unlabeled_batch_size: must be an integer >= 1"),
        ({"unlabeled_shards": 0}, "unlabeled_shards: must be an integer >= 1, got 0"),
        ({"pl_schedule_conf": {"weight": -1}}, "pl_schedule_conf: weight must be"),
        ({"pl_shaping_conf": {"x": 1}}, "pl_shaping_conf: 'x' is not among"),
    ],
)
def test_refusals_name_the_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PLConfig.from_args(parse(**changes))


def test_tokens_are_read_from_a_file_or_given(tmp_path) -> None:
    (tmp_path / "tokens").write_text("<blank>\nA \n")
    args = argparse.Namespace(token_list=str(tmp_path / "tokens"))
    assert read_token_list(args) == ["<blank>", "A"]
    args.token_list = ("<blank>", "B")
    assert read_token_list(args) == ["<blank>", "B"]
    args.token_list = str(tmp_path / "none")
    with pytest.raises(UserError, match="token_list: .*none does not exist"):
        read_token_list(args)
    args.token_list = str(tmp_path)
    with pytest.raises(UserError, match="token_list: .* is a directory, not a file"):
        read_token_list(args)


def test_a_token_list_that_is_no_text(tmp_path) -> None:
    (tmp_path / "tokens.txt").write_bytes(b"<blank>\n\xff\n")
    args = argparse.Namespace(token_list=str(tmp_path / "tokens.txt"))
    with pytest.raises(UserError, match="^token_list: .*tokens.txt: .*can't decode"):
        read_token_list(args)


LM = """\\data\\
ngram 1=3

\\1-grams:
-99\t<s>
-0.3\tA
-0.3\t</s>
\\end\\
"""


def test_an_lm_is_read_from_here_or_from_beside_the_token_list(tmp_path) -> None:
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\nA\n<sos/eos>\n")
    (tmp_path / "a.arpa").write_text(LM)
    words = ("--pl_shaping", "lm_posterior", "--pl_shaping_conf", "lm=a.arpa")
    args = parse(*words, token_list=str(tmp_path / "tokens.txt"))
    part = PLConfig.from_args(args).shaping[0]
    assert part.at(0).lm.log_probs.shape == (4, 4)
    assert args.pl_shaping_conf["lm"] == str(tmp_path / "a.arpa")
    args.pl_shaping_conf = {"lm": "b.arpa"}
    with pytest.raises(UserError, match="^pl_shaping_conf.lm: b.arpa cannot be read"):
        PLConfig.from_args(args)


def test_a_shaping_with_an_lm_may_have_ramps(tmp_path) -> None:
    (tmp_path / "a.arpa").write_text(LM)
    ramp = {"from": 0.0, "to": 1.0, "steps": 10}
    conf = {"lm": str(tmp_path / "a.arpa"), "lm_scale": ramp}
    args = parse("--pl_shaping", "lm_posterior", token_list=["<blank>", "A"])
    args.pl_shaping_conf = conf
    part = PLConfig.from_args(args).shaping[0]
    assert [part.at(step).lm_scale for step in (0, 5, 10)] == [0.0, 0.5, 1.0]
    assert part.at(5).lm is part.at(10).lm
