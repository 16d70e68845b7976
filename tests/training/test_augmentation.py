"""Augmentation in ESPnet's loader: the student hears it, the teacher does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from espnet2.layers.augmentation import effects_dict

from espnet_softpl.core.errors import UserError
from espnet_softpl.data.usable_audio import CleanAndAugmented
from espnet_softpl.teacher.generator import PseudoLabelGenerator
from espnet_softpl.training import inputs
from espnet_softpl.training.engine import PseudoLabeling
from espnet_softpl.training.inputs import MOVING_EFFECTS
from espnet_softpl.training.model import SoftPLModel
from espnet_softpl.training.task import SoftPLTask
from tests.support.espnet_runs import PL, RATE, Data, config, make_data, train


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    root = tmp_path_factory.mktemp("data")
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE)
    soundfile.write(root / "noise.wav", noise, RATE)
    soundfile.write(root / "rir.wav", np.array([1.0, 0.0, 0.5, 0.2]), RATE)
    for name in ("noise", "rir"):
        (root / f"{name}.scp").write_text(f"{name} {root / name}.wav\n")
    return make_data(root)


# What effects of ESPnet need to be told.
SETTINGS = {
    "bandwidth_limitation": {"res_type": "scipy"},
    "equalization": {"gain": -6.0},
    "pitch_shift": {"n_steps": 12},  # Of others resampling is slow.
    "speed_perturb": {"factor": 0.9},
    "time_stretch": {"factor": 0.9},
}
KEEPING = sorted(effects_dict.keys() - {*MOVING_EFFECTS})


def effect(name: str) -> dict:
    listed = [[1.0, name, SETTINGS.get(name, {})]]
    conf = {"fs": RATE, "data_aug_effects": listed}
    return {"preprocessor_conf": {**conf, "data_aug_prob": 1.0}}


NOISE = {"noise_scp": "noise.scp", "noise_db_range": "3_10"}
RIR = {"rir_scp": "rir.scp"}
slow = pytest.mark.slow


@pytest.mark.parametrize(
    "keys",
    [
        NOISE,
        pytest.param({**RIR, **NOISE, "rir_apply_prob": 0.5}, marks=slow),
        pytest.param({**NOISE, "noise_apply_prob": 0.5}, marks=slow),
        pytest.param({**NOISE, "speech_volume_normalize": 0.5}, marks=slow),
        *(pytest.param(effect(name), marks=slow) for name in KEEPING),
    ],
    ids=lambda keys: "+".join(map(str, keys)),
)
def test_the_teacher_hears_clean_audio(data, tmp_path, monkeypatch, keys) -> None:
    keys = {k: str(data.root / v) if "scp" in k else v for k, v in keys.items()}
    heard, taught, batches = [], [], []
    step, run = PseudoLabeling.step, PseudoLabelGenerator.run
    outputs = SoftPLModel.ctc_outputs

    def see_step(self, student, batch, insertions, number):
        batches.append(batch)
        return step(self, student, batch, insertions, number)

    def see_run(self, student, speech, *more, **named):
        taught.append(speech)
        return run(self, student, speech, *more, **named)

    def see_outputs(self, speech, *more, **named):
        if self.training:
            heard.append(speech)
        return outputs(self, speech, *more, **named)

    monkeypatch.setattr(PseudoLabeling, "step", see_step)
    monkeypatch.setattr(PseudoLabelGenerator, "run", see_run)
    monkeypatch.setattr(SoftPLModel, "ctc_outputs", see_outputs)
    settings = dict(PL, max_epoch=1, **keys)
    train(SoftPLTask, config(**data.options(), **settings), tmp_path / "exp")
    assert len(batches) == len(heard) == len(taught) == 2
    for batch, clean, augmented in zip(batches, taught, heard):
        assert bool(batch.usable.all())
        assert clean.shape == augmented.shape
        for uid, audio, length in zip(batch.utt_id, clean, batch.speech_lengths):
            file, _ = soundfile.read(data.path("unlabeled", f"{uid}.wav"))
            scale = keys.get("speech_volume_normalize", np.abs(file).max())
            wanted = torch.from_numpy(file * scale / np.abs(file).max())
            torch.testing.assert_close(audio[:length], wanted.float())
    assert any(float((a - b).abs().max()) > 1e-3 for a, b in zip(taught, heard))


@pytest.mark.parametrize("name", sorted(effects_dict))
def test_every_effect_keeps_time_or_is_refused(data, name) -> None:
    """A burst of noise stays where it is, unless the effect is one that is refused."""
    options = [word for k, v in effect(name).items() for word in (f"--{k}", str(v))]
    parser = SoftPLTask.get_parser()
    args = parser.parse_args(["--output_dir", "unused", *options])
    args.token_list, args.token_type = data.options()["token_list"], "char"
    clean, augmented = (SoftPLTask.build_preprocess_fn(args, t) for t in (False, True))
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    inside = np.abs(np.arange(RATE) - RATE // 4) < RATE // 20
    audio = 0.9 * np.where(inside, noise, 0.0).astype(np.float32) / np.abs(noise).max()

    def center(signal: np.ndarray) -> float:
        """Return where the energy is, in seconds."""
        power = np.square(signal, dtype=np.float64)
        return float((power * np.arange(power.size)).sum() / power.sum() / RATE)

    if name in MOVING_EFFECTS:
        with pytest.raises(UserError, match=f"{name} moves the student's frames"):
            inputs.check_augmentation(args)
        moved = np.asarray(augmented("utt", {"speech": audio.copy()})["speech"])
        assert abs(center(moved) - center(audio)) > 0.02
        return
    inputs.check_augmentation(args)
    both = CleanAndAugmented(clean, augmented)("utt", {"speech": audio.copy()})
    assert np.array_equal(both["speech"], audio)
    heard = both["speech_aug"]
    assert heard.shape == audio.shape and np.isfinite(heard).all()
    assert np.abs(heard - audio).max() > 1e-3
    assert abs(center(heard) - center(audio)) < 0.015


def test_without_augmentation_there_is_one_audio(data, tmp_path, monkeypatch) -> None:
    batches = []
    step = PseudoLabeling.step

    def see(self, student, batch, *more):
        batches.append(batch)
        return step(self, student, batch, *more)

    monkeypatch.setattr(PseudoLabeling, "step", see)
    settings = dict(PL, max_epoch=1, num_iters_per_epoch=2)
    train(SoftPLTask, config(**data.options(), **settings), tmp_path / "exp")
    assert [batch.augmented for batch in batches] == [None]


@pytest.mark.parametrize(
    "keys, message",
    [
        (effect("speed_perturb"), "speed_perturb moves the student's"),
        (effect("time_stretch"), "time_stretch moves the student's"),
        (effect("reverse"), "reverse moves the student's frames"),
        ({"preprocessor_conf": {"min_sample_size": 9}}, "min_sample_size: lengthens"),
        ({**NOISE, **effect("lowpass")}, "cannot apply them together"),
        ({**NOISE, "input_size": 20}, "noise_scp: changes waveforms"),
    ],
    ids=["speed", "stretch", "reverse", "min", "both", "features"],
)
def test_augmentation_that_no_label_fits_is_refused(
    data: Data, tmp_path: Path, keys, message, capsys
) -> None:
    with pytest.raises(SystemExit) as end:
        train(SoftPLTask, config(**data.options(), **PL, **keys), tmp_path / "exp")
    assert end.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
