"""The cost of every pseudo-label criterion, as a ratio to torch's own CTC loss.

    python benchmarks/criteria.py [--json FILE] [--vocab 32 5000] ...

All criteria see one batch: a synthetic peaky teacher, and a student that is a noisy
version of it. Four figures of each:

    loss    forward and backward from the student's log-posteriors, target at hand
    target  making the target from the teacher: a path, a search, occupancies
    total   the criterion as training calls it, forward and backward
    peak    the most memory that `loss` takes beyond its inputs, gradient included

Times are medians over rounds that run every item once, and ratios are within one run:
to `torch.nn.functional.ctc_loss`, forward and backward, on the student's
log-posteriors and the teacher's greedy transcripts; and, for the target, to half a
forward pass of the mini recipe's encoder. The memory of a CTC loss is its lattice,
2 U + 1 states a frame; where the vocabulary is smaller than that, torch's own CTC takes
more than a few times the log-posteriors, so peaks are also given as a ratio to its.

B utterances, T frames after subsampling, V tokens with blank, U labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import yaml
from common import (
    ROOT,
    command_line,
    describe_machine,
    format_table,
    measuring_parser,
    median_times,
    peak_bytes,
    write_json,
)

from espnet_softpl.criteria import PLCriterion, build
from espnet_softpl.criteria.consistency import frame_kl
from espnet_softpl.criteria.frame_ce import (
    distribution_ce,
    frame_weights,
    path_ce,
    probability_ce,
)
from espnet_softpl.criteria.sampled_ctc import sample_transcripts
from espnet_softpl.ctc import frame_mask, greedy, sharpen
from espnet_softpl.ctc.confusion import ConfusionNetwork, confusion_network
from espnet_softpl.ctc.graph import graph_ctc
from espnet_softpl.ctc.loss import ctc_nll, occupancies
from espnet_softpl.ctc.sampling import sample_paths
from espnet_softpl.ctc.viterbi import viterbi
from espnet_softpl.labels.pseudo_label import PseudoLabel

MODEL_CONFIG = ROOT / "egs2/librispeech_softpl/conf/train_warmup.yaml"

# The synthetic teacher; with these, greedy transcripts have about U tokens for any V.
ENTROPY_NATS = 0.4
NOISE = 2.0
BLANK_BONUS = 2.0
STUDENT_NOISE = 1.0

FRAME_LIMIT = 1.0
CTC_LIMIT = 1.2
GRAPH_LIMIT = 3.0
TARGET_LIMIT = 1.0
PEAK_LIMIT = 2.0


class Entry(NamedTuple):
    """A criterion taken apart: what it does with a teacher and with a student.

    Attributes:
        target: Makes the target from the criterion's settings and the label.
        loss: Computes (B,) from the student's log-posteriors (B, T, V), lengths (B,)
            and the target.
        conf: The criterion's settings, where they are not its defaults.
        limit: Most that `loss` may cost per CTC evaluation, in units of torch's CTC,
            or None for no limit.
        evaluations: CTC forward-backward passes in one call, 0 for none.
        counts_target: True where these passes make the target, whose time then counts
            against `limit` as well.
    """

    target: Callable[[Any, PseudoLabel], Any]
    loss: Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]
    conf: dict[str, Any] = {}
    limit: float | None = None
    evaluations: int = 0
    counts_target: bool = False


def distribution_loss(
    log_probs: torch.Tensor, lengths: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Compute the cross-entropy to frame distributions (B, T, V), as (B,)."""
    weights = frame_weights(lengths, None, log_probs)
    return distribution_ce(log_probs, target, weights)


