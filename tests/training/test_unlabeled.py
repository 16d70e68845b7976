"""Unlabeled mini-batches and files: those of ESPnet, out of arrays."""

from __future__ import annotations

import argparse
import itertools
import logging
import os

import numpy as np
import pytest
from espnet2.samplers.build_batch_sampler import build_batch_sampler
from espnet2.train.dataset import ESPnetDataset

from espnet_softpl.core.errors import UserError
from espnet_softpl.data.tables import Lengths
from espnet_softpl.training import unlabeled
from tests.support.audio_forms import write_archive, write_lines, write_plain

HOW = dict(
    type="sorted",
    batch_size=4,
    batch_bins=900,
    fold_lengths=[50],
    sort_in_batch="descending",
    sort_batch="ascending",
    drop_last=False,
    min_batch_size=1,
)
WORDS = ("descending", "ascending")


def write_shape(path, total: int, seed: int = 0) -> Lengths:
    """Write a shape file whose lengths have many ties."""
    counts = np.random.default_rng(seed).integers(1, 40, total) * 7
    write_lines(path, {f"u{n * 37 % 101}-{n}": str(c) for n, c in enumerate(counts)})
    return Lengths(path)


@pytest.mark.parametrize("kind", unlabeled.TYPES)
def test_mini_batches_are_those_of_espnet(kind, tmp_path) -> None:
    compared = 0
    options = (WORDS, WORDS, (False, True), (1, 3), (4, 7), (1, 2, 3, 50, 211))
    for inner, outer, drop, fewest, size, total in itertools.product(*options):
        path = tmp_path / f"shape{total}"
        lengths = write_shape(path, total)
        more = dict(sort_in_batch=inner, sort_batch=outer, drop_last=drop)
        how = HOW | more | dict(type=kind, min_batch_size=fewest, batch_size=size)
        try:
            stock = build_batch_sampler(shape_files=[str(path)], **how)
        except IndexError:  # Of one mini-batch it takes the second last.
            continue
        ours = unlabeled.form(lengths.counts, **how)
        named = [[lengths.id_at(row) for row in batch] for batch in ours]
        assert named == [list(batch) for batch in stock], how
        assert len(ours) == len(stock)
        compared += 1
    assert compared > 100


def options(shape, kind: str = "folded", distributed: bool = False, **more):
    """Return ESPnet's options, and those of the iterator."""
    args = dict(sort_in_batch="descending", sort_batch="ascending", fold_length=[50, 9])
    args |= dict(drop_last_iter=False, min_batch_size=1, unlabeled_shards=None)
    data = [(str(shape.parent / "wav.scp"), "speech", "sound")]
    values = dict(
        batch_type=kind, batch_size=6, batch_bins=900, distributed=distributed
    )
    values |= dict(data_path_and_name_and_type=data, shape_files=[str(shape)])
    return argparse.Namespace(**args | more), argparse.Namespace(**values)


def test_espnet_202412_has_fewer_options(tmp_path, monkeypatch) -> None:
    """It has no `min_batch_size`, and its data sets no `keys_to_load`."""
    lengths = write_shape(tmp_path / "shape", 40)
    whole = unlabeled.build_batches(*options(tmp_path / "shape"), lengths)
    args, values = options(tmp_path / "shape")
    del args.min_batch_size
    old = unlabeled.build_batches(args, values, lengths)
    assert [list(batch) for batch in old] == [list(batch) for batch in whole]
    asked = []
    load = lambda self, *words: asked.append(words)  # noqa: E731
    monkeypatch.setattr(unlabeled.ESPnetDataset, "_build_loader", load)
    dataset = object.__new__(unlabeled.TableDataset)
    dataset._build_loader("text", "text")
    dataset._build_loader("text", "text", None)
    assert asked == [("text", "text"), ("text", "text", None)]


def test_categories_are_not_mixed(tmp_path) -> None:
    lengths = write_shape(tmp_path / "shape", 40)
    categories = {key: "ab"[n % 2] for n, key in enumerate(lengths)}
    write_lines(tmp_path / "utt2category", categories)
    batches = unlabeled.build_batches(*options(tmp_path / "shape"), lengths)
    assert sorted(itertools.chain(*batches)) == list(range(40))
    for batch in batches:
        assert len({categories[lengths.id_at(row)] for row in batch}) == 1
    mixed = unlabeled.build_batches(*options(tmp_path / "shape", "sorted"), lengths)
    assert any(len({row % 2 for row in batch}) == 2 for batch in mixed)


