"""What the `pl_*` statistics are called on the page, and when to worry."""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """A statistic in words.

    Attributes:
        section: Where it is on the page: `labels`, `collapse`, `schedule`, `cache`, or
            "" for nowhere.
        title: What it is; with "(%)" it is shown in percent.
        warning: When to worry.
    """

    section: str
    title: str
    warning: str


_MEANINGS = {
    "pl_cer": Meaning("labels", "CER of the pseudo-labels (%)", "rising"),
    "pl_wer": Meaning("labels", "WER of the pseudo-labels (%)", "rising"),
    "pl_wer_kept": Meaning(
        "labels", "WER of labels that are used (%)", "like that of the dropped ones"
    ),
    "pl_wer_dropped": Meaning(
        "labels", "WER of dropped labels (%)", "like that of the kept"
    ),
    "pl_kept": Meaning("labels", "labels that are used (%)", "falling"),
    "pl_kept_audio": Meaning("labels", "audio that is used (%)", "falling"),
    "pl_kept_hours": Meaning("labels", "hours of audio learned from", "flat"),
    "pl_unusable": Meaning("labels", "unusable audio and losses (%)", "above 0"),
    "pl_frame_entropy": Meaning(
        "collapse", "mean entropy of a frame (nats)", "rising: flattening"
    ),
    "pl_mean_entropy": Meaning(
        "collapse", "entropy of the mean frame (nats)", "falling"
    ),
    "pl_mutual_information": Meaning(
        "collapse",
        "mutual information (nats)",
        "to 0: collapse into one distribution",
    ),
    "pl_blank_share": Meaning("collapse", "share of blank frames", "to 0 or 1"),
    "pl_empty_share": Meaning("collapse", "share of empty labels", "rising"),
    "pl_length_ratio": Meaning(
        "collapse", "tokens per second / labeled data's", "far from 1"
    ),
    "pl_vocabulary": Meaning("collapse", "perplexity of the tokens used", "falling"),
    "pl_disagreement": Meaning(
        "collapse", "frames where teacher and student differ", "rising"
    ),
    "pl_weight": Meaning(
        "schedule", "weight of the unlabeled loss", "halved: the guard backed off"
    ),
    "pl_age": Meaning(
        "cache", "age of the labels (mini-batches)", "growing without end"
    ),
    "pl_uses": Meaning("cache", "uses of a label so far", "growing without end"),
    "pl_turnover": Meaning(
        "cache", "times that a slot was labeled", "flat: labels are frozen"
    ),
    "pl_label_change": Meaning(
        "cache", "edits per token to a new label", "to 0 too early"
    ),
}


def meanings() -> dict[str, Meaning]:
    """Return the words for each statistic; the only reader of the table."""
    return _MEANINGS


def titles(section: str) -> dict[str, str]:
    """Return the titles of a section's statistics, by their key in the history."""
    return {
        f"train/{name}": meaning.title
        for name, meaning in meanings().items()
        if meaning.section == section
    }
