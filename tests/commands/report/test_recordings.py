"""The audio of label samples."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_softpl.commands.experiment import Experiment
from espnet_softpl.commands.report.recordings import OPTION, find_recordings
from espnet_softpl.core.errors import UserError
from espnet_softpl.data.audio import READ_ERRORS


def test_audio_is_found_beside_the_recipe_and_embedded(tmp_path: Path) -> None:
    exp = tmp_path / "exp" / "one"
    exp.mkdir(parents=True)
    audio = np.stack([np.full(4000, 0.5), np.zeros(4000)], axis=1)
    soundfile.write(tmp_path / "a.wav", audio, 8000)
    scp = tmp_path / "wav.scp"
    scp.write_text("a a.wav\nb gone.wav\n")
    experiment = Experiment(exp, {OPTION: [["wav.scp", "speech", "sound"]]})
    (found,) = find_recordings(experiment, {"a", "unknown"}).values()
    assert found.seconds == 0.5
    head, data = found.embed().split(",")
    mixed, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert head == "data:audio/flac;base64" and rate == 8000
    assert mixed.shape == (4000,) and np.allclose(mixed, 0.25, atol=1e-4)
    with pytest.raises(READ_ERRORS):
        find_recordings(experiment, {"b"})
    scp.unlink()
    with pytest.raises((UserError, OSError)):
        find_recordings(experiment, {"a"})
    assert find_recordings(Experiment(exp, {}), {"a"}) == {}
    assert find_recordings(experiment, set()) == {}
