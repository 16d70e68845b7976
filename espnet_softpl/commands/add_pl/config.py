"""The pseudo-labeling configuration of a trained model: what changes, and why."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from espnet_softpl.commands import experiment
from espnet_softpl.commands.add_pl.base_model import get_defaults
from espnet_softpl.commands.add_pl.data_dirs import Audio
from espnet_softpl.commands.experiment import OURS, is_of_run

# Written even if they are ESPnet's defaults: what users look for first.
ALWAYS = {"token_type", "encoder", "model_conf", "batch_type", "max_epoch", "optim"}

# Schedulers whose settings do not depend on the length of the training.
OPEN_ENDED = (None, "warmuplr", "noamlr", "reducelronplateau")
OPEN_ENDED += ("warmupreducelronplateau",)

TEACHERS = {"delayed": {"steps": 1000}}


class TrainingConfig(NamedTuple):
    """A configuration and how it came about."""

    values: dict[str, Any]  # In the order to be written.
    changes: list[str]  # A line for each value that is not the base model's, and why.
    notes: list[str]  # What the user should know beside that.


def _plain(value: Any) -> Any:
    """Copy a value, with lists for tuples, as YAML has it."""
    return experiment.relocate(value, str)


def _show(value: Any) -> str:
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6)
    text = text.removesuffix("...\n").strip()
    return "none" if text == "null" else text


def _edits(
    base: Mapping[str, Any], args: argparse.Namespace, frame_level: bool
) -> Iterator[tuple[str, Any, str]]:
    """Yield what a training that goes on must have: key, value and why."""
    lr = (base.get("optim_conf") or {}).get("lr")
    if args.lr is not None:
        yield "optim_conf.lr", args.lr, "as asked for"
    elif isinstance(lr, (int, float)):
        # Half: about where a warm-up schedule that decays with the square root of the
        # steps stands after four times its warm-up. A rule of thumb.
        why = "the model is trained, and the optimizer starts again"
        yield "optim_conf.lr", float(f"{lr * 0.5:.6g}"), why
    if args.max_epoch is not None:
        yield "max_epoch", args.max_epoch, "as asked for"
    best = [["valid", "cer_ctc", "min"]]
    if not experiment.is_ctc_only(base):
        theirs = map(list, base.get("best_model_criterion") or ())
        best += [c for c in theirs if c[0] == "valid" and c not in best]
    why = "by the head that labels (a CTC-only model has no acc)"
    yield "best_model_criterion", best, why
    reports = base.get("model_conf") or {}
    if not (reports.get("report_cer", True) or reports.get("report_wer", True)):
        yield "model_conf.report_cer", True, "epochs are kept by it"
    yield "patience", None, "the loss may rise while the error rate falls"
    for key, why in (
        ("shuffle_within_batch", "mini-batches are taken whole"),
        ("use_deepspeed", "not supported with pseudo-labeling"),
        ("multiple_iterator", "the data are whole"),  # As they are given again.
    ):
        if base.get(key):
            yield key, False, why
    if frame_level and _warps_time(base):
        why = f"with {args.criterion} frames must stay where the teacher saw them"
        yield "specaug_conf.apply_time_warp", False, why


def _warps_time(config: Mapping[str, Any]) -> bool:
    conf = config.get("specaug_conf") or {}
    return bool(config.get("specaug")) and conf.get("apply_time_warp", True)


def _notes(config: Mapping[str, Any], unknown: list[str], buffers: bool) -> list[str]:
    """Say what is worth a look, though nothing is changed."""
    scheduler = config.get("scheduler")
    frontend = config.get("frontend") or "default"
    notes = {
        "The model has batch norm. The teacher takes the student's statistics as they "
        "are (pl_teacher_conf.buffers: copy); 'average' averages them with the decay "
        "of the weights": buffers,
        "In a recipe, also give asr.sh --inference_asr_model valid.cer_ctc.ave.pth: "
        "its default is valid.acc.ave.pth, which a model without a decoder lacks": (
            experiment.is_ctc_only(config)
        ),
        "The base model was trained without specaug, so that the student sees what the "
        "teacher sees; add specaug, or there is little to learn": (
            not config.get("specaug")
        ),
        "specaug warps time, which criteria on transcripts allow; for one on frames "
        "(such as soft_ce) set specaug_conf.apply_time_warp: false": (
            _warps_time(config)
        ),
        f"scheduler {scheduler}: its settings may count the base model's steps; see "
        f"whether they suit the new training": scheduler not in OPEN_ENDED,
        f"frontend {frontend}: built and loaded here, but this package was not tested "
        f"with it. The teacher is a second copy of all of it": (
            frontend not in ("default", "sliding_window")
        ),
        f"Left out, because this version of ESPnet has no such keys: "
        f"{'; '.join(unknown)}": unknown,
    }
    return [note for note, applies in notes.items() if applies]


def compose(
    base: Mapping[str, Any],
    args: argparse.Namespace,
    weights: experiment.Weights,
    unlabeled: Audio,
    data: Mapping[str, list],
    frame_level: bool,
) -> TrainingConfig:
    """Make the configuration of pseudo-labeling from a base model's configuration.

    `data` are ESPnet's options of labeled data given again; with `frame_level`, frames
    stay in their places. What is a default of the training command is left out.
    """
    defaults = get_defaults()
    own = {
        key: _plain(value)
        for key, value in base.items()
        if not key.startswith(OURS) and not is_of_run(key)
    }
    unknown = [
        f"{key}: {_show(value)}"
        for key, value in own.items()
        if key not in defaults and value not in (None, False, [], {}, "")
    ]
    config = {key: value for key, value in own.items() if key in defaults}
    config |= data
    changes = [f"{key}: given again" for key in data]
    for key, value, why in _edits(own, args, frame_level):
        name, _, inner = key.partition(".")
        settings = config.get(name) or {} if inner else {}
        before = settings.get(inner) if inner else config.get(name)
        if before != value:
            config[name] = {**settings, inner: value} if inner else value
            changes.append(f"{key}: {_show(before)} -> {_show(value)}: {why}")
    batch_norm = any(name.endswith("running_mean") for name in weights.state)
    buffers = batch_norm and args.teacher == "ema"
    schedule = {"labeled_steps": 1, "unlabeled_steps": args.unlabeled_steps}
    teacher = TEACHERS.get(args.teacher, {}) | ({"buffers": "copy"} if buffers else {})
    ours = {
        "pl_criterion": args.criterion,
        "pl_teacher": args.teacher,
        "pl_teacher_conf": teacher,
        "pl_filter": ["tokens"],
        "pl_schedule_conf": {**schedule, "weight": 1.0},
        "pl_guard": "stop",
        "unlabeled_data_path_and_name_and_type": unlabeled.specs(),
        "init_param": [weights.source],
        "unlabeled_shape_file": [str(unlabeled.shape_file or "")],
    }
    ours = {key: value for key, value in ours.items() if value not in ({}, [""])}
    theirs = {
        key: value
        for key, value in config.items()
        if key in ALWAYS or value != _plain(defaults[key])
    }
    notes = _notes(config, unknown, buffers)
    return TrainingConfig({**ours, **theirs}, changes, notes)


class _Dumper(yaml.SafeDumper):
    """Writes lists of words on one line, and all else in lines."""

    def represent_list(self, data: list[Any]) -> yaml.Node:
        flat = not any(isinstance(item, (list, dict)) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


_Dumper.add_representer(list, _Dumper.represent_list)


def render(
    config: TrainingConfig, source: str, command: str, criteria: Iterable[str]
) -> str:
    """Write the configuration as YAML, with comments that name what it comes from."""
    changes = "".join(f"#   {change}\n" for change in config.changes)
    text = (
        f"# Continuous pseudo-labeling from {source}, by espnet_softpl.bin.add_pl.\n"
        f"# Run it by:\n#   {command}\n# base model -> here: why\n{changes}"
        f"# All else is as in the base model; ESPnet's defaults are left out.\n\n"
        f"# THE LINE TO EDIT: what the student learns from. Allowed:\n"
        f"#   {', '.join(criteria)}\n"
    )
    ours, theirs, tokens = "", "As in the base model", "Tokens"
    parts: dict[str, dict[str, Any]] = {ours: {}, theirs: {}, tokens: {}}
    for key, value in config.values.items():
        title = ours if key.startswith((*OURS, "init_param")) else theirs
        parts[tokens if key == "token_list" else title][key] = _plain(value)
    for title, values in parts.items():
        text += f"\n# {title}.\n" if title else ""
        # No path is broken in two.
        style = {"width": 80 if title == tokens else 10**6, "allow_unicode": True}
        text += yaml.dump(values, Dumper=_Dumper, sort_keys=False, **style)
    return text
