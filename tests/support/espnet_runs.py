"""Tiny data and tiny models, trained by the real ESPnet trainer in this process."""

from __future__ import annotations

import dataclasses
import logging
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml

from espnet_softpl.cache.store import LabelStore

TOKENS = ["<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>"]
RATE = 16000


@dataclasses.dataclass(frozen=True)
class Data:
    """Where a tiny corpus lies; each letter is a tone, so that it can be learned."""

    root: Path

    def path(self, part: str, name: str) -> str:
        """Name a file of a part, e.g. `path("labeled", "wav.scp")`."""
        return str(self.root / part / name)

    def options(self, unlabeled: bool = True) -> dict[str, Any]:
        """Return the data options of a training."""
        options: dict[str, Any] = {"token_list": str(self.root / "tokens.txt")}
        for part, ours in (("train", "labeled"), ("valid", "dev")):
            options[f"{part}_data_path_and_name_and_type"] = [
                [self.path(ours, "wav.scp"), "speech", "sound"],
                [self.path(ours, "text"), "text", "text"],
            ]
            options[f"{part}_shape_file"] = [
                self.path(ours, "speech_shape"),
                self.path(ours, "text_shape"),
            ]
        if unlabeled:
            options["unlabeled_data_path_and_name_and_type"] = [
                [self.path("unlabeled", "wav.scp"), "speech", "sound"]
            ]
            options["unlabeled_oracle_text"] = self.path("unlabeled", "text.oracle")
        return options


def write_part(
    root: Path, part: str, count: int, rng: np.random.Generator, length: int | None
) -> None:
    """Write one part of the corpus: tones for letters, silence for spaces."""
    directory = root / part
    directory.mkdir(parents=True)
    files = {name: [] for name in ("wav.scp", "text", "speech_shape", "text_shape")}
    for index in range(count):
        size = int(rng.integers(4, 8)) if length is None else length
        letters = "".join(rng.choice(list("ABC " if length is None else "ABC"), size))
        text = letters.replace(" ", "A", 1).strip() or "A"
        seconds = np.arange(int(0.12 * RATE)) / RATE
        tones = {"A": 300.0, "B": 900.0, "C": 2200.0, " ": 0.0}
        audio = np.concatenate([np.sin(2 * np.pi * tones[c] * seconds) for c in text])
        audio = 0.3 * audio + 0.01 * rng.standard_normal(audio.size)
        key = f"{part}-{index:03d}"
        soundfile.write(directory / f"{key}.wav", audio, RATE)
        files["wav.scp"].append(f"{key} {directory / key}.wav")
        files["text"].append(f"{key} {' '.join(text.split())}")
        files["speech_shape"].append(f"{key} {audio.size}")
        files["text_shape"].append(f"{key} {len(' '.join(text.split()))},{len(TOKENS)}")
    if part == "unlabeled":
        files["text.oracle"] = files.pop("text")
        del files["text_shape"]
    for name, lines in files.items():
        (directory / name).write_text("\n".join(lines) + "\n")


def make_data(root: Path, length: int | None = None) -> Data:
    """Write the corpus: 12 labeled, 20 unlabeled and 4 dev utterances.

    Args:
        root: Where.
        length: Letters in every utterance; None for 4 to 7 with spaces.
    """
    rng = np.random.default_rng(7)
    for part, count in (("labeled", 12), ("unlabeled", 20), ("dev", 4)):
        write_part(root, part, count, rng, length)
    (root / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    return Data(root)


def config(**changes: Any) -> dict[str, Any]:
    """Return a tiny CTC-only training; a value of None removes a key."""
    options: dict[str, Any] = dict(
        token_type="char",
        frontend_conf=dict(n_fft=256, hop_length=128, n_mels=20),
        specaug="specaug",
        specaug_conf=dict(
            apply_time_warp=False,
            freq_mask_width_range=[0, 4],
            time_mask_width_ratio_range=[0.0, 0.1],
        ),
        normalize="utterance_mvn",
        encoder="conformer",
        encoder_conf=dict(
            output_size=16,
            attention_heads=2,
            linear_units=16,
            num_blocks=1,
            input_layer="conv2d",
            rel_pos_type="latest",
            pos_enc_layer_type="rel_pos",
            selfattention_layer_type="rel_selfattn",
            cnn_module_kernel=3,
        ),
        model_conf=dict(ctc_weight=1.0),
        optim="adam",
        optim_conf=dict(lr=0.003),
        batch_type="sorted",
        batch_size=4,
        max_epoch=2,
        num_iters_per_epoch=4,
        best_model_criterion=[["valid", "cer_ctc", "min"]],
        num_workers=0,
        num_att_plot=0,
        use_tensorboard=False,
        use_matplotlib=False,
        log_level="WARNING",
    )
    options.update(changes)
    return {key: value for key, value in options.items() if value is not None}


HYBRID = dict(
    decoder="transformer",
    decoder_conf=dict(attention_heads=2, linear_units=16, num_blocks=1),
    model_conf=dict(ctc_weight=0.3),
)

PL = dict(
    pl_criterion="hard_ctc",
    pl_teacher="ema",
    pl_teacher_conf=dict(decay=0.9),
    pl_schedule_conf=dict(form="interleaved", labeled_steps=1, unlabeled_steps=1),
)


def train(task: Any, options: dict[str, Any], output_dir: Path, *more: str) -> Path:
    """Run a task's `main` on a YAML file, as a user does."""
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    path = output_dir.parent / f"{output_dir.name}.yaml"
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    cmd = ["--config", str(path), "--output_dir", str(output_dir), *more]
    level = logging.getLogger().level
    try:
        task.main(cmd=cmd)
    finally:
        logging.getLogger().setLevel(level)
    return output_dir


def load(path: Path) -> Any:
    """Load what a training wrote."""
    return torch.load(path, map_location="cpu", weights_only=False)


def flip_bit(path: Path, where: float = 0.5) -> None:
    """Flip a bit in the largest record (numbers) of what torch saved, at a share of it.

    In a segment of a label cache, of which parts may be out of use, one every 100
    bytes. A file of another name links to it no more: a copy is changed.
    """
    content = bytearray(path.read_bytes())
    if path.suffix == ".bin":
        places = range(0, len(content), 100)
    else:
        with zipfile.ZipFile(path) as records:
            record = max(records.infolist(), key=lambda info: info.file_size)
        # The local header has 30 bytes, and says how long name and filling are.
        begin = record.header_offset
        begin += 30 + sum(struct.unpack_from("<HH", content, begin + 26))
        places = [begin + round(where * (record.file_size - 1))]
    for place in places:
        content[place] ^= 16
    path.unlink()
    path.write_bytes(content)


def load_snapshot(exp: Path, epoch: int, rank: int = 0) -> dict[str, Any]:
    """Load the state of an epoch's end, with labels in the place of their files.

    A kill may shift the numbers in the files' names, but not what is in them.
    """
    state = load(exp / "pl_state" / f"{epoch}epoch.rank{rank}.pth")
    if state["cache"] is not None:
        store = LabelStore(exp / "pl_cache" / f"rank{rank}")
        store.load_state_dict(state["cache"].pop("store"))
        state["labels"] = {slot: store.get(slot) for slot in store.slots()}
    return state


def same_tensors(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Tell whether two state dictionaries are equal bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) for key, value in first.items()
    )
