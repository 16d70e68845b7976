"""Audio that cannot be used must not end a run: silence in its place, counted.

A file that is gone, cannot be decoded, is empty, too short or holds samples that are
not finite becomes silence with the mark `usable` 0, which the model leaves out. Single
bad files are skipped so; a disk that went away stops the run (`UsableShare`). Labeled
audio is never replaced: there the same failures end the run with a clear message
(`StrictAudio`).
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.ranges import at_least, fraction, not_negative
from espnet_softpl.data.audio import READ_ERRORS, refuse_pickle

logger = logging.getLogger(__name__)


# Errors of the readers are caught around the reader alone, so that other mistakes
# (TypeError, KeyError for an utterance that is not in the script file, or anything in
# the preprocessing) still end the run.

# Longer silence (70 minutes at 16 kHz) is not made, whatever a header claims.
LONGEST_SILENCE = 2**26


Item = tuple[str, dict[str, np.ndarray]]


class _Unusable(Exception):
    """The audio of an utterance cannot be used; the message says why."""


def find_defect(
    audio: np.ndarray, min_samples: int, sample_shape: tuple[int, ...] | None = None
) -> str | None:
    """Say what makes audio unusable.

    Args:
        audio: (N,) samples, or (N, ...).
        min_samples: Fewest samples, at least 1.
        sample_shape: What must come after N; None allows everything.

    Returns:
        The reason, or None where there is none.
    """
    if len(audio) < min_samples:
        return f"{len(audio)} samples, where at least {min_samples} are needed"
    if sample_shape is not None and audio.shape[1:] != tuple(sample_shape):
        expected = ", ".join(("N", *map(str, sample_shape)))
        return f"shape {audio.shape}, where ({expected}) is expected"
    if not np.isfinite(audio).all():
        count = int((~np.isfinite(audio)).sum())
        return f"{count} of {audio.size} samples are not finite"
    return None


class _Reader(Mapping):
    """One of ESPnet's readers, whose failures say that it was the reader that failed.

    Args:
        reader: A mapping from utterance ids to audio.
        min_samples: Fewest samples, at least 1.
    """

    def __init__(self, reader: Mapping[str, Any], min_samples: int) -> None:
        self._reader = reader
        self._min_samples = min_samples
        # ESPnet's adapter of `sound` and `kaldi_ark` holds the reader itself; that of
        # kaldiio has the places in archives by utterance id.
        self._files = getattr(reader, "loader", reader)
        self._archived = getattr(self._files, "_dict", None)

    def __getitem__(self, uid: str) -> Any:
        try:
            if self._archived is not None:
                # kaldiio would load it, and so run what it says.
                refuse_pickle(self._archived[uid])
            audio = self._reader[uid]
        except READ_ERRORS as error:
            reason = " ".join(str(error).split())
            raise _Unusable(reason or type(error).__name__) from error
        # Here already: preprocessing may fail on what is empty or not finite.
        reason = find_defect(np.asarray(audio), self._min_samples)
        if reason is not None:
            raise _Unusable(reason)
        return audio

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader)

    def __len__(self) -> int:
        return len(self._reader)

    def path_of(self, uid: str) -> str | None:
        """Return the file of an utterance, where the reader tells."""
        get_path = getattr(self._files, "get_path", None)
        if get_path is not None:
            path = get_path(uid)
            return " ".join(path) if isinstance(path, list) else str(path)
        return str(self._archived[uid]) if uid in (self._archived or {}) else None


class CheckedAudio(Dataset):
    """ESPnet's dataset, with a look at the audio of every utterance.

    It stands in for `ESPnetDataset` in an iterator factory (`factory.dataset`), and
    can be sent to the processes of a loader.

    Args:
        dataset: An `ESPnetDataset`; its reader of the audio is wrapped in place.
        min_samples: Fewest samples that are usable, at least 1, before and after
            preprocessing.
        sample_shape: What must come after N in the shape of preprocessed audio: () for
            waveforms (N,), (C,) for C channels, (D,) for features; None allows
            everything.
        sample_rate: In Hz, of audio files: those of another rate are unusable. None
            takes the rate of the first file that a process reads, as ESPnet does.
        name: The audio's name in the dataset.

    Raises:
        ValueError: min_samples is out of its range, or the dataset has no such name.
    """

    def __init__(
        self,
        dataset: Any,
        min_samples: int = 1,
        sample_shape: tuple[int, ...] | None = None,
        sample_rate: int | None = None,
        name: str = "speech",
    ) -> None:
        self._min_samples = at_least("min_samples", min_samples, 1)
        if not dataset.has_name(name):
            raise ValueError(f"name must be one of {dataset.names()}, got {name!r}")
        reader = dataset.loader_dict[name]
        if sample_rate is not None and hasattr(reader, "rate"):
            reader.rate = at_least("sample_rate", sample_rate, 1)
        self._reader = _Reader(reader, min_samples)
        dataset.loader_dict[name] = self._reader
        self._dataset = dataset
        self._sample_shape = sample_shape
        self._name = name

    def has_name(self, name: str) -> bool:
        """Tell whether the dataset has data of this name."""
        return self._dataset.has_name(name)

    def names(self) -> tuple[str, ...]:
        """Return the names of the dataset's data."""
        return self._dataset.names()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the utterance ids."""
        return iter(self._dataset)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._dataset!r})"

    def _get(self, uid: str) -> Item:
        """Return an utterance.

        Raises:
            _Unusable: Its audio cannot be used.
        """
        uid, data = self._dataset[uid]
        reason = find_defect(data[self._name], self._min_samples, self._sample_shape)
        if reason is not None:
            raise _Unusable(reason)
        return uid, data

    def _where(self, uid: str) -> str:
        """Name the file of an utterance, or else the script file that lists it."""
        path, _ = self._dataset.debug_info[self._name]
        return self._reader.path_of(uid) or str(path)


class UsableAudio(CheckedAudio):
    """Unlabeled audio, with silence in the place of what cannot be used.

    Every utterance comes with `usable`, (1,), 1 or 0. What is replaced is named in the
    log with the reason, once in each process.

    Args:
        dataset: An `ESPnetDataset` of audio alone.
        expected_lengths: Samples by utterance id, as in the shape files: the length of
            the silence, which is at least `min_samples`.
        min_samples: See `CheckedAudio`; `smallest_input` finds it.
        sample_shape: See `CheckedAudio`.
        sample_rate: See `CheckedAudio`.
        name: See `CheckedAudio`.

    Raises:
        ValueError: min_samples is out of its range, or the dataset has no such name or
            other names too.
    """

    def __init__(
        self,
        dataset: Any,
        expected_lengths: Mapping[str, int],
        min_samples: int = 1,
        sample_shape: tuple[int, ...] = (),
        sample_rate: int | None = None,
        name: str = "speech",
    ) -> None:
        super().__init__(dataset, min_samples, sample_shape, sample_rate, name)
        if dataset.names() != (name,):
            # ESPnet's collate function wants the same names of each utterance.
            raise ValueError(f"only {name!r} can be replaced, got {dataset.names()}")
        self._expected_lengths = expected_lengths
        self._warned: set[str] = set()

    def __getitem__(self, uid: str) -> Item:
        """Return an utterance's id, and its audio and `usable` by name."""
        try:
            uid, data = self._get(uid)
        except _Unusable as reason:
            if uid not in self._warned:
                self._warned.add(uid)
                logger.warning(
                    "Unlabeled utterance %s is left out: %s: %s",
                    uid,
                    self._where(uid),
                    reason,
                )
            return uid, {self._name: self._silence(uid), "usable": np.array([0])}
        # Not into the dictionary itself, which ESPnet may have in its cache.
        return uid, {**data, "usable": np.array([1])}

    def _silence(self, uid: str) -> np.ndarray:
        length = self._expected_lengths[uid]
        if length > LONGEST_SILENCE:
            length = 0
        shape = (max(length, self._min_samples), *self._sample_shape)
        return np.zeros(shape, dtype=self._dataset.float_dtype)