def test_what_espnet_refuses_is_refused(tmp_path) -> None:
    lengths = write_shape(tmp_path / "shape", 9)
    with pytest.raises(ValueError, match="Not supported: catbel"):
        unlabeled.build_batches(*options(tmp_path / "shape", "catbel"), lengths)
    (tmp_path / "none").touch()
    nothing = Lengths(tmp_path / "none")
    with pytest.raises(RuntimeError, match="0 lines found: .*none"):
        unlabeled.build_batches(*options(tmp_path / "none"), nothing)


def test_each_process_has_its_share(tmp_path, monkeypatch, caplog) -> None:
    shape = tmp_path / "shape"
    lengths = write_shape(shape, 50)
    args = options(shape, "numel", distributed=True)
    monkeypatch.setattr(unlabeled, "rank_and_world", lambda: (1, 3))
    with caplog.at_level(logging.INFO):
        share = unlabeled.build_batches(*args, lengths)
    assert f"N-batch={len(share)}" in caplog.text
    monkeypatch.setattr(unlabeled, "rank_and_world", lambda: (0, 1))
    whole = unlabeled.form(lengths.counts, **HOW | dict(type="numel", min_batch_size=3))
    assert list(share) == [batch[1::3] for batch in whole]
    monkeypatch.setattr(unlabeled, "rank_and_world", lambda: (0, 99))
    with pytest.raises(RuntimeError, match="equal or more than world_size: .* < 99"):
        unlabeled.form(lengths.counts, **HOW)


def test_files_are_read_as_by_espnet(tmp_path) -> None:
    plain = write_plain(tmp_path / "plain", 2, seed=1) / "wav.scp"
    archive = write_archive(tmp_path / "ark", "flac", seed=1) / "wav.scp"
    for scp, kind in (
        (plain, "sound"),
        (plain, "multi_columns_sound"),
        (archive, "kaldi_ark"),
    ):
        data = [(str(scp), "speech", kind)]
        ours, stock = unlabeled.TableDataset(data), ESPnetDataset(data)
        keys = list(stock.loader_dict["speech"])
        assert keys and list(ours.loader_dict["speech"]) == keys
        for key in keys:
            np.testing.assert_array_equal(
                ours[key][1]["speech"], stock[key][1]["speech"]
            )
        assert str(ours).partition("(")[2] == str(stock).partition("(")[2]


def test_nothing_of_a_table_is_read_twice(tmp_path, monkeypatch) -> None:
    scp = write_plain(tmp_path / "plain", 2, seed=1) / "wav.scp"
    data = [(str(scp), "speech", "sound")]
    first = unlabeled.TableDataset(data).loader_dict["speech"].loader.data
    assert unlabeled.TableDataset(data).loader_dict["speech"].loader.data is first
    os.utime(scp, ns=(1, 1))
    assert unlabeled.TableDataset(data).loader_dict["speech"].loader.data is not first


@pytest.mark.parametrize("kind", unlabeled.TYPES)
def test_shards_are_parts_of_the_file_one_after_the_other(kind, tmp_path) -> None:
    lengths = write_shape(tmp_path / "shape", 100)
    given = options(tmp_path / "shape", kind, unlabeled_shards=3)
    batches = unlabeled.build_batches(*given, lengths)
    how = HOW | dict(type=kind, batch_size=6)
    first = 0
    found = iter(batches)
    for shard, counts in enumerate(np.array_split(lengths.counts, 3)):
        wanted = unlabeled.form(counts, **how)
        assert batches.shards[shard] == len(wanted)
        for batch in wanted:
            assert next(found) == [first + row for row in batch]
        first += len(counts)
    assert next(found, None) is None


@pytest.mark.parametrize(
    "kind, shards, message",
    [
        ("folded", 10, "must be at most 9, the unlabeled utterances of a process"),
        ("catbel", 2, "does not go with batch_type: catbel"),
    ],
)
def test_shards_that_cannot_be_are_refused(kind, shards, message, tmp_path) -> None:
    lengths = write_shape(tmp_path / "shape", 9)
    with pytest.raises(UserError, match=f"unlabeled_shards: {message}"):
        given = options(tmp_path / "shape", kind, unlabeled_shards=shards)
        unlabeled.build_batches(*given, lengths)
