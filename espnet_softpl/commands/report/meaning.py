"""What the statistics are, and when to worry."""

from __future__ import annotations

# The statistic: what it is, and when to worry.
MEANING: dict[str, tuple[str, str]] = {
    "pl_wer": ("WER of the pseudo-labels (%)", "rising"),
    "pl_cer": ("CER of the pseudo-labels (%)", "rising"),
    "pl_wer_kept": ("WER of labels that are used (%)", "like that of the dropped ones"),
    "pl_wer_dropped": ("WER of dropped labels (%)", "like that of the kept"),
    "pl_kept": ("labels that are used (%)", "falling"),
    "pl_kept_audio": ("audio that is used (%)", "falling"),
    "pl_kept_hours": ("hours of audio learned from", "flat"),
    "pl_unusable": ("unusable audio and losses (%)", "above 0"),
    "pl_frame_entropy": ("mean entropy of a frame (nats)", "rising: flattening"),
    "pl_mean_entropy": ("entropy of the mean frame (nats)", "falling"),
    "pl_mutual_information": (
        "mutual information (nats)",
        "to 0: collapse into one distribution",
    ),
    "pl_blank_share": ("share of blank frames", "to 0 or 1"),
    "pl_empty_share": ("share of empty labels", "rising"),
    "pl_length_ratio": ("tokens per second / labeled data's", "far from 1"),
    "pl_vocabulary": ("perplexity of the tokens used", "falling"),
    "pl_disagreement": ("frames where teacher and student differ", "rising"),
    "pl_age": ("age of the labels (mini-batches)", "growing without end"),
    "pl_uses": ("uses of a label so far", "growing without end"),
    "pl_turnover": ("times that a slot was labeled", "flat: labels are frozen"),
    "pl_label_change": ("edits per token to a new label", "to 0 too early"),
    "pl_weight": ("weight of the unlabeled loss", "halved: the guard backed off"),
}


READ_ERRORS = (
    "Lower is better. The line on a bar is its 95 % confidence interval: where those "
    "of two experiments overlap by much, more test data may turn the order round."
)


READ_VALIDATION = (
    "On the labeled validation data, once an epoch. Worry when the error rises over "
    "several epochs, or when an experiment with pseudo-labels is above one without."
)


READ_LABELS = (
    "Of the labels that were trained on, before filtering, epoch by epoch. Worry when "
    "the error rates rise, or the kept share falls; when kept and dropped labels are "
    "equally wrong, the filter is blind."
)


READ_MONITORS = (
    "Solid: the mean of an epoch. Thin line of dots and dashes: the seed model's "
    "level. Dashed: the guard's limits. Dotted and upright: an alarm. "
    "Worry when a curve runs towards a limit and stays there, and most of all when the "
    "mutual information falls to 0."
)


READ_LOSSES = (
    "Worry when the loss on labeled data rises, or the gradient norm jumps. The loss "
    "on pseudo-labels may rise while labels improve: soft labels are never learned to "
    "0; and it falls when labels collapse, for those are easy to learn."
)


READ_SCHEDULE = (
    "The factor on the unlabeled loss, ramps and the guard's back-offs included. Worry "
    "when it is halved without your doing: the guard has backed off."
)


READ_CACHE = (
    "Age and uses settle where the cache is in balance: with a replacement probability "
    "p a label is used 1/p times on average. Worry when the age grows without end, or "
    "when labels change no more while they are still wrong."
)


READ_SAMPLES = (
    "Some fixed unlabeled utterances, whenever they were trained on: the teacher's "
    "label, and what the student made of the augmented audio. Worry when right words "
    "turn wrong, when labels grow short, or when all come to look alike."
)
