"""What soft labels cost in a label cache, and what of them is lost.

    python benchmarks/cache.py [--json FILE] [--posteriors FILE.pt --rate 25] ...

Every way to compress frame posteriors is applied to the same frames. Of each:

    bytes     per frame, and megabytes (10^6 bytes) per hour of speech
    stored    bytes in a file of the cache, which are compressed, as a share of float32
    KL        of what is restored from the original, in nats per frame: mean and 99 %
    gradient  largest difference of an element of the gradient of `soft_ce` with respect
              to the student's log-posteriors (whose largest element is 1)
    loss      mean change of `soft_ce` of an utterance, relative; the student is the
              teacher with a temperature of 1.25 and noise of one nat
    time      to compress and to restore an hour of speech, and that as a ratio to
              copying the uncompressed float32 tensor

Times are medians over rounds that run every item once. Hard labels are given beside
them: the greedy transcript's tokens, 2 or 4 bytes each.

Without `--posteriors` the frames are synthetic, see `make_posteriors`; they show the
costs and the order of magnitude of a loss. How much `top_k` loses depends on how flat
a teacher is: with `--posteriors`, a list of (T, V) tensors of log-posteriors saved by
`torch.save`, it is measured on one's own.

B utterances, T frames after subsampling, V tokens with blank.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import (
    command_line,
    describe_machine,
    format_table,
    measuring_parser,
    median_times,
    write_json,
)

from espnet_softpl.cache.compression import PRECISIONS, Compression
from espnet_softpl.criteria.soft_ce import soft_ce
from espnet_softpl.ctc import frame_mask, greedy

# Letters (spaces included) per second of LibriSpeech's train-clean-100, from 70 minutes
# of it; large vocabularies are of word pieces, about 1.2 per word there (our choice).
LETTERS_PER_SECOND = 13.5
PIECES_PER_SECOND = 3.0
MOST_LETTERS = 256

# The synthetic teacher, in nats: how far the best token of a frame rises above all
# others together, from unsure to sure; rivals in some frames, how far below it.
LEAST_MARGIN, MOST_MARGIN = 2.0, 16.0
NOISE = 2.0
RIVAL_SHARE = 0.25
NUM_RIVALS = 3
RIVAL_GAP = 4.0

MEGABYTE = 1e6
SECONDS_PER_HOUR = 3600.0


class Speech(NamedTuple):
    """Frames to compress.

    Attributes:
        log_probs: (B, T, V), float32.
        lengths: Frames per utterance, (B,).
        rate: Frames per second of speech.
    """

    log_probs: torch.Tensor
    lengths: torch.Tensor
    rate: float

    @property
    def num_frames(self) -> int:
        """Frames of all utterances, without padding."""
        return int(self.lengths.sum())


def make_posteriors(
    shape: tuple[int, int, int], rate: float, seed: int
) -> torch.Tensor:
    """Make log-posteriors that look like those of a CTC model.

    Blanks with tokens between, each one frame long, as many per second as English has
    letters (or word pieces, above 256 tokens). Other tokens share what is left by
    Zipf's law with noise. The best one rises above all others together by 2 to 16
    nats; in a quarter of the frames three random rivals come within 4 nats of it.

    Args:
        shape: B, T and V.
        rate: Frames per second.
        seed: Of the draws, all on the CPU.

    Returns:
        (B, T, V), float32.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, num_frames, vocab = shape

    def uniform(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator)

    rarity = torch.arange(1.0, vocab + 1.0).log()
    rarity = rarity[torch.randperm(vocab, generator=generator)]
    logits = NOISE * torch.randn(shape, generator=generator) - rarity
    others = logits.logsumexp(-1, keepdim=True)
    span = MOST_MARGIN - LEAST_MARGIN
    best = others + LEAST_MARGIN + span * uniform(batch, num_frames, 1)
    per_second = LETTERS_PER_SECOND if vocab <= MOST_LETTERS else PIECES_PER_SECOND
    has_rivals = uniform(batch, num_frames, 1) < RIVAL_SHARE
    rivals = torch.randint(vocab, (*shape[:2], NUM_RIVALS), generator=generator)
    heights = best - RIVAL_GAP * uniform(*rivals.shape)
    heights = torch.where(has_rivals, heights, logits.gather(2, rivals))
    logits = logits.scatter(2, rivals, heights)
    path = torch.randint(1, vocab, (batch, num_frames, 1), generator=generator)
    is_blank = uniform(batch, num_frames, 1) >= per_second / rate
    path = path.masked_fill(is_blank, 0)
    return logits.scatter(2, path, best).log_softmax(-1)


