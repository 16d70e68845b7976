"""What an ESPnet experiment or archive holds: a configuration, weights, files.

All commands read models here, and so take the same file of one experiment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from espnet_softpl.commands import packed
from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import load_state, load_weights, read_yaml, work_directory
from espnet_softpl.core.modules import average
from espnet_softpl.training.resume.layout import STATE_DIR, STATE_VERSION, TEACHER

logger = logging.getLogger(__name__)

OURS = ("pl_", "unlabeled_")  # Options of this package, which ESPnet's parsers refuse.

# ESPnet's options that belong to one run and its machine, beside `dist_*`. Neither
# another training (add_pl) nor a model that is handed on (export) takes them over.
OF_THE_RUN = {
    *("config", "help", "print_config", "output_dir", "ngpu", "resume", "dry_run"),
    *("collect_stats", "write_collected_feats", "required", "version", "distributed"),
    *("local_rank", "multiprocessing_distributed", "unused_parameters", "init_param"),
    *("ignore_init_mismatch", "pretrain_path", "no_forward_run", "wandb_id"),
    *("wandb_name", "sharded_ddp", "deepspeed_config"),
}

# Statistics that ESPnet may have chosen epochs by, the best guide first: labels come
# from the CTC head. Without a decoder `acc`, `wer` and `cer` are not defined, and
# ESPnet picks an arbitrary epoch by them.
STATISTICS = ("cer_ctc", "wer", "cer", "acc", "cer_transducer", "loss")
CTC_STATISTICS = ("cer_ctc", "loss_ctc", "loss")


# ESPnet's options of a model that name files. Other values that look like the name of
# a file, say `~/.ssh/id_rsa`, are no reason to hand that file on.
FILE_KEYS = ("normalize_conf", "bpemodel", "non_linguistic_symbols")
FILE_KEYS += ("frontend_conf", "preencoder_conf", "encoder_conf", "decoder_conf")


def is_of_run(key: str) -> bool:
    """Tell whether an option of ESPnet belongs to one run and its machine."""
    return key in OF_THE_RUN or key.startswith("dist_")


def is_ctc_only(config: Mapping[str, Any]) -> bool:
    """Tell whether a configuration describes a model without decoder."""
    weight = (config.get("model_conf") or {}).get("ctc_weight", 0.5)
    # ESPnet drops an attention decoder at this weight, but not a transducer's.
    return weight == 1.0 and config.get("decoder") != "transducer"


def relocate(value: Any, rename: Callable[[str], str]) -> Any:
    """Return a configuration, or a part, except `token_list`, with strings renamed."""
    if isinstance(value, str):
        return rename(value)
    if isinstance(value, Mapping):
        items = value.items()
        return {k: v if k == "token_list" else relocate(v, rename) for k, v in items}
    if isinstance(value, (list, tuple)):
        return [relocate(part, rename) for part in value]
    return value


class Weights(NamedTuple):
    """The weights of a model."""

    state: dict[str, torch.Tensor]  # By name, on the CPU.
    source: str  # What they were read from.


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A trained model's directory."""

    directory: Path
    config: dict[str, Any]  # What its `config.yaml` says.
    model_file: Path | None = None  # Of a packed model, which has no other and no data.
    archive: Path | None = None  # What it was unpacked from, for as long as it is open.

    def find(self, name: str) -> Path | None:
        """Find a file that the configuration names, or return None.

        A relative name is looked for in the working directory, as ESPnet does, then in
        the experiment and every directory above it: one of these is the recipe's. Of
        a packed model only what came with it is found: its author is not trusted.
        """
        here = self.directory.resolve()
        places, roots = (Path(), here, *here.parents), None
        if self.model_file is not None:
            # The hub's cache has links to files that lie beside the directory.
            places, roots = (here,), (here, *(p / "blobs" for p in here.parents[1:2]))
        for place in places:
            with contextlib.suppress(OSError, ValueError):  # No name for a file.
                file = (place / name).resolve()
                inside = roots is None or any(map(file.is_relative_to, roots))
                if inside and file.is_file():
                    return place / name
        return None

    def place_files(
        self, config: Mapping[str, Any], place: Callable[[Path], str]
    ) -> dict[str, Any]:
        """Copy a configuration, with the files of `FILE_KEYS` placed elsewhere."""

        def rename(name: str) -> str:
            # A bare word such as `conformer` is a choice, even if a file is called so.
            file = self.find(name) if os.sep in name or Path(name).suffix else None
            return name if file is None else place(file)

        known = {key: config[key] for key in FILE_KEYS if key in config}
        return {**config, **relocate(known, rename)}

    def needed_files(self) -> dict[str, str]:
        """Return the files without which the model cannot be built, by their key."""
        needed = {}
        if self.config.get("normalize") == "global_mvn":
            conf = self.config.get("normalize_conf") or {}
            needed["normalize_conf.stats_file"] = conf.get("stats_file") or ""
        if self.config.get("token_type") == "bpe":
            needed["bpemodel"] = self.config.get("bpemodel") or ""
        return needed

    def check_files(self) -> None:
        """Refuse a model if a file that it needs is missing, by key and name."""
        for key, name in self.needed_files().items():
            if self.find(name) is None:
                raise UserError(
                    f"{self.directory}/config.yaml: {key} is {name!r}, which is no "
                    f"file here. Run this where the model was trained"
                )

    def checkpoint(self, name: str | Path | None = None) -> Path:
        """Choose the model file, or find the named one, in the experiment or a path.

        The average of the best epochs comes first, then the best epoch, each by the
        first of `STATISTICS` (`CTC_STATISTICS` without decoder) of the validation data
        that has a file, then by any other of `best_model_criterion`. Then the latest
        epoch, the newest, the only file. UserError if there is none.
        """
        models = [path for path in self.directory.glob("*.pth") if path.is_file()]
        if name is not None:
            for path in (self.directory / name, Path(name)):
                if path.is_file():
                    return path
            names = ", ".join(sorted(path.name for path in models)) or "none"
            fault = "a directory" if Path(name).is_dir() else f"not in {self.directory}"
            raise UserError(f"{name} is {fault}; models of {self.directory}: {names}")
        if self.model_file is not None:
            return self.model_file
        ranked = CTC_STATISTICS if is_ctc_only(self.config) else STATISTICS
        chosen = self.config.get("best_model_criterion") or ()
        own = [c[1] for c in chosen if c[0] == "valid" and c[1] not in STATISTICS]
        kinds, names = ("ave", "ave_*best", "best"), (*ranked, *own)
        patterns = [f"valid.{name}.{kind}.pth" for kind in kinds for name in names]
        for pattern in (*patterns, "latest.pth"):
            if files := [path for path in models if path.match(pattern)]:
                return max(files)
        epochs = [path for path in models if path.match("*epoch.pth")]
        if epochs or len(models) == 1:
            return max(epochs or models, key=lambda path: path.stat().st_mtime)
        raise UserError(
            f"{self.directory} holds no trained model: neither {patterns[0]} nor "
            f"latest.pth nor *epoch.pth; it has one after the first epoch"
        )

    def snapshots(self) -> list[Path]:
        """List the states of finished epochs, of the first process, newest first."""
        files = (self.directory / STATE_DIR).glob("*epoch.rank0.pth")
        # By length first: 10epoch comes after 9epoch.
        return sorted(files, key=lambda p: (len(p.name), p.name), reverse=True)

    def teacher(self) -> Weights:
        """Read the teacher, of a finished run or of one that goes on or was killed.

        The state of the newest finished epoch has it; if there is none, `teacher.pth`,
        which is written at the end of a run.
        """
        for path in self.snapshots():
            try:
                state = load_state(path)
            except (UserError, OSError) as error:
                logger.warning("%s: %s; the one before is taken", path, error)
                continue
            if state.get("version") != STATE_VERSION:
                logger.warning("%s is of another version of this package", path)
                continue
            found = state["teacher"]
            if found.get("model") is not None:
                return Weights(dict(found["model"]), str(path))
            kind = f"pl_teacher: {found.get('kind')}"
            reason = (
                "has no teacher yet: it is made at the first unlabeled mini-batch"
                if "model" in found
                else f"has no teacher: its teacher is the student itself ({kind})"
            )
            break
        else:
            path = self.directory / TEACHER
            if path.is_file():
                return Weights(load_state(path), str(path))
            reason = (
                "was trained without pseudo-labels, and has no teacher"
                if self.config.get("pl_criterion") is None
                else f"has neither {TEACHER} nor a whole state in {STATE_DIR}: no "
                f"epoch is finished, or its teacher has no weights of its own"
            )
        raise UserError(
            f"{self.directory} {reason}; take the student (--which student)"
        )

    def weights(
        self, which: str, student: str | None = None, teacher_share: float = 0.5
    ) -> Weights:
        """Read `student` (see `checkpoint`), `teacher` or `average`.

        In the average the teacher has a share in [0, 1], and the student the rest.
        """
        if which == "teacher":
            return self.teacher()
        file = self.checkpoint(student)
        own = Weights(load_weights(file), str(self.archive or file))
        if which == "student":
            return own
        teacher, shares = self.teacher(), (1.0 - teacher_share, teacher_share)
        return Weights(
            average([own.state, teacher.state], shares),
            f"{shares[0]:g} of {own.source} + {shares[1]:g} of {teacher.source}",
        )


