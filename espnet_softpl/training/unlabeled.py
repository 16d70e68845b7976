"""Mini-batches and data set of unlabeled audio, ESPnet's own, but made of arrays."""

from __future__ import annotations

import argparse
import bisect
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from espnet2.samplers.build_batch_sampler import build_batch_sampler
from espnet2.tasks.abs_task import IteratorOptions
from espnet2.train.dataset import ESPnetDataset

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.processes import rank_and_world
from espnet_softpl.data.audio import AUDIO_KINDS
from espnet_softpl.data.tables import Lengths, kept_table

logger = logging.getLogger(__name__)

# What `form` forms.
TYPES = ("unsorted", "sorted", "folded", "length", "numel")


class Rows(Sequence):
    """Mini-batches as rows of the shape file, shared out between processes.

    `rows`, (N,), are those of one mini-batch after the other, which begin and end at
    `begins` and `ends`, (M,). With a `step` of -1 each is taken backwards. `shards` are
    the mini-batches of each shard, one after the other, M in all.
    """

    def __init__(
        self,
        rows: np.ndarray,
        begins: np.ndarray,
        ends: np.ndarray,
        step: int = 1,
        shards: Sequence[int] = (),
    ) -> None:
        self._rows, self._begins, self._ends = rows.astype(np.int32), begins, ends
        self._step, self.shards = step, shards or (len(begins),)
        self._rank, self._world = rank_and_world()
        sizes = ends - begins
        if sizes.min() < self._world:
            raise RuntimeError(
                f"The batch-size must be equal or more than world_size: "
                f"{sizes.min()} < {self._world}"
            )

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Join shards, each with rows of its own, counted from 0."""
        starts = np.cumsum([0, *(len(part._rows) for part in parts)])
        arrays = zip(*((p._rows, p._begins, p._ends) for p in parts))
        moved = [
            np.concatenate([array + start for array, start in zip(each, starts)])
            for each in arrays
        ]
        return cls(*moved, parts[0]._step, [len(part) for part in parts])

    def __getitem__(self, number: int) -> list[int]:
        """Return this process's share of a mini-batch."""
        rows = self._rows[self._begins[number] : self._ends[number]]
        return rows[:: self._step][self._rank :: self._world].tolist()

    def __len__(self) -> int:
        """Return the number of mini-batches."""
        return len(self._begins)


