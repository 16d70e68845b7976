"""Which statistics are in which section of the page, what they are, when to worry."""

from __future__ import annotations

from typing import NamedTuple


class Statistic(NamedTuple):
    """A statistic in words.

    Attributes:
        name: Its key in ESPnet's reports.
        title: What it is; with "(%)" it is shown in percent.
        warning: When to worry.
    """

    name: str
    title: str
    warning: str


SECTIONS: dict[str, tuple[Statistic, ...]] = {
    "labels": (
        Statistic("pl_cer", "CER of the pseudo-labels (%)", "rising"),
        Statistic("pl_wer", "WER of the pseudo-labels (%)", "rising"),
        Statistic("pl_wer_kept", "WER of labels that are used (%)", "like dropped"),
        Statistic("pl_wer_dropped", "WER of dropped labels (%)", "like kept"),
        Statistic("pl_kept", "labels that are used (%)", "falling"),
        Statistic("pl_kept_audio", "audio that is used (%)", "falling"),
        Statistic("pl_kept_hours", "hours of audio learned from", "flat"),
        Statistic("pl_unusable", "unusable audio and losses (%)", "above 0"),
    ),
    "collapse": (
        Statistic(
            "pl_frame_entropy", "mean entropy of a frame (nats)", "rising: flattening"
        ),
        Statistic("pl_mean_entropy", "entropy of the mean frame (nats)", "falling"),
        Statistic(
            "pl_mutual_information",
            "mutual information (nats)",
            "to 0: collapse into one distribution",
        ),
        Statistic("pl_blank_share", "share of blank frames", "to 0 or 1"),
        Statistic("pl_empty_share", "share of empty labels", "rising"),
        Statistic(
            "pl_length_ratio", "tokens per second / labeled data's", "far from 1"
        ),
        Statistic("pl_vocabulary", "perplexity of the tokens used", "falling"),
        Statistic(
            "pl_disagreement", "frames where teacher and student differ", "rising"
        ),
    ),
    "schedule": (
        Statistic("pl_weight", "weight of the unlabeled loss", "halved: a back-off"),
    ),
    "cache": (
        Statistic("pl_age", "age of the labels (mini-batches)", "growing without end"),
        Statistic("pl_uses", "uses of a label so far", "growing without end"),
        Statistic("pl_turnover", "times that a slot was labeled", "flat"),
        Statistic(
            "pl_label_change", "edits per token to a new label", "to 0 too early"
        ),
    ),
}

DROPPED = "train/pl_dropped_"  # Before a filter's name.


def titles(section: str) -> dict[str, str]:
    """Return the titles of a section's statistics, by their key in the history."""
    return {f"train/{each.name}": each.title for each in SECTIONS[section]}
