"""The pseudo-labeling configuration of a trained model: what changes, and why.

Pure functions over plain dictionaries; ESPnet's defaults are an argument.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from espnet_softpl.commands.experiment import is_ctc_only

# What belongs to one run and its machine: the printed command has what is needed.
OF_THE_RUN = {
    *("config", "help", "print_config", "output_dir", "ngpu", "resume", "dry_run"),
    *("collect_stats", "write_collected_feats", "required", "version", "distributed"),
    *("local_rank", "multiprocessing_distributed", "unused_parameters", "init_param"),
    *("ignore_init_mismatch", "pretrain_path", "no_forward_run", "wandb_id"),
    *("wandb_name", "sharded_ddp", "deepspeed_config"),
}


# Written even where they are ESPnet's defaults: what users look for first.
ALWAYS = {"token_type", "encoder", "model_conf", "batch_type", "max_epoch", "optim"}


TOKENS = ("token_list",)


DATA = ("train_", "valid_data", "valid_shape", "fold_length", "rir_", "noise_")


MODEL = (
    *("token_type", "bpemodel", "non_linguistic", "cleaner", "g2p", "preprocessor"),
    *("use_preprocessor", "use_lang", "use_nlp", "input_size", "frontend", "specaug"),
    *("normalize", "model", "preencoder", "encoder", "postencoder", "decoder", "ctc_"),
    *("joint_net", "init", "speech_volume", "freeze_param", "aux_ctc"),
)


# Half: about where a warm-up schedule that decays with the square root of the steps
# stands after four times its warm-up. A rule of thumb; nothing here depends on it.
LR_FACTOR = 0.5


# Schedulers whose settings do not depend on the length of the training.
OPEN_ENDED = {
    *(None, "warmuplr", "noamlr"),
    *("reducelronplateau", "warmupreducelronplateau"),
}


TEACHERS: dict[str, dict[str, Any]] = {
    "ema": {"decay": 0.999},
    "delayed": {"steps": 1000},
}


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What the user asked for.

    Attributes:
        init_param: The parameters to start from.
        unlabeled: ESPnet's triples of path, name and type.
        unlabeled_shape_file: Lengths, where the audio's headers do not tell.
        criterion: `pl_criterion`.
        frame_level: True where that criterion wants frames that stay in their places.
        teacher: `pl_teacher`.
        unlabeled_steps: Unlabeled mini-batches to a labeled one, at least 1.
        lr: Peak learning rate; None for `LR_FACTOR` of the seed's.
        max_epoch: None for the seed's.
        data: ESPnet's options of labeled and validation data given anew.
        batch_norm: True where the model has batch norm.
    """

    init_param: str
    unlabeled: Sequence[Sequence[str]]
    unlabeled_shape_file: str | None = None
    criterion: str = "hard_ctc"
    frame_level: bool = False
    teacher: str = "ema"
    unlabeled_steps: int = 3
    lr: float | None = None
    max_epoch: int | None = None
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batch_norm: bool = False


@dataclasses.dataclass(frozen=True)
class PLConfig:
    """A configuration and how it came about.

    Attributes:
        values: The configuration, in the order to be written.
        changes: One line for each value that is not the seed's: what, and why.
        notes: What the user should know beside that.
    """

    values: dict[str, Any]
    changes: list[str]
    notes: list[str]


class _Edits:
    """A configuration in change, with a line for each change."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)
        self.changes: list[str] = []

    def set(self, key: str, value: Any, why: str) -> None:
        """Set a key, or a key of a settings' key (`optim_conf.lr`)."""
        name, _, inner = key.partition(".")
        settings = dict(self.config.get(name) or {}) if inner else {}
        before = settings.get(inner) if inner else self.config.get(name)
        if _plain(before) == _plain(value):
            return
        self.config[name] = {**settings, inner: value} if inner else value
        self.changes.append(f"{key}: {_show(before)} -> {_show(value)}: {why}")


