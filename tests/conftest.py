"""Shared fixtures: seeded randomness, brute-force CTC, small batches."""

from __future__ import annotations

import itertools
import os
import runpy
import signal
from pathlib import Path

import pytest
import torch

from espnet_softpl.ctc import greedy
from espnet_softpl.labels.pseudo_label import PseudoLabel
from tests import ROOT
from tests.support import warm_python
from tests.support.disks import small_disk

__all__ = ["small_disk"]

# Takes 4 of the 10 s off ESPnet's import, here and in the processes that tests start.
SITE = str(Path(__file__).parent / "support" / "site")
PYTHONPATH = os.getenv("PYTHONPATH", "").split(os.pathsep)
if SITE not in PYTHONPATH:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SITE, *PYTHONPATH]))
    runpy.run_path(f"{SITE}/sitecustomize.py")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare what all processes of pytest share, in the first one."""
    # A shell lets what it starts in the background ignore it; tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        warm_python.prepare(ROOT)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say at once which test failed: a run may be ended before its summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        last = report.longreprtext.rstrip().rpartition("\n")[2]
        print(f"\nfailed in its {report.when}: {report.nodeid} ({last})", flush=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove it."""
    if not hasattr(config, "workerinput"):
        warm_python.remove()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random state, in float32."""
    torch.manual_seed(20221111)


def reference_collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    """Merge repeats, then drop blanks, written as plainly as possible."""
    merged = [token for token, _ in itertools.groupby(path)]
    return tuple(token for token in merged if token != 0)


def all_paths(num_frames: int, num_tokens: int) -> list[tuple[int, ...]]:
    """List every alignment of `num_frames` frames over `num_tokens` tokens."""
    return list(itertools.product(range(num_tokens), repeat=num_frames))


def path_log_prob(log_probs: torch.Tensor, path: tuple[int, ...]) -> torch.Tensor:
    """Sum the log-probabilities of one alignment under (T, V) log-posteriors."""
    return sum(log_probs[t, token] for t, token in enumerate(path))


def make_log_probs(
    num_utterances: int, num_frames: int, num_tokens: int, dtype=torch.float32
) -> torch.Tensor:
    """Draw (B, T, V) log-posteriors that are not flat."""
    logits = 2.0 * torch.randn(num_utterances, num_frames, num_tokens, dtype=dtype)
    return logits.log_softmax(-1)


def make_label(log_probs: torch.Tensor, lengths: torch.Tensor) -> PseudoLabel:
    """Label like the generator does, with full trust."""
    tokens, token_lengths = greedy(log_probs, lengths)
    weight = log_probs.new_ones(log_probs.size(0))
    return PseudoLabel(log_probs, lengths, tokens, token_lengths, weight)


def pick(label: PseudoLabel, rows: torch.Tensor | slice) -> PseudoLabel:
    """Take some utterances of a label, in the order given."""
    fields = label._asdict()
    of_all = ("prior", "excludes_empty")
    per_utterance = {k: v for k, v in fields.items() if k not in of_all}
    per_utterance = {k: v for k, v in per_utterance.items() if v is not None}
    return label._replace(**{k: v[rows] for k, v in per_utterance.items()})


def plain_mean(probs: torch.Tensor, lengths, weight) -> list[float]:
    """Average the frames of the kept utterances, one number at a time."""
    total, frames = [0.0] * probs.size(-1), 0
    for b in range(len(lengths)):
        if weight[b] > 0:
            for t in range(int(lengths[b])):
                frames += 1
                for v in range(probs.size(-1)):
                    total[v] += float(probs[b, t, v])
    return [share / frames for share in total]


def reference_edits(one: list[int], two: list[int]) -> int:
    """Count edits by the textbook's recursion."""
    if not one or not two:
        return len(one) + len(two)
    changed = reference_edits(one[1:], two[1:]) + (one[0] != two[0])
    return min(
        changed, reference_edits(one[1:], two) + 1, reference_edits(one, two[1:]) + 1
    )


def transcript_log_probs(log_probs: torch.Tensor) -> dict[tuple, torch.Tensor]:
    """List log P(transcript) of every transcript of (T, V) log-posteriors."""
    found: dict[tuple, list[torch.Tensor]] = {}
    for path in all_paths(*log_probs.shape):
        score = path_log_prob(log_probs, path)
        found.setdefault(reference_collapse(path), []).append(score)
    return {y: torch.stack(scores).logsumexp(0) for y, scores in found.items()}


def transcript_cross_entropy(student: torch.Tensor, teacher: torch.Tensor) -> float:
    ours, theirs = transcript_log_probs(student), transcript_log_probs(teacher)
    return float(-sum(theirs[y].exp() * ours[y] for y in theirs))