def form(
    lengths: np.ndarray,
    type: str,
    batch_size: int,
    batch_bins: int,
    fold_lengths: Sequence[int],
    sort_in_batch: str,
    sort_batch: str,
    drop_last: bool,
    min_batch_size: int,
) -> Rows:
    """Form the mini-batches that ESPnet's sampler forms of one shape file.

    `lengths`, (N,), are by row, N at least 1; `type` is one of `TYPES`. The others are
    those of ESPnet's `build_batch_sampler`, and not of all types.
    """
    is_descending = type == "sorted" and sort_in_batch == "descending"
    rows = np.argsort(-lengths if is_descending else lengths, kind="stable")
    if type in ("unsorted", "sorted"):
        rows = np.arange(len(lengths)) if type == "unsorted" else rows
        number = np.arange(max(len(lengths) // batch_size, 1) + 1)
        # As evenly as possible, or cut off.
        bounds = number * len(lengths) // number[-1]
        if drop_last:
            bounds = np.minimum(number * batch_size, len(lengths))
        step, is_turned = 1, type == "sorted" and sort_in_batch != sort_batch
    else:
        if type == "folded":
            sizes = _folded(lengths[rows], batch_size, fold_lengths[0], min_batch_size)
        else:
            sizes = _filled(lengths[rows], batch_bins, min_batch_size, drop_last)
        bounds = np.concatenate(([0], np.cumsum(sizes)))
        step = -1 if sort_in_batch == "descending" else 1
        is_turned = sort_batch == "descending"
    turn = slice(None, None, -1 if is_turned else 1)
    return Rows(rows, bounds[:-1][turn], bounds[1:][turn], step)


def _folded(lengths: np.ndarray, most: int, fold: int, fewest: int) -> list[int]:
    """Return sizes that fall with each `fold` of length; lengths ascend."""
    sizes: list[int] = []
    start = 0
    while start < len(lengths):
        size = max(fewest, 1, int(most / (1 + int(int(lengths[start]) / fold))))
        sizes.append(min(size, len(lengths) - start))
        start += size
    return _share_out_last(sizes, fewest, 2)


def _filled(lengths: np.ndarray, bins: int, fewest: int, drop_last: bool) -> list[int]:
    """Return sizes up to the first utterance with which one is above `bins`, padded."""
    sizes: list[int] = []
    start, least = 0, max(fewest, 1)

    def padded(end: int) -> int:
        return (end - start) * int(lengths[end - 1])

    while start < len(lengths):
        ends = range(start + least, len(lengths) + 1)
        size = least + bisect.bisect_right(ends, bins, key=padded)
        if start + size > len(lengths):
            if drop_last and sizes:
                break
            size = len(lengths) - start
        sizes.append(size)
        start += size
    return _share_out_last(sizes, fewest, 1)


def _share_out_last(sizes: list[int], fewest: int, first: int) -> list[int]:
    """Give the utterances of a small last mini-batch to others, from the end on."""
    if len(sizes) > 1 and sizes[-1] < fewest:
        for number in range(sizes.pop()):
            sizes[-(number % len(sizes) + first) % len(sizes)] += 1
    return sizes


class TableDataset(ESPnetDataset):
    """ESPnet's data set, its files of audio in a `Table`."""

    def _build_loader(self, path: str, loader_type: str, *keys_to_load: Any) -> Mapping:
        # ESPnet 202412 has no `keys_to_load`.
        if loader_type not in AUDIO_KINDS:
            return super()._build_loader(path, loader_type, *keys_to_load)
        loader = super()._build_loader(os.devnull, loader_type, *keys_to_load)
        table = kept_table(path)
        if loader_type == "kaldi_ark":
            loader.loader._dict = table
        else:
            is_sound = loader_type == "sound"
            loader.loader.data = table if is_sound else _Columns(table)
        return loader


class _Columns(Mapping):
    """Lists of files by utterance, one a channel."""

    def __init__(self, table: Mapping[str, str]) -> None:
        self._table = table

    def __getitem__(self, key: str) -> list[str]:
        return self._table[key].split()

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


def build_batches(
    args: argparse.Namespace, options: IteratorOptions, lengths: Lengths
) -> Rows:
    """Form the mini-batches of the one shape file, `lengths`, of an iterator's options.

    RuntimeError if there is nothing in it, or a mini-batch has less than one utterance
    for each process; ValueError if the type of mini-batches is none for sequences;
    UserError if it cannot be divided into `unlabeled_shards`.
    """
    if not lengths:
        raise RuntimeError(f"0 lines found: {options.shape_files[0]}")
    how = dict(
        type=options.batch_type,
        batch_size=options.batch_size,
        batch_bins=options.batch_bins,
        fold_lengths=args.fold_length[:1],
        sort_in_batch=args.sort_in_batch,
        sort_batch=args.sort_batch,
        drop_last=args.drop_last_iter,
        min_batch_size=getattr(args, "min_batch_size", 1),  # ESPnet 202412 has none.
    )
    if options.distributed:
        how["min_batch_size"] = rank_and_world()[1]
    data = options.data_path_and_name_and_type
    categories = Path(data[0][0]).parent / "utt2category"
    by_category = options.batch_type == "folded" and categories.exists()
    num_shards = args.unlabeled_shards or 1
    _check_shards(num_shards, len(lengths), options, by_category)
    if options.batch_type in TYPES and not by_category:
        parts = np.array_split(lengths.counts, num_shards)
        shards = [form(part, **how) for part in parts]
        return _announced(shards[0] if num_shards == 1 else Rows.joined(shards))
    # ESPnet's own, in memory as much as of strings.
    file = str(categories) if by_category else None
    sampler = build_batch_sampler(
        shape_files=options.shape_files, utt2category_file=file, **how
    )
    rows = [[lengths.row_of(key) for key in batch] for batch in sampler]
    ends = np.cumsum([len(batch) for batch in rows])
    begins = np.concatenate(([0], ends[:-1]))
    return _announced(Rows(np.concatenate(rows), begins, ends))


def _check_shards(
    num_shards: int, utterances: int, options: IteratorOptions, by_category: bool
) -> None:
    fewest = rank_and_world()[1] if options.distributed else 1
    if num_shards == 1:
        return
    why = ""
    if num_shards > (most := utterances // fewest):
        why = f"must be at most {most}, the unlabeled utterances of a process"
    elif by_category or options.batch_type not in TYPES:
        how = "utt2category" if by_category else f"batch_type: {options.batch_type}"
        why = f"does not go with {how}, which looks at all utterances at once"
    if why:
        raise UserError(f"unlabeled_shards: {why}; got {num_shards}")


def _announced(batches: Rows) -> Rows:
    """Log how large mini-batches are, as ESPnet does."""
    sizes = batches._ends - batches._begins
    logger.info(
        "[unlabeled] mini-batch sizes summary: N-batch=%d, mean=%.1f, min=%d, max=%d",
        *(len(sizes), sizes.mean(), sizes.min(), sizes.max()),
    )
    return batches
