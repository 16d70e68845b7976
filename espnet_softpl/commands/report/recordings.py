"""The audio of label samples: where it lies, how long it is, and as a data URI."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import soundfile

from espnet_softpl.commands.experiment import Experiment
from espnet_softpl.data.audio import open_audio, read_header
from espnet_softpl.data.scan import speech_scp

OPTION = "unlabeled_data_path_and_name_and_type"


class Recording(NamedTuple):
    """An utterance's entry in a table of audio."""

    entry: str
    kind: str  # One of `data.audio.AUDIO_KINDS`.
    seconds: float

    def embed(self) -> str:
        """Return the audio, its channels mixed, as a data URI of 16-bit FLAC."""
        with open_audio(self.entry, self.kind) as files:
            rate = files[0].samplerate
            parts = [file.read(dtype="float32", always_2d=True) for file in files]
        stream = io.BytesIO()
        audio = np.concatenate(parts, axis=1).mean(axis=1)
        soundfile.write(stream, audio, rate, format="FLAC", subtype="PCM_16")
        return "data:audio/flac;base64," + base64.b64encode(stream.getvalue()).decode()


def find_recordings(
    experiment: Experiment, utterances: Collection[str]
) -> dict[str, Recording]:
    """Find the audio of utterances among the unlabeled data; features are left out.

    Raises:
        UserError: The table of the audio is missing or malformed.
        OSError, ValueError, ...: An entry cannot be read; see `data.audio.READ_ERRORS`.
    """
    specs = [
        (str(experiment.find(path) or path), *rest)
        for path, *rest in experiment.config.get(OPTION) or ()
    ]
    if not (utterances and specs):
        return {}
    entries, kind = speech_scp(specs, OPTION)
    found = {}
    for key in sorted(entries.keys() & utterances):
        place = experiment.find(entries[key]) if kind == "sound" else None
        entry = str(place or entries[key])
        header = read_header(entry, kind)
        if header.rate:
            found[key] = Recording(entry, kind, header.length / header.rate)
    return found