class StrictAudio(CheckedAudio):
    """Labeled audio: what cannot be used ends the run, and the message says why.

    The message is one line, the last one of what a loader's process passes on.

    Args:
        dataset: An `ESPnetDataset`.
        what: What it holds, for the message.
        min_samples: See `CheckedAudio`.
        sample_shape: See `CheckedAudio`.
        sample_rate: See `CheckedAudio`.
        name: See `CheckedAudio`.

    Raises:
        ValueError: min_samples is out of its range, or the dataset has no such name.
    """

    def __init__(
        self,
        dataset: Any,
        what: str = "labeled",
        min_samples: int = 1,
        sample_shape: tuple[int, ...] | None = None,
        sample_rate: int | None = None,
        name: str = "speech",
    ) -> None:
        super().__init__(dataset, min_samples, sample_shape, sample_rate, name)
        self._what = what

    def __getitem__(self, uid: str) -> Item:
        """Return an utterance as ESPnet's dataset does.

        Raises:
            UserError: Its audio cannot be used.
        """
        try:
            return self._get(uid)
        except _Unusable as reason:
            raise UserError(
                f"{self._what} utterance {uid}: {self._where(uid)}: {reason}"
            ) from reason


class UsableShare:
    """Counts unlabeled utterances, and stops the run when too many are unusable.

    The share among the latest utterances varies by chance. So that a set of which
    the allowed share is bad does not stop a long run sooner or later, it must exceed
    what is allowed by `margin` standard deviations of such a count (ours): with 1 % of
    1000 utterances allowed, 26 stop the run.

    Args:
        most: Largest share that may be unusable, in [0, 1] (`pl_max_bad_share`).
        window: Latest utterances that are looked at, at least 1.
        least: Fewest utterances before the share is judged, at least 1.
        margin: Standard deviations of tolerance, at least 0.

    Raises:
        ValueError: A value out of its range.

    Attributes:
        seen: Utterances counted so far.
        total: Those among them that were unusable.
    """

    SHOWN = 5  # Unusable utterances that the message names.

    def __init__(
        self, most: float, window: int = 1000, least: int = 50, margin: float = 5.0
    ) -> None:
        self._most = fraction("most", most)
        self._least = at_least("least", least, 1)
        self._margin = not_negative("margin", margin)
        self._recent: collections.deque[bool] = collections.deque(
            maxlen=at_least("window", window, 1)
        )
        self._last: collections.deque[str] = collections.deque(maxlen=self.SHOWN)
        self.seen = 0
        self.total = 0

    def count(self, utterance_ids: Sequence[str], usable: torch.Tensor) -> None:
        """Count the utterances of a mini-batch.

        Args:
            utterance_ids: B ids.
            usable: Not 0 where the audio is usable, (B,) or (B, 1).

        Raises:
            UserError: Too many of the latest utterances are unusable.
        """
        marks = usable.reshape(-1).tolist()
        for uid, mark in zip(utterance_ids, marks, strict=True):
            self._recent.append(not mark)
            if not mark:
                self._last.append(uid)
                self.total += 1
        self.seen += len(marks)
        self._judge()

    def _judge(self) -> None:
        """Raise UserError where the share is too large."""
        looked_at, bad = len(self._recent), sum(self._recent)
        deviation = (looked_at * self._most * (1.0 - self._most)) ** 0.5
        allowed = looked_at * self._most + self._margin * deviation
        # Before `window` utterances are seen, `least` of them must be; a smaller
        # window is judged when it is full.
        if looked_at < min(self._least, self._recent.maxlen or 1) or bad <= allowed:
            return
        raise UserError(
            f"{bad} of the last {looked_at} unlabeled utterances "
            f"({bad / looked_at:.1%}) cannot be used; at most {self._most:.1%} may "
            f"(pl_max_bad_share). The last of them: {', '.join(self._last)}. Is the "
            f"disk with the audio still there? The log names each file and the reason."
        )