def occupancy_loss(
    log_probs: torch.Tensor, lengths: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Compute the cross-entropy to frame probabilities (B, T, V), as (B,)."""
    weights = frame_weights(lengths, None, log_probs)
    return probability_ce(log_probs, target, weights)


def path_loss(
    log_probs: torch.Tensor, lengths: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Compute the cross-entropy to paths (B, K, T), as (B,)."""
    return path_ce(log_probs, target, frame_weights(lengths, None, log_probs))


def divergence_loss(
    log_probs: torch.Tensor, lengths: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Compute the KL divergence to frame distributions (B, T, V), as (B,)."""
    return frame_kl(log_probs, target, frame_weights(lengths, None, log_probs))


def transcript_loss(
    log_probs: torch.Tensor,
    lengths: torch.Tensor,
    target: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Compute the weighted CTC loss (B,) of tokens, token_lengths and weights."""
    tokens, token_lengths, weights = target
    losses = ctc_nll(log_probs, lengths, tokens, token_lengths)
    return (losses * weights.to(losses.dtype)).sum(1)


def _list_of(
    criterion: Any, label: PseudoLabel
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return criterion.transcripts(label)


def _one_transcript(
    criterion: Any, label: PseudoLabel
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens, token_lengths = greedy(label.log_probs, label.lengths)
    return tokens.unsqueeze(1), token_lengths.unsqueeze(1), label.weight.unsqueeze(1)


def _sampled_transcripts(
    criterion: Any, label: PseudoLabel
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    num_samples = criterion.num_samples
    tokens, token_lengths = sample_transcripts(
        label.log_probs, label.lengths, num_samples, criterion.temperature
    )
    weights = torch.full_like(token_lengths, 1.0 / num_samples, dtype=torch.float32)
    return tokens, token_lengths, weights


def _sampled_paths(criterion: Any, label: PseudoLabel) -> torch.Tensor:
    return sample_paths(
        label.log_probs, label.lengths, criterion.num_samples, criterion.temperature
    )


def _best_path(criterion: Any, label: PseudoLabel) -> torch.Tensor:
    return label.log_probs.argmax(-1).unsqueeze(1)


def _viterbi_path(criterion: Any, label: PseudoLabel) -> torch.Tensor:
    frames, lengths, tokens, token_lengths = label[:4]
    return viterbi(frames, lengths, tokens, token_lengths)[0].unsqueeze(1)


def _sharpened(criterion: Any, label: PseudoLabel) -> torch.Tensor:
    return sharpen(label.log_probs, criterion.temperature)


def _occupancies(criterion: Any, label: PseudoLabel) -> torch.Tensor:
    frames = sharpen(label.log_probs, criterion.temperature)
    found = _list_of(criterion, label)
    return occupancies(frames, label.lengths, *found)


def _network(criterion: Any, label: PseudoLabel) -> ConfusionNetwork:
    return confusion_network(*_list_of(criterion, label))


# `blend` is a sum of others. `consistency` is measured against the teacher's clean
# view, which is there already, and `masked_kl` with all frames masked.
ENTRIES: dict[str, Entry] = {
    "best_path_ce": Entry(_best_path, path_loss, limit=FRAME_LIMIT),
    "viterbi_ce": Entry(_viterbi_path, path_loss, limit=FRAME_LIMIT),
    "sampled_path_ce": Entry(
        _sampled_paths, path_loss, {"num_samples": 4}, FRAME_LIMIT
    ),
    "soft_ce": Entry(_sharpened, distribution_loss, {"temperature": 0.5}, FRAME_LIMIT),
    "consistency": Entry(lambda criterion, label: label.log_probs, divergence_loss),
    "masked_kl": Entry(lambda criterion, label: label.log_probs, divergence_loss),
    "occupancy_ce": Entry(
        _occupancies, occupancy_loss, {}, CTC_LIMIT, 1, counts_target=True
    ),
    "hard_ctc": Entry(_one_transcript, transcript_loss, {}, CTC_LIMIT, 1),
    "sampled_ctc": Entry(
        _sampled_transcripts, transcript_loss, {"num_samples": 4}, CTC_LIMIT, 4
    ),
    "nbest_ctc": Entry(_list_of, transcript_loss, {"nbest": 4}, CTC_LIMIT, 4),
    "soft_ctc": Entry(_network, graph_ctc, {"nbest": 4}, GRAPH_LIMIT, 1),
}


class Batch(NamedTuple):
    """What all criteria see.

    Attributes:
        log_probs: The student's log-posteriors, a leaf with gradient, (B, T, V).
        lengths: T for every utterance, (B,).
        label: The teacher's label.
        entropy: The teacher's mean frame entropy, in nats.
    """

    log_probs: torch.Tensor
    lengths: torch.Tensor
    label: PseudoLabel
    entropy: float


def make_batch(
    shape: tuple[int, int, int], num_labels: int, seed: int, device: torch.device
) -> Batch:
    """Make a batch that looks like CTC: blanks with spikes between.

    Every utterance is a random transcript whose tokens take one frame each, at random
    and with a blank in between. A margin lifts the right token of each frame out of
    noisy logits, chosen so that the mean entropy of a frame is `ENTROPY_NATS`.

    Args:
        shape: B, T and V.
        num_labels: Tokens of each transcript, 1 to T / 2.
        seed: The same seed makes the same batch.
        device: Where to put it.

    Returns:
        The batch.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = NOISE * torch.randn(shape, generator=generator)
    path = _random_path(shape, num_labels, generator)
    # The first utterance is enough to see the entropy of all.
    margin = _find_margin(logits[:1], path[:1])
    logits = _lift(logits, path, margin)
    teacher = logits.log_softmax(-1)
    logits += STUDENT_NOISE * torch.randn(shape, generator=generator)
    student = logits.log_softmax(-1).to(device).requires_grad_(True)
    entropy = _entropy(teacher)
    teacher = teacher.to(device)
    lengths = torch.full(shape[:1], shape[1], device=device)
    weight = torch.ones(shape[0], device=device)
    label = PseudoLabel(teacher, lengths, *greedy(teacher, lengths), weight)
    return Batch(student, lengths, label, entropy)


def _random_path(
    shape: tuple[int, int, int], num_labels: int, generator: torch.Generator
) -> torch.Tensor:
    """Put tokens on random even frames, and blanks on all others, (B, T)."""
    batch, num_frames, vocab = shape
    order = torch.rand(batch, num_frames // 2, generator=generator).argsort(1)
    tokens = torch.randint(1, vocab, (batch, num_labels), generator=generator)
    path = torch.zeros(batch, num_frames, dtype=torch.long)
    return path.scatter_(1, 2 * order[:, :num_labels], tokens)


def _lift(logits: torch.Tensor, path: torch.Tensor, margin: float) -> torch.Tensor:
    """Return the logits with those of the path raised, blanks more than tokens."""
    lift = torch.full(path.shape, margin) + BLANK_BONUS * (path == 0)
    return logits.scatter_add(2, path.unsqueeze(2), lift.unsqueeze(2))


def _entropy(log_probs: torch.Tensor) -> float:
    """Compute the mean entropy of a frame, in nats."""
    return -float((log_probs.exp() * log_probs).sum(-1).mean())


def _find_margin(logits: torch.Tensor, path: torch.Tensor) -> float:
    low, high = 0.0, 50.0
    while high - low > 1e-3:
        margin = 0.5 * (low + high)
        if _entropy(_lift(logits, path, margin).log_softmax(-1)) > ENTROPY_NATS:
            low = margin
        else:
            high = margin
    return high


def encoder_step(
    batch: int, num_frames: int, device: torch.device
) -> Callable[[], Any]:
    """Make a forward pass of the mini recipe's encoder, from ESPnet.

    Args:
        batch: B.
        num_frames: T, after the encoder's subsampling by four.
        device: Where to run it.

    Returns:
        The forward pass, without gradient.

    Raises:
        ValueError: The encoder makes another number of frames.
    """
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

    config = yaml.safe_load(MODEL_CONFIG.read_text(encoding="utf-8"))
    num_mels = config["frontend_conf"]["n_mels"]
    encoder = ConformerEncoder(num_mels, **config["encoder_conf"]).to(device).eval()
    features = torch.randn(batch, 4 * num_frames + 6, num_mels, device=device)
    lengths = torch.full((batch,), features.size(1), device=device)

    @torch.no_grad()
    def step() -> torch.Tensor:
        return encoder(features, lengths)[0]

    if step().size(1) != num_frames:
        raise ValueError(f"the encoder does not make {num_frames} frames")
    return step


def gradient_step(
    log_probs: torch.Tensor, loss: Callable[[], torch.Tensor]
) -> Callable[[], None]:
    """Make a step that computes a loss and its gradient, anew each time.

    Args:
        log_probs: The leaf whose gradient is computed.
        loss: Computes (B,) from it.

    Returns:
        The step.
    """

    def step() -> None:
        log_probs.grad = None
        loss().sum().backward()

    return step


def ctc_step(batch: Batch) -> Callable[[], None]:
    """Make the yardstick: torch's CTC on the greedy transcripts, with gradient."""
    label = batch.label

    def loss() -> torch.Tensor:
        return F.ctc_loss(
            batch.log_probs.transpose(0, 1),
            label.tokens,
            batch.lengths,
            label.token_lengths,
            reduction="none",
        )

    return gradient_step(batch.log_probs, loss)


def criterion_steps(name: str, batch: Batch) -> dict[str, Callable[[], Any]]:
    """Make the steps `loss`, `target` and `total` of a criterion.

    Args:
        name: A key of `ENTRIES`.
        batch: What they compute on; one target is made here, for `loss`.

    Returns:
        The steps by name.
    """
    entry = ENTRIES[name]
    criterion: PLCriterion = build(name, **entry.conf)
    log_probs, lengths, label, _ = batch
    ready = entry.target(criterion, label)
    return {
        "loss": gradient_step(log_probs, lambda: entry.loss(log_probs, lengths, ready)),
        "target": lambda: entry.target(criterion, label),
        "total": gradient_step(log_probs, lambda: criterion(log_probs, lengths, label)),
    }


def measure(
    batch: Batch, encoder: Callable[[], Any], repeats: int
) -> dict[str, float | int | bool]:
    """Measure every criterion on one batch.

    Args:
        batch: The batch.
        encoder: The encoder's forward pass at the same B and T.
        repeats: Rounds, at least 1.

    Returns:
        Figures by name: `<criterion>.<figure>`, and those of the batch, of torch's
        CTC and of the encoder.
    """
    device = batch.log_probs.device
    steps = {"ctc": ctc_step(batch), "encoder": encoder}
    for name in ENTRIES:
        for part, step in criterion_steps(name, batch).items():
            steps[f"{name}.{part}"] = step
    times = median_times(steps, repeats, device)
    peaks = {}
    for name in ["ctc", *(f"{name}.loss" for name in ENTRIES)]:
        batch.log_probs.grad = None
        peaks[name] = peak_bytes(steps[name], device) / batch.log_probs.nbytes
    figures: dict[str, float | int | bool] = {
        "ctc_ms": times["ctc"],
        "ctc_peak_ratio": peaks["ctc"],
        "encoder_ms": times["encoder"],
        "teacher_entropy_nats": batch.entropy,
        "tokens_per_utterance": float(batch.label.token_lengths.float().mean()),
        **_describe_network(batch),
    }
    for name, entry in ENTRIES.items():
        mine = {part: times[f"{name}.{part}"] for part in ("loss", "target", "total")}
        found = _figures(entry, mine, times["ctc"], times["encoder"])
        found |= _memory_figures(peaks[f"{name}.loss"], peaks["ctc"])
        figures |= {f"{name}.{key}": value for key, value in found.items()}
    return figures


def _figures(
    entry: Entry, times: dict[str, float], ctc: float, encoder: float
) -> dict[str, float | int | bool]:
    """Put one criterion's times in milliseconds in relation, and judge them."""
    judged = times["loss"] + (times["target"] if entry.counts_target else 0.0)
    figures = {
        **{f"{part}_ms": value for part, value in times.items()},
        "loss_ratio": times["loss"] / ctc,
        "total_ratio": times["total"] / ctc,
        "target_per_half_encoder": times["target"] / (0.5 * encoder),
        "ctc_evaluations": entry.evaluations,
        "judged_ratio": judged / ctc / max(entry.evaluations, 1),
    }
    figures["target_met"] = figures["target_per_half_encoder"] <= TARGET_LIMIT
    if entry.limit is not None:
        figures["loss_limit"] = entry.limit
        figures["loss_met"] = figures["judged_ratio"] <= entry.limit
    return figures


def _memory_figures(peak: float, ctc_peak: float) -> dict[str, float | bool]:
    return {
        "peak_ratio": peak,
        "peak_per_ctc_peak": peak / ctc_peak,
        "peak_met": peak <= PEAK_LIMIT,
    }


def _describe_network(batch: Batch) -> dict[str, float]:
    """Say how much of the confusion network of `soft_ctc` is not a plain transcript."""
    criterion = build("soft_ctc", **ENTRIES["soft_ctc"].conf)
    network = _network(criterion, batch.label)
    total = int(network.bins.sum())
    exists = frame_mask(network.bins, network.skips.size(1))
    several = ((network.weights > 0).sum(-1) > 1) & exists
    skippable = (network.skips > 0) & exists
    return {
        "soft_ctc.bins_per_utterance": total / network.bins.numel(),
        "soft_ctc.bins_with_alternatives": int(several.sum()) / max(total, 1),
        "soft_ctc.bins_with_skips": int(skippable.sum()) / max(total, 1),
    }


HEADER = (
    "criterion",
    "loss ms",
    "x ctc",
    "CTCs",
    "judged",
    "limit",
    "target ms",
    "x half enc",
    "total ms",
    "x ctc",
    "peak x lp",
    "x ctc peak",
    "limits",
)


def _row(name: str, figures: dict[str, float | int | bool]) -> list[str]:
    def cell(key: str, form: str = ".2f") -> str:
        value = figures.get(f"{name}.{key}")
        return "-" if value is None else format(value, form)

    missed = [
        part
        for part in ("loss", "target", "peak")
        if not figures.get(f"{name}.{part}_met", True)
    ]
    return [
        name,
        cell("loss_ms", ".1f"),
        cell("loss_ratio", ".3f"),
        cell("ctc_evaluations", "d"),
        cell("judged_ratio", ".3f"),
        cell("loss_limit", ".1f"),
        cell("target_ms", ".1f"),
        cell("target_per_half_encoder"),
        cell("total_ms", ".1f"),
        cell("total_ratio"),
        cell("peak_ratio"),
        cell("peak_per_ctc_peak"),
        f"not met: {', '.join(missed)}" if missed else "met",
    ]


def report(vocab: int, figures: dict[str, float | int | bool]) -> str:
    """Write the figures of one vocabulary for the screen.

    Args:
        vocab: V.
        figures: From `measure`.

    Returns:
        Lines of text.
    """
    summary = (
        "V = {v}: torch ctc_loss {ctc_ms:.1f} ms (peak {ctc_peak_ratio:.2f} x the "
        "log-posteriors), encoder {encoder_ms:.1f} ms; teacher of "
        "{teacher_entropy_nats:.2f} nats a frame, {tokens_per_utterance:.1f} tokens an "
        "utterance"
    ).format(v=vocab, **figures)
    alternatives, skips = (
        figures[f"soft_ctc.bins_with_{what}"] for what in ("alternatives", "skips")
    )
    network = (
        f"soft_ctc's network: {alternatives:.1%} of the bins have alternatives, "
        f"{skips:.1%} can be skipped"
    )
    rows = [_row(name, figures) for name in ENTRIES]
    return "\n".join([summary, network, format_table(HEADER, rows)])


LEGEND = f"""\
judged: loss (for occupancy_ce with its target) x ctc, per CTC evaluation ("CTCs")
target: at most {TARGET_LIMIT:g} x half an encoder's forward pass
peak:   of loss, beyond its inputs, at most {PEAK_LIMIT:g} x the log-posteriors; where V
        is below about 2 U + 1, the lattice of CTC alone is larger than these, and the
        ratio to the peak of torch's own CTC says more"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Args:
        argv: Arguments, or None for those of this process.

    Returns:
        The options.
    """
    parser = measuring_parser("Measure what every pseudo-label criterion costs.")
    parser.add_argument("--batch", type=int, default=16, help="utterances")
    parser.add_argument("--frames", type=int, default=400, help="after subsampling")
    parser.add_argument("--labels", type=int, default=100, help="per utterance")
    parser.add_argument("--vocab", type=int, nargs="+", default=[32, 5000])
    parser.add_argument("--repeats", type=int, default=5, help="rounds of timing")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    for name in ("threads", "batch", "frames", "labels", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: want at least 1")
    if 2 * options.labels > options.frames:
        parser.error(f"--labels: want at most half of --frames {options.frames}")
    if min(options.vocab) < 2:
        parser.error("--vocab: want at least 2, the blank and a token")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: Arguments, or None for those of this process.

    Returns:
        0, whether or not the limits are met.
    """
    options = parse_arguments(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    encoder = encoder_step(options.batch, options.frames, device)
    figures: dict[str, Any] = {
        "command": command_line("benchmarks/criteria.py", argv),
        "seed": options.seed,
        "batch": options.batch,
        "frames": options.frames,
        "labels": options.labels,
        "repeats": options.repeats,
        **describe_machine(device),
    }
    print(", ".join(f"{name} {value}" for name, value in figures.items()))
    for vocab in options.vocab:
        shape = options.batch, options.frames, vocab
        batch = make_batch(shape, options.labels, options.seed, device)
        found = measure(batch, encoder, options.repeats)
        print(f"\n{report(vocab, found)}")
        figures |= {f"v{vocab}.{name}": value for name, value in found.items()}
    print(f"\n{LEGEND}")
    if options.json is not None:
        write_json(options.json, figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