def read_config(path: Path) -> dict[str, Any]:
    """Read the `config.yaml` of a training, or refuse one without a token list."""
    if not path.is_file():
        raise UserError(
            f"{path} does not exist. Give the directory of a trained ESPnet "
            f"experiment, which holds config.yaml and *.pth"
        )
    config = read_yaml(path)
    if not isinstance(config, dict) or not config.get("token_list"):
        raise UserError(f"{path} holds no token_list: no ASR training has written it")
    for key, value in config.items():
        _check_value(path, key, value)
    return config


LISTS = ("best_model_criterion", "train_shape_file", "valid_shape_file")
LISTS += ("train_data_path_and_name_and_type", "valid_data_path_and_name_and_type")
NAMES = ("bpemodel", "non_linguistic_symbols", "token_type", "model", "frontend")
NAMES += ("specaug", "normalize", "preencoder", "encoder", "postencoder", "decoder")
# What ESPnet writes for an option, or None; those in `_conf` are mappings.
KINDS: dict[str, tuple[Any, str]] = {
    "token_list": ((list, str), "a list, or a file"),
    **dict.fromkeys(LISTS, (list, "a list")),
    **dict.fromkeys(NAMES, (str, "a name")),
}


def _check_value(path: Path, key: Any, value: Any) -> None:
    """Refuse a value of another type than ESPnet writes for the key."""
    if not isinstance(key, str):
        raise UserError(f"{path}: the key {key!r} must be a name")
    other = (dict, "a mapping") if key.endswith("_conf") else (object, "")
    kind, allowed = KINDS.get(key, other)
    if value is not None and not isinstance(value, kind):
        raise UserError(f"{path}: {key} must be {allowed}, got {str(value)[:60]!r}")
    for part in (value or ()) if key in LISTS else ():
        words = part if isinstance(part, (list, tuple)) and len(part) > 1 else [part]
        if not all(isinstance(word, str) for word in words):
            raise UserError(f"{path}: {key}: {part!r} is neither a name nor several")
    if key == "token_list" and not all(isinstance(token, str) for token in value):
        raise UserError(f"{path}: token_list must be a list of strings")


