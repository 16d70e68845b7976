"""Audio that cannot be used: silence in its place, and an end if there is too much."""

from __future__ import annotations

import bisect
import collections
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.ranges import at_least, fraction
from espnet_softpl.data.audio import READ_ERRORS, refuse_pickle, refuse_special
from espnet_softpl.data.scan import LOUDEST, find_defect

logger = logging.getLogger(__name__)

# Longer silence (70 minutes at 16 kHz) is not made, whatever a header claims.
LONGEST_SILENCE = 2**26
Item = tuple[str, dict[str, np.ndarray]]


class _Unusable(Exception):
    """The audio of an utterance cannot be used; the message says why."""


class _Reader:
    """One of ESPnet's readers; `READ_ERRORS` are caught around it alone.

    So other mistakes (an unknown utterance, anything in the preprocessing) end the run.
    """

    def __init__(self, reader: Mapping[str, Any], min_samples: int) -> None:
        self._reader, self._min_samples = reader, min_samples
        # ESPnet's adapter of `sound` and `kaldi_ark` holds the reader itself; that of
        # kaldiio has the places in archives by utterance id.
        self._files = getattr(reader, "loader", reader)
        self._archived = getattr(self._files, "_dict", None)
        # WAV in Kaldi's archives comes as whole numbers, and features have any level.
        self._loudest = LOUDEST if hasattr(self._files, "get_path") else math.inf

    def __getitem__(self, uid: str) -> Any:
        try:
            # kaldiio would load a pickle, and so run what it says.
            refuse = refuse_special if self._archived is None else refuse_pickle
            for file in self.files_of(uid):
                refuse(file)
            audio = self._reader[uid]
        except READ_ERRORS as error:
            reason = " ".join(str(error).split())
            raise _Unusable(reason or type(error).__name__) from error
        # Here already: preprocessing may fail on what is empty or not finite.
        array = np.asarray(audio)
        if reason := find_defect(array, self._min_samples, loudest=self._loudest):
            raise _Unusable(reason)
        return audio

    def files_of(self, uid: str) -> list[str]:
        """Return the files of an utterance, or its place in an archive, if it tells."""
        if not hasattr(self._files, "get_path"):
            return [] if self._archived is None else [self._archived[uid]]
        path = self._files.get_path(uid)
        return path if isinstance(path, list) else [str(path)]