def read_posteriors(file: Path, rate: float) -> Speech:
    """Read real log-posteriors.

    Args:
        file: A list of (T, V) floating-point tensors, saved by `torch.save`.
        rate: Frames per second.

    Returns:
        All of them, padded.

    Raises:
        ValueError: The file holds something else.
    """
    rows = torch.load(file, map_location="cpu", weights_only=True)
    fits = isinstance(rows, list) and all(
        isinstance(row, torch.Tensor) and row.is_floating_point() and row.dim() == 2
        for row in rows
    )
    if not fits or not rows or len({row.size(1) for row in rows}) > 1:
        raise ValueError(f"{file}: not a list of (T, V) log-posteriors of one V")
    lengths = torch.tensor([row.size(0) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(
        [row.float() for row in rows], batch_first=True
    )
    return Speech(padded, lengths, rate)


def settings_of(
    vocab: int, top_k: Sequence[int | None], min_p: Sequence[float] = ()
) -> dict[str, Compression]:
    """List the ways to compress that differ for a vocabulary.

    Args:
        vocab: V.
        top_k: Numbers of tokens to keep, None for all.
        min_p: Least shares of the best token's probability, each tried with all
            numbers of tokens, as `uint8`.

    Returns:
        Settings by name, as `top8_uint8`, `all_float16` or `top8_uint8_p0.001`.
    """
    numbers = {
        "all" if k is None else f"top{k}": k for k in top_k if k is None or k < vocab
    }
    settings = {
        f"{name}_{precision}": Compression(k, precision)
        for name, k in numbers.items()
        for precision in PRECISIONS
    }
    return settings | {
        f"{name}_uint8_p{least:g}": Compression(k, "uint8", least)
        for name, k in numbers.items()
        for least in min_p
    }


def losses(speech: Speech, restored: torch.Tensor) -> dict[str, float]:
    """Measure what differs between posteriors and their restored copy.

    Args:
        speech: The original, on any device.
        restored: (B, T, V).

    Returns:
        Mean and 99th percentile of KL(original || restored) in nats per frame, largest
        difference of the gradient of `soft_ce`, and the share of frames whose best
        token is the same.
    """
    divergences, same, difference = [], 0, 0.0
    for row, copy, length in zip(speech.log_probs, restored, speech.lengths.tolist()):
        # Alone, and in float64: its rounding is below any of these losses.
        one = row[:length].double().log_softmax(-1)
        two = copy[:length].double().log_softmax(-1)
        divergences.append((one.exp() * (one - two)).sum(-1))
        same += int((row[:length].argmax(-1) == copy[:length].argmax(-1)).sum())
        change = soft_ce_gradient(row[:length]) - soft_ce_gradient(copy[:length])
        difference = max(difference, float(change.abs().max()) if length else 0.0)
    kl = torch.cat(divergences).clamp(min=0.0)
    return {
        "kl_mean_nats": float(kl.mean()),
        "kl_p99_nats": float(kl.quantile(0.99)),
        "gradient_difference": difference,
        "best_token_kept": same / speech.num_frames,
    }


def soft_ce_gradient(teacher: torch.Tensor) -> torch.Tensor:
    """Compute the gradient of `soft_ce` with respect to a student's log-posteriors.

    Args:
        teacher: One utterance's log-posteriors, (T, V).

    Returns:
        (T, V); it does not depend on the student.
    """
    student = torch.zeros_like(teacher).log_softmax(-1).unsqueeze(0)
    student.requires_grad_(True)
    length = torch.tensor([teacher.size(0)], device=teacher.device)
    soft_ce(student, length, teacher.unsqueeze(0)).sum().backward()
    return student.grad[0]


def stored_bytes(packed: Mapping[str, torch.Tensor]) -> int:
    """Return the bytes that a compressed batch takes in a file of the cache."""
    content = b"".join(tensor.numpy().tobytes() for tensor in packed.values())
    return len(zlib.compress(content, 1))


def loss_change(speech: Speech, restored: torch.Tensor) -> float:
    """Measure how much a restored copy changes what a student is told.

    Args:
        speech: The original, on any device.
        restored: (B, T, V).

    Returns:
        The relative change of `soft_ce`, without its sign, mean over utterances.
    """
    log_probs, lengths, _ = speech
    generator = torch.Generator(log_probs.device).manual_seed(0)
    noise = torch.randn(log_probs.shape, generator=generator, device=log_probs.device)
    student = (0.8 * log_probs + noise).log_softmax(-1)
    one, two = (soft_ce(student, lengths, each) for each in (log_probs, restored))
    return float((two / one - 1.0).abs().mean())


def measure(
    speech: Speech,
    top_k: Sequence[int | None],
    repeats: int,
    min_p: Sequence[float] = (),
) -> dict[str, float]:
    """Measure all ways to compress one batch of posteriors.

    Args:
        speech: The posteriors.
        top_k: Numbers of tokens to keep, None for all.
        repeats: Rounds of timing, at least 1.
        min_p: See `settings_of`.

    Returns:
        Figures by name: `<setting>.<figure>`, and those of the batch and of hard
        labels.
    """
    log_probs, lengths, rate = speech
    hours = speech.num_frames / rate / SECONDS_PER_HOUR
    size = log_probs.shape[1:]
    steps: dict[str, Any] = {"copy": log_probs.clone}
    figures = describe(speech)
    settings = settings_of(log_probs.size(2), top_k, min_p)
    for name, setting in settings.items():
        packed = setting.compress(log_probs, lengths)
        num_bytes = sum(tensor.nbytes for tensor in packed.values())
        figures[f"{name}.bytes_per_frame"] = num_bytes / speech.num_frames
        figures[f"{name}.mb_per_hour"] = num_bytes / hours / MEGABYTE
        whole = 4 * speech.num_frames * log_probs.size(2)
        figures[f"{name}.stored_share"] = stored_bytes(packed) / whole
        restored = setting.restore(packed, lengths, *size)
        figures[f"{name}.loss_change"] = loss_change(speech, restored)
        found = losses(speech, restored)
        figures |= {f"{name}.{key}": value for key, value in found.items()}
        steps[f"{name}.compress"] = lambda s=setting: s.compress(log_probs, lengths)
        steps[f"{name}.restore"] = lambda s=setting, p=packed: s.restore(
            p, lengths, *size
        )
    times = median_times(steps, repeats, log_probs.device)
    figures["copy_ms_per_hour"] = times["copy"] / hours
    for name in settings:
        for part in ("compress", "restore"):
            taken = times[f"{name}.{part}"]
            figures[f"{name}.{part}_ms_per_hour"] = taken / hours
            figures[f"{name}.{part}_per_copy"] = taken / times["copy"]
    return figures


def describe(speech: Speech) -> dict[str, float]:
    """Describe posteriors, and what they cost uncompressed and as hard labels.

    Args:
        speech: The posteriors.

    Returns:
        Figures by name.
    """
    log_probs, lengths, rate = speech
    frames = log_probs[frame_mask(lengths, log_probs.size(1))]
    hours = speech.num_frames / rate / SECONDS_PER_HOUR
    num_tokens = int(greedy(log_probs, lengths)[1].sum())
    entropy = torch.special.entr(frames.exp()).sum(-1).mean()
    return {
        "frames": speech.num_frames,
        "entropy_nats": float(entropy),
        "blank_share": float((frames.argmax(-1) == 0).float().mean()),
        "tokens_per_second": num_tokens / hours / SECONDS_PER_HOUR,
        "float32.mb_per_hour": frames.nbytes / hours / MEGABYTE,
        "hard_int16.mb_per_hour": 2 * num_tokens / hours / MEGABYTE,
        "hard_int32.mb_per_hour": 4 * num_tokens / hours / MEGABYTE,
    }


HEADER = (
    "label",
    "B/frame",
    "MB/h",
    "stored",
    "loss",
    "KL mean",
    "KL 99 %",
    "gradient",
    "compress ms/h",
    "x copy",
    "restore ms/h",
    "x copy",
    "best token",
)
FORMS = {
    "bytes_per_frame": ".0f",
    "mb_per_hour": ".2f",
    "stored_share": ".2%",
    "loss_change": ".2%",
    "kl_mean_nats": ".1e",
    "kl_p99_nats": ".1e",
    "gradient_difference": ".1e",
    "compress_ms_per_hour": ".0f",
    "compress_per_copy": ".1f",
    "restore_ms_per_hour": ".0f",
    "restore_per_copy": ".1f",
}


def _row(name: str, figures: dict[str, float]) -> list[str]:
    def cell(key: str, form: str) -> str:
        value = figures.get(f"{name}.{key}")
        return "-" if value is None else format(value, form)

    kept = figures.get(f"{name}.best_token_kept")
    last = "-" if kept is None else "kept" if kept == 1.0 else f"{kept:.2%} kept"
    return [name, *(cell(key, form) for key, form in FORMS.items()), last]


def report(title: str, figures: dict[str, float]) -> str:
    """Write the figures of one batch for the screen.

    Args:
        title: What was compressed.
        figures: From `measure`.

    Returns:
        Lines of text.
    """
    summary = (
        "{title}: {frames} frames, {entropy_nats:.2f} nats a frame, {blank_share:.0%} "
        "blank, {tokens_per_second:.1f} tokens a second; copying an hour takes "
        "{copy_ms_per_hour:.1f} ms"
    ).format(title=title, **figures)
    names = dict.fromkeys(key.rpartition(".")[0] for key in figures if "." in key)
    rows = [_row(name, figures) for name in names]
    return "\n".join([summary, format_table(HEADER, rows)])


def parse_case(text: str) -> tuple[int, float]:
    """Read a case of the command line, as `5000@25`.

    Args:
        text: V, at least 2, and frames per second, above 0.

    Returns:
        V and frames per second.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    vocab, _, rate = text.partition("@")
    try:
        case = int(vocab), float(rate)
    except ValueError:
        case = 0, 0.0
    if case[0] < 2 or not 0.0 < case[1] < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not tokens (at least 2) @ frames per second, as 5000@25"
        )
    return case


def parse_top_k(text: str) -> int | None:
    """Read a number of tokens to keep, or `all`.

    Args:
        text: An integer of at least 1, or `all`.

    Returns:
        The number, None for all.

    Raises:
        argparse.ArgumentTypeError: It is neither.
    """
    if text == "all":
        return None
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'all' nor at least 1")
    return int(text)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Args:
        argv: Arguments, or None for those of this process.

    Returns:
        The options.
    """
    parser = measuring_parser("Measure what soft labels cost in a label cache.")
    parser.add_argument(
        "--cases",
        type=parse_case,
        nargs="+",
        default="32@25 32@33.3 5000@25".split(),
        help="synthetic posteriors: tokens @ frames per second",
    )
    parser.add_argument("--utterances", type=int, default=8, help="synthetic ones")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each of them")
    parser.add_argument(
        "--posteriors", type=Path, help="real ones instead: a list of (T, V) tensors"
    )
    parser.add_argument(
        "--rate", type=float, default=25.0, help="of --posteriors, frames per second"
    )
    parser.add_argument(
        "--top_k", type=parse_top_k, nargs="+", default="1 4 8 16 32 128 all".split()
    )
    parser.add_argument(
        "--min_p", type=float, nargs="+", default=[0.003, 0.0002, 0.00002]
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds of timing")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    # argparse converts only defaults that are one string.
    options.cases = [parse_case(c) if isinstance(c, str) else c for c in options.cases]
    options.top_k = [parse_top_k(k) if isinstance(k, str) else k for k in options.top_k]
    for name in ("threads", "utterances", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: want at least 1")
    for name in ("seconds", "rate"):
        if not 0.0 < getattr(options, name) < math.inf:
            parser.error(f"--{name}: want more than 0")
    return options


def cases(options: argparse.Namespace) -> dict[str, Speech]:
    """Make or read what the options ask for.

    Args:
        options: From `parse_arguments`.

    Returns:
        Posteriors by name, as `v32_25`: tokens and frames per second.
    """
    if options.posteriors is not None:
        speech = read_posteriors(options.posteriors, options.rate)
        return {f"v{speech.log_probs.size(2)}_{options.rate:g}": speech}
    made = {}
    for vocab, rate in options.cases:
        num_frames = max(round(options.seconds * rate), 1)
        shape = (options.utterances, num_frames, vocab)
        log_probs = make_posteriors(shape, rate, options.seed)
        lengths = torch.full((options.utterances,), num_frames)
        made[f"v{vocab}_{rate:g}"] = Speech(log_probs, lengths, rate)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: Arguments, or None for those of this process.

    Returns:
        0.
    """
    options = parse_arguments(argv)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    figures: dict[str, Any] = {
        "command": command_line("benchmarks/cache.py", argv),
        "seed": options.seed,
        "repeats": options.repeats,
        **describe_machine(device),
    }
    print(", ".join(f"{name} {value}" for name, value in figures.items()))
    for name, (log_probs, lengths, rate) in cases(options).items():
        speech = Speech(log_probs.to(device), lengths.to(device), rate)
        found = measure(speech, options.top_k, options.repeats, options.min_p)
        title = f"V = {log_probs.size(2)}, {rate:g} frames a second"
        print(f"\n{report(title, found)}")
        figures |= {f"{name}.{key}": value for key, value in found.items()}
    if options.json is not None:
        write_json(options.json, figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