def read_experiment(directory: Path) -> Experiment:
    """Read an experiment (`config.yaml`), or an unpacked model (`meta.yaml`).

    Files of an unpacked model are named by paths into `directory`.
    """
    path = directory / packed.DESCRIPTION
    if not path.is_file():
        return Experiment(directory, read_config(directory / "config.yaml"))
    try:
        meta = read_yaml(path)
        config_name = meta["yaml_files"]["asr_train_config"]
        model_name = meta["files"]["asr_model_file"]
        if not (isinstance(config_name, str) and isinstance(model_name, str)):
            raise TypeError(f"{config_name!r} and {model_name!r} are no names")
    except (OSError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} names no asr_train_config and asr_model_file ({error!r}): "
            f"espnet2.bin.pack asr has not packed it"
        ) from error

    def inside(name: str) -> str:
        # Files are named by absolute paths if they were packed from outside of the
        # directory, and stored without the leading slash.
        file = directory / name.lstrip("/")
        return str(file) if name and file.is_file() else name

    config = relocate(read_config(Path(inside(config_name))), inside)
    return Experiment(directory, config, model_file=Path(inside(model_name)))


@contextlib.contextmanager
def open_experiment(path: str | Path, out: Path) -> Iterator[Experiment]:
    """Open an experiment's directory, or unpack an archive for as long as it is open.

    It is unpacked beside `out`, which is made of it; so what a kill leaves there goes
    when the command is given again.
    """
    path = Path(path)
    if not packed.is_archive(path):
        yield read_experiment(path)
        return
    out = out.absolute()
    with work_directory(out.with_name(f".unpack.for.{out.name}")) as directory:
        content = directory / "content"
        packed.unpack(path, content)
        yield dataclasses.replace(read_experiment(content), archive=path)
