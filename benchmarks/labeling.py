"""What the labeling of a set costs, beside the encoder alone and stock decoding.

Of our command what is measured is `label_set`: audio files are read, labels written.
Its start is left out: the cost is that of a large set less that of a small one.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
import torch
from common import now, read_config
from espnet2.bin.asr_inference import Speech2Text
from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump
from steps import CONF, RATE, Bench, speak

from espnet_softpl.commands.label import Labeler, batches_of, label_set, read_audio
from espnet_softpl.training.build import build_to_text
from espnet_softpl.training.config import build_filters
from espnet_softpl.training.task import SoftPLTask

SMALL, LARGE = 1, 3  # Mini-batches of the two sets.


def write_audio(bench: Bench, count: int) -> Path:
    """Write a Kaldi directory's wav.scp of `count` utterances, in few files."""
    directory = bench.work / f"audio{count}"
    directory.mkdir()
    paths = []
    for number, row in enumerate(bench.batch.speech):
        paths.append(directory / f"{number}.wav")
        soundfile.write(paths[-1], row.numpy(), RATE)
    lines = (f"u{n:06d} {paths[n % len(paths)]}\n" for n in range(count))
    (directory / "wav.scp").write_text("".join(lines))
    return directory / "wav.scp"


def make_labeler(bench: Bench) -> Labeler:
    """Return the labeler of the command, with the bench's model."""
    args = copy.deepcopy(bench.stock.args)
    model = SoftPLTask.build_student(args).to(bench.device).eval()
    speak(model, bench.batch.logits)
    return Labeler(model, args, build_filters(args), build_to_text(args))


def _ours(bench: Bench, labeler: Labeler, bins: int, count: int) -> Callable[[], float]:
    audio = read_audio(str(write_audio(bench, count)), "sound", None, RATE)

    def label() -> float:
        with tempfile.TemporaryDirectory() as out:
            options = argparse.Namespace(
                out=Path(out),
                batch_bins=bins,
                num_shards=1,
                num_workers=0,
                ngpu=int(bench.device.type == "cuda"),
                precision="float32",
                seed=0,
                pl_max_bad_share=0.01,
            )
            start = now(bench.device)
            label_set(labeler, audio, {}, options)
            return now(bench.device) - start

    return label


def _encoder(bench: Bench, labeler: Labeler, sizes: list[int]) -> Callable[[], float]:
    """Return forward passes of encoder and CTC head alone, audio at hand."""
    rows = torch.arange(max(sizes)) % len(bench.batch.ids)
    speech = bench.batch.speech[rows].to(bench.device)
    lengths = bench.batch.speech_lengths[rows].to(bench.device)

    @torch.no_grad()
    def encode() -> float:
        start = now(bench.device)
        for size in sizes:
            model = labeler.model
            model.ctc.ctc_lo(model.encode(speech[:size], lengths[:size])[0])
        return now(bench.device) - start

    return encode


def _stock(bench: Bench, count: int) -> Callable[[], float]:
    """Return ESPnet's own decoding as the recipe does it, utterance by utterance."""
    directory = bench.work / "decoding"
    directory.mkdir()
    config, weights = directory / "config.yaml", directory / "model.pth"
    plain = dict(vars(bench.stock.args))
    config.write_text(yaml_no_alias_safe_dump(plain))
    torch.save(bench.stock.model.state_dict(), weights)
    conf: dict[str, Any] = read_config(CONF / "decode.yaml")
    decode = Speech2Text(str(config), str(weights), device=bench.device.type, **conf)
    speak(decode.asr_model, bench.batch.logits)

    def step() -> float:
        start = now(bench.device)
        for row in bench.batch.speech[:count]:
            decode(row)
        return now(bench.device) - start

    return step


def make_arms(
    bench: Bench, batch_bins: int, stock_count: int
) -> tuple[dict[str, Callable[[], float]], dict[str, float]]:
    """Make the arms of labeling.

    Args:
        bench: Model and audio.
        batch_bins: Samples of a mini-batch of our command.
        stock_count: Utterances that stock ESPnet decodes, at most B.

    Returns:
        `label_small`, `label_large`, `label_encoder` and `label_stock`, each in
        seconds; and the seconds of audio of `large` less `small` (also those of
        `encoder`), and of `stock`.
    """
    samples = bench.batch.speech.size(1)
    labeler = make_labeler(bench)
    size = max(batch_bins // samples, 1)
    lengths = dict.fromkeys(range(LARGE * size), samples)
    sizes = [len(batch) for batch in batches_of(lengths, batch_bins)]
    arms = {
        "label_small": _ours(bench, labeler, batch_bins, SMALL * size),
        "label_large": _ours(bench, labeler, batch_bins, LARGE * size),
        "label_encoder": _encoder(bench, labeler, sizes[SMALL:]),
        "label_stock": _stock(bench, stock_count),
    }
    second = samples / RATE
    audio = {
        "label": sum(sizes[SMALL:]) * second,
        "stock": min(stock_count, len(bench.batch.ids)) * second,
    }
    return arms, audio