def _plain(value: Any) -> Any:
    """Return a value with lists in the place of tuples, as YAML has it."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _show(value: Any) -> str:
    """Write a value on one line, as YAML has it."""
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6)
    text = text.removesuffix("...\n").strip()
    return {"null": "none"}.get(text, text)


def best_model_criterion(config: Mapping[str, Any]) -> list[list[str]]:
    """Return the criteria by which epochs are kept.

    Args:
        config: The seed's configuration.

    Returns:
        The validation CER of the CTC head, which is what labels; and for a model with
        a decoder what the seed had, of the validation data.
    """
    ours = ["valid", "cer_ctc", "min"]
    if is_ctc_only(config):
        return [ours]
    theirs = [list(c) for c in config.get("best_model_criterion") or ()]
    return [ours, *(c for c in theirs if c[0] == "valid" and c != ours)]


def _adapt_training(edits: _Edits, wishes: Wishes) -> None:
    """Make the settings of the training those of a training that goes on."""
    lr = (edits.config.get("optim_conf") or {}).get("lr")
    if wishes.lr is not None:
        edits.set("optim_conf.lr", wishes.lr, "as asked for")
    elif isinstance(lr, (int, float)):
        edits.set(
            "optim_conf.lr",
            float(f"{lr * LR_FACTOR:.6g}"),
            "the model is trained, and the optimizer starts anew",
        )
    if wishes.max_epoch is not None:
        edits.set("max_epoch", wishes.max_epoch, "as asked for")
    edits.set(
        "best_model_criterion",
        best_model_criterion(edits.config),
        "by the head that labels (a CTC-only model has no acc)",
    )
    reports = edits.config.get("model_conf") or {}
    if not (reports.get("report_cer", True) or reports.get("report_wer", True)):
        edits.set("model_conf.report_cer", True, "epochs are kept by it")
    edits.set("patience", None, "the loss may rise while the error rate falls")
    if edits.config.get("shuffle_within_batch"):
        edits.set("shuffle_within_batch", False, "mini-batches are taken whole")
    if edits.config.get("use_deepspeed"):
        edits.set("use_deepspeed", False, "not supported with pseudo-labeling")


def _adapt_data(edits: _Edits, wishes: Wishes) -> None:
    """Put data given anew in, and keep frames in their places if need be."""
    for key, value in wishes.data.items():
        edits.config[key] = value
        edits.changes.append(f"{key}: given anew")
    if "train_shape_file" in wishes.data and edits.config.get("multiple_iterator"):
        edits.set("multiple_iterator", False, "the data are whole")
    specaug = edits.config.get("specaug_conf") or {}
    warps = edits.config.get("specaug") and specaug.get("apply_time_warp", True)
    if warps and wishes.frame_level:
        why = f"with {wishes.criterion} frames must stay where the teacher saw them"
        edits.set("specaug_conf.apply_time_warp", False, why)


def _notes(seed: Mapping[str, Any], edits: _Edits, wishes: Wishes) -> list[str]:
    """Say what is worth a look, though nothing is changed."""
    notes = []
    if wishes.batch_norm and wishes.teacher == "ema":
        notes.append(
            "The model has batch norm. The teacher takes the student's statistics as "
            "they are (pl_teacher_conf.buffers: copy); 'average' averages them with "
            "the decay of the weights"
        )
    specaug = edits.config.get("specaug_conf") or {}
    if not edits.config.get("specaug"):
        notes.append(
            "The seed was trained without specaug, so that the student sees what the "
            "teacher sees; add specaug, or there is little to learn"
        )
    elif specaug.get("apply_time_warp", True):
        notes.append(
            "specaug warps time, which criteria on transcripts allow; for one on "
            "frames (such as soft_ce) set specaug_conf.apply_time_warp: false"
        )
    if edits.config.get("scheduler") not in OPEN_ENDED:
        notes.append(
            f"scheduler {edits.config['scheduler']}: its settings may count the seed's "
            f"steps; see whether they suit the new training"
        )
    frontend = edits.config.get("frontend") or "default"
    if frontend not in ("default", "sliding_window"):
        notes.append(
            f"frontend {frontend}: built and loaded here, but not among what this "
            f"package is tested with. The teacher is a second copy of all of it"
        )
    return notes


def _pl_keys(wishes: Wishes) -> dict[str, Any]:
    """Return the keys of pseudo-labeling."""
    teacher_conf = dict(TEACHERS.get(wishes.teacher, {}))
    if wishes.batch_norm and wishes.teacher == "ema":
        teacher_conf["buffers"] = "copy"
    keys = {
        "pl_criterion": wishes.criterion,
        "pl_teacher": wishes.teacher,
        "pl_teacher_conf": teacher_conf,
        "pl_filter": ["tokens"],
        "pl_schedule_conf": {
            "labeled_steps": 1,
            "unlabeled_steps": wishes.unlabeled_steps,
            "weight": 1.0,
        },
        "pl_guard": "warn",
        "unlabeled_data_path_and_name_and_type": _plain(wishes.unlabeled),
        "init_param": [wishes.init_param],
    }
    if wishes.unlabeled_shape_file is not None:
        keys["unlabeled_shape_file"] = [wishes.unlabeled_shape_file]
    return {key: value for key, value in keys.items() if value != {}}


def _ours(key: str) -> bool:
    """Tell whether a key is one of pseudo-labeling: a seed may have such, too."""
    return key.startswith(("pl_", "unlabeled_"))


def compose(
    seed: Mapping[str, Any], defaults: Mapping[str, Any], wishes: Wishes
) -> PLConfig:
    """Make the configuration of pseudo-labeling from a seed's configuration.

    Args:
        seed: The seed's `config.yaml`.
        defaults: The default of every option of the training command.
        wishes: What the user asked for.

    Returns:
        The configuration. Values that are the defaults are left out of it.
    """
    own = {key: _plain(value) for key, value in seed.items() if not _ours(key)}
    unknown = [
        f"{key}: {_show(value)}"
        for key, value in own.items()
        if key not in defaults
        and key not in OF_THE_RUN
        and not key.startswith("dist_")
        and value not in (None, False, [], {}, "")
    ]
    edits = _Edits({k: v for k, v in own.items() if k in defaults})
    _adapt_training(edits, wishes)
    _adapt_data(edits, wishes)
    kept = {
        key: value
        for key, value in edits.config.items()
        if key not in OF_THE_RUN
        and not key.startswith("dist_")
        and (key in ALWAYS or value != _plain(defaults[key]))
    }
    notes = _notes(seed, edits, wishes)
    if unknown:
        notes.append(
            f"Left out, for this version of ESPnet has no such keys: "
            f"{'; '.join(unknown)}"
        )
    return PLConfig({**_pl_keys(wishes), **kept}, edits.changes, notes)


def _section(key: str) -> str:
    """Name the section that a key is written in."""
    if _ours(key) or key == "init_param":
        return "Pseudo-labeling"
    if key in TOKENS:
        return "Tokens"
    if key.startswith(DATA):
        return "Labeled and validation data"
    if key.startswith(MODEL):
        return "Model, as the seed has it"
    return "Training"


SECTIONS = (
    "Pseudo-labeling",
    "Labeled and validation data",
    "Model, as the seed has it",
    "Training",
    "Tokens",
)


class _Dumper(yaml.SafeDumper):
    """Writes lists of words on one line, all else in lines, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write what occurs twice twice."""
        return True

    def represent_sequence(
        self, tag: str, sequence: Sequence[Any], flow_style: bool | None = None
    ) -> yaml.Node:
        """Represent a list."""
        flat = not any(isinstance(item, (list, tuple, dict)) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flat)


def _dump(key: str, value: Any) -> str:
    """Write a key."""
    return yaml.dump(
        {key: _plain(value)},
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=False,
        allow_unicode=True,
        width=80 if key in TOKENS else 10**6,  # No path is broken in two.
    )


def _comment(lines: Iterable[str]) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def render(config: PLConfig, source: str, command: str, criteria: Iterable[str]) -> str:
    """Write the configuration as YAML.

    Args:
        config: The configuration.
        source: What the seed was read from.
        command: The command to run.
        criteria: The legal names of criteria, for the comment beside the key.

    Returns:
        The text of the file.
    """
    head = [
        f"Continuous pseudo-labeling from {source}, by espnet_softpl.bin.add_pl.",
        "Run it by:",
        f"  {command}",
        "seed -> here: why",
        *(f"  {change}" for change in config.changes),
        "All else is as in the seed's config.yaml; ESPnet's defaults are left out.",
    ]
    text = _comment(head)
    for section in SECTIONS:
        keys = [key for key in config.values if _section(key) == section]
        if keys:
            text += f"\n# {section}.\n"
        for key in keys:
            if key == "pl_criterion":
                text += _comment(
                    [
                        "THE LINE TO EDIT: what the student learns from. Legal:",
                        f"  {', '.join(criteria)}",
                    ]
                )
            text += _dump(key, config.values[key])
    return text