def smallest_input(
    count_frames: Callable[[int], int], most: int, frames: int = 1
) -> int:
    """Find the smallest number of samples of which a model makes enough frames.

    By bisection, in some log2(most) calls. It is taken for granted that more samples
    never give fewer frames, nor fail where fewer do not.

    Args:
        count_frames: Frames for a number of samples, such as
            `lambda samples: frames_of(model, samples)`; it may raise anything where
            there are too few.
        most: Samples that are surely enough, at least 1.
        frames: Frames that are needed, at least 1. With a single frame, batch norm
            fails in training where a mini-batch is that one utterance; with 2 it does
            not.

    Returns:
        A number of samples in [1, most].

    Raises:
        ValueError: `most` samples give fewer frames, or a value is out of its range.
            What count_frames raises for `most` samples is passed on.
    """
    low, high = 0, at_least("most", most, 1)  # Too few, and enough.
    found = count_frames(high)
    if found < at_least("frames", frames, 1):
        raise ValueError(f"{most} samples give {found} frames, {frames} are needed")
    while high - low > 1:
        middle = (low + high) // 2
        try:
            enough = count_frames(middle) >= frames
        except Exception:  # ESPnet's own classes among them; `most` samples raise none.
            enough = False
        low, high = (low, middle) if enough else (middle, high)
    return high
