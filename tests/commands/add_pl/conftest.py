"""A recipe directory as asr.sh has it, made once per process."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from espnet2.bin import pack
from espnet2.tasks.asr import ASRTask

from tests.support.add_pl_recipe import (
    DATA,
    TINY,
    working_in,
)
from tests.support.espnet_runs import config, make_data, train


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Path:
    """A recipe directory with relative paths: data and a base model."""
    root = tmp_path_factory.mktemp("re cipe")
    with working_in(root):
        make_data(DATA.root)
        options = config(**DATA.options(unlabeled=False), **TINY)
        train(ASRTask, options, Path("exp/asr_base"))
    return root


@pytest.fixture
def here(recipe, monkeypatch) -> Path:
    """The recipe directory, as the current one."""
    monkeypatch.chdir(recipe)
    return recipe


@pytest.fixture(scope="session")
def bpe_base(recipe) -> Path:
    """A base model with BPE and global statistics, which are in files of their own."""
    with working_in(recipe):
        Path("bpe").mkdir()
        lines = [line.split(maxsplit=1)[1] for line in open("data/labeled/text")]
        Path("bpe/text").write_text("".join(lines))
        sentencepiece.SentencePieceTrainer.train(
            input="bpe/text", model_prefix="bpe/bpe", vocab_size=12, minloglevel=2
        )
        pieces = [line.split("\t")[0] for line in open("bpe/bpe.vocab")][3:]
        tokens = ["<blank>", "<unk>", *pieces, "<sos/eos>"]
        Path("bpe/tokens.txt").write_text("\n".join(tokens) + "\n")
        changes = dict(
            DATA.options(unlabeled=False),
            **TINY,
            token_type="bpe",
            bpemodel="bpe/bpe.model",
            token_list="bpe/tokens.txt",
        )
        stats = config(**changes)
        train(ASRTask, stats, Path("exp/stats"), "--collect_stats", "true")
        changes.update(
            normalize="global_mvn",
            normalize_conf=dict(stats_file="exp/stats/train/feats_stats.npz"),
            train_shape_file=["exp/stats/train/speech_shape"],
            valid_shape_file=["exp/stats/valid/speech_shape"],
        )
        train(ASRTask, config(**changes), Path("exp/asr_bpe"))
    return Path("exp/asr_bpe")


@pytest.fixture(scope="session")
def packed(recipe, bpe_base) -> Path:
    """The base model as espnet2.bin.pack packs it."""
    with working_in(recipe):
        for name in ("base.zip", "base.tgz"):
            command = ["asr", "--outpath", name, "--asr_train_config"]
            command += [str(bpe_base / "config.yaml"), "--asr_model_file"]
            command += [str(bpe_base / "valid.cer_ctc.ave.pth"), "--option"]
            command += ["bpe/bpe.model", "--option", "exp/stats/train/feats_stats.npz"]
            pack.main(command)
    return recipe