class CleanAndAugmented:
    """Unlabeled audio, clean, and augmented of the same length as `speech_aug`."""

    def __init__(
        self, clean: Callable[..., dict], augmented: Callable[..., dict]
    ) -> None:
        self._clean, self._augmented = clean, augmented

    def __call__(self, uid: str, data: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return the clean data, and the augmented audio of the same shape."""
        clean = self._clean(uid, dict(data))
        audio = clean["speech"]
        if audio.ndim != 1:  # It cannot be used, and will be refused for it.
            return {**clean, "speech_aug": audio}
        # ESPnet's may change the array in place, and give one channel back as (N, 1).
        changed = self._augmented(uid, {**data, "speech": data["speech"].copy()})
        heard = np.asarray(changed["speech"])
        heard = heard[:, 0] if heard.shape == (audio.size, 1) else heard
        if heard.shape != audio.shape:
            raise UserError(
                f"preprocessor_conf: the augmentation makes {heard.shape} samples of "
                f"the {audio.size} of the unlabeled utterance {uid}. Labels are made "
                f"from the clean audio, so it must keep the length"
            )
        return {**clean, "speech_aug": heard}


class CheckedAudio(Dataset):
    """An `ESPnetDataset` that looks at the audio (`speech`) of every utterance.

    Args:
        dataset: An `ESPnetDataset`; its reader of the audio is wrapped in place.
        min_samples: Fewest usable samples, at least 1, before and after preprocessing.
        sample_shape: What must follow N in the shape of preprocessed audio: () for
            waveforms (N,), (C,) for C channels, (D,) for features; None allows all.
        sample_rate: In Hz, of audio files; None for that of the first one read.
    """

    def __init__(
        self,
        dataset: Any,
        min_samples: int = 1,
        sample_shape: tuple[int, ...] | None = None,
        sample_rate: int | None = None,
    ) -> None:
        reader = dataset.loader_dict["speech"]
        if sample_rate is not None and hasattr(reader, "rate"):
            reader.rate = at_least("sample_rate", sample_rate, 1)
        self._min_samples = at_least("min_samples", min_samples, 1)
        self._sample_shape = sample_shape
        self._reader = dataset.loader_dict["speech"] = _Reader(reader, min_samples)
        self._dataset = dataset
        is_augmented = isinstance(dataset.preprocess, CleanAndAugmented)
        self._names = ("speech", "speech_aug") if is_augmented else ("speech",)

    def _get(self, uid: str) -> tuple[dict[str, np.ndarray], str]:
        """Return an utterance's data, and file and defect if it cannot be used."""
        try:
            _, data = self._dataset[uid]
            shape = self._sample_shape
            audios = (data[name] for name in self._names)
            defects = (find_defect(a, self._min_samples, shape) for a in audios)
            defect = next(filter(None, defects), "")
        except _Unusable as error:
            data, defect = {}, str(error)
        if not defect:
            return data, ""
        # If the reader names no file: the script file that lists it.
        files = self._reader.files_of(uid) or self._dataset.debug_info["speech"][:1]
        return data, f"{' '.join(files)}: {defect}"


class UsableAudio(CheckedAudio):
    """Unlabeled audio, with silence in the place of what cannot be used.

    Every utterance comes with `usable`, (1,), 1 or 0. What is replaced is named in the
    log with the reason, once in each process.

    `dataset` has `speech` alone, and the silence the length in `expected_lengths`, by
    utterance id, or `min_samples`. Of `Lengths`, utterances may be asked for by row.
    """

    def __init__(
        self,
        dataset: Any,
        expected_lengths: Mapping[str, int],
        min_samples: int = 1,
        sample_shape: tuple[int, ...] = (),
        sample_rate: int | None = None,
    ) -> None:
        if dataset.names() != ("speech",):
            # ESPnet's collate function wants the same names of each utterance.
            raise ValueError(f"only 'speech' can be replaced, got {dataset.names()}")
        super().__init__(dataset, min_samples, sample_shape, sample_rate)
        self._expected_lengths = expected_lengths
        self._warned: set[str] = set()

    def __getitem__(self, uid: str | int) -> Item:
        """Return an utterance's id, and its audio (both) and `usable` by name."""
        if isinstance(uid, int):
            uid = self._expected_lengths.id_at(uid)
        data, reason = self._get(uid)
        if not reason:
            # Not into the dictionary itself, which ESPnet may have in its cache.
            return uid, {**data, "usable": np.array([1])}
        if uid not in self._warned:
            self._warned.add(uid)
            logger.warning("Unlabeled utterance %s is left out: %s", uid, reason)
        length = self._expected_lengths[uid]
        length = length if length <= LONGEST_SILENCE else 0
        shape = (max(length, self._min_samples), *self._sample_shape)
        silence = np.zeros(shape, dtype=self._dataset.float_dtype)
        return uid, {**dict.fromkeys(self._names, silence), "usable": np.array([0])}


class StrictAudio(CheckedAudio):
    """Labeled audio: what is unusable, or of a second shape, ends the run."""

    def __getitem__(self, uid: str) -> Item:
        """Return an utterance as ESPnet's dataset does; UserError if it is unusable."""
        data, reason = self._get(uid)
        if reason:
            raise UserError(f"labeled utterance {uid}: {reason}")
        if self._sample_shape is None:
            self._sample_shape = data["speech"].shape[1:]
        return uid, data


class UsableShare:
    """Counts unlabeled utterances, and stops the run when too many are unusable.

    The share among the latest utterances varies by chance. So that a set of which
    the share `most` (`pl_max_bad_share`) is bad does not stop a long run sooner or
    later, it must exceed that by `MARGIN` standard deviations of such a count (our
    rule): with 1 % of 1000 utterances allowed, 26 stop the run.
    """

    WINDOW = 1000  # Latest utterances that are looked at.
    LEAST = 50  # Fewest utterances before the share is judged.
    MARGIN = 5.0  # Standard deviations of tolerance.

    def __init__(self, most: float) -> None:
        self._most = fraction("most", most)
        self._recent: collections.deque[bool] = collections.deque(maxlen=self.WINDOW)
        self._last: collections.deque[str] = collections.deque(maxlen=5)

    def count(self, utterance_ids: Sequence[str], usable: torch.Tensor) -> None:
        """Count a mini-batch, `usable` (B,) or (B, 1); UserError if too few are."""
        bad = (usable.reshape(-1) == 0).tolist()
        marks = zip(utterance_ids, bad, strict=True)
        self._last += [uid for uid, is_bad in marks if is_bad]
        self._recent += bad
        looked_at, unusable = len(self._recent), sum(self._recent)
        deviation = (looked_at * self._most * (1.0 - self._most)) ** 0.5
        allowed = looked_at * self._most + self.MARGIN * deviation
        if looked_at >= self.LEAST and unusable > allowed:
            raise UserError(
                f"{unusable} of the last {looked_at} unlabeled utterances "
                f"({unusable / looked_at:.1%}) cannot be used; at most "
                f"{self._most:.1%} may (pl_max_bad_share). The last of them: "
                f"{', '.join(self._last)}. Is the disk with the audio still there? The "
                f"log names each file and the reason."
            )


def smallest_input(
    count_frames: Callable[[int], int], most: int, frames: int = 1
) -> int:
    """Find by bisection the fewest samples, up to `most`, with enough frames."""
    if (found := count_frames(most)) < frames:
        raise ValueError(f"{most} samples give {found} frames, {frames} are needed")

    def enough(samples: int) -> bool:
        try:
            return count_frames(samples) >= frames
        except Exception:  # ESPnet's own classes among them; `most` samples raise none.
            return False

    return 1 + bisect.bisect_left(range(1, most), True, key=enough)
