"""What an ESPnet experiment or archive holds: a configuration, weights, files.

Student, teacher and their average are read from it for `export` and `label`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from espnet_softpl.commands import packed as commands_packed
from espnet_softpl.commands.packed import DESCRIPTION
from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import load_state
from espnet_softpl.core.modules import average
from espnet_softpl.training.resume.checkpoints import has_end
from espnet_softpl.training.resume.layout import STATE_DIR, STATE_VERSION, TEACHER

# Statistics by which ESPnet may have chosen epochs, the best guide first: labels come
# from the CTC head. Of a model without decoder the others are not defined, and ESPnet
# picks an arbitrary epoch by them.
CTC_STATISTICS = ("cer_ctc", "loss_ctc", "loss")


ALL_STATISTICS = ("cer_ctc", "wer", "cer", "acc", "cer_transducer", "loss")


@dataclasses.dataclass(frozen=True)
class Seed:
    """A trained model and what it was trained with.

    Attributes:
        config: Its `config.yaml`.
        checkpoint: The parameters to start from.
        source: Directory that it was read from.
        has_data: False for a packed model, which comes without data.
        recipe: The directory that relative paths are meant from, where it is known.
    """

    config: dict[str, Any]
    checkpoint: Path
    source: Path
    has_data: bool
    recipe: Path | None = None


def is_ctc_only(config: Mapping[str, Any]) -> bool:
    """Tell whether a configuration describes a model without decoder."""
    weight = (config.get("model_conf") or {}).get("ctc_weight", 0.5)
    # ESPnet drops an attention decoder at this weight, but not a transducer's.
    return weight == 1.0 and config.get("decoder") != "transducer"


def read_config(path: Path) -> dict[str, Any]:
    """Read the `config.yaml` of a training.

    Raises:
        UserError: It is missing, unreadable, or holds no token list.
    """
    if not path.is_file():
        raise UserError(
            f"{path} does not exist. A trained ESPnet experiment has its configuration "
            f"there: give the directory that holds config.yaml and *.pth"
        )
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML file: {error}") from error
    if not isinstance(config, dict) or not config.get("token_list"):
        raise UserError(
            f"{path} holds no token_list: it is not what espnet2.bin.asr_train writes "
            f"into an experiment"
        )
    return config


def find_checkpoint(directory: Path, ctc_only: bool) -> Path:
    """Choose the parameters to start from.

    Args:
        directory: The experiment.
        ctc_only: True for a model without decoder.

    Returns:
        An average of the best epochs, else the best epoch (each by the statistics that
        say most about the CTC head), else the latest epoch.

    Raises:
        UserError: There is none.
    """
    statistics = CTC_STATISTICS if ctc_only else ALL_STATISTICS
    names = [f"valid.{name}.ave.pth" for name in statistics]
    names += [f"valid.{name}.ave_*best.pth" for name in statistics]
    names += [f"valid.{name}.best.pth" for name in statistics]
    for name in (*names, "latest.pth"):
        found = sorted(path for path in directory.glob(name) if path.is_file())
        if found:
            return found[-1]
    epochs = [path for path in directory.glob("*epoch.pth") if path.is_file()]
    if not epochs:
        raise UserError(
            f"{directory} holds no trained model: neither {names[0]} nor latest.pth "
            f"nor *epoch.pth. Is the training done? Or give --init_param FILE"
        )
    return max(epochs, key=lambda path: path.stat().st_mtime)


def from_experiment(directory: Path, init_param: Path | None = None) -> Seed:
    """Read an experiment that `espnet2.bin.asr_train` has written.

    Args:
        directory: The experiment, e.g. exp/asr_train_conformer_raw_en_bpe5000.
        init_param: Parameters to start from; None chooses.

    Returns:
        The seed.

    Raises:
        UserError: Something is missing.
    """
    config = read_config(directory / "config.yaml")
    if init_param is None:
        init_param = find_checkpoint(directory, is_ctc_only(config))
    recipe = recipe_directory(directory, config.get("output_dir"))
    return Seed(config, init_param, directory, has_data=True, recipe=recipe)


def recipe_directory(directory: Path, output_dir: str | None) -> Path | None:
    """Find where an experiment was trained: where its relative paths are meant from.

    Args:
        directory: The experiment, as it lies now.
        output_dir: The same, as its training named it.

    Returns:
        The directory, or None where the names do not tell.
    """
    named = Path(output_dir or "/")
    here = directory.resolve()
    if named.is_absolute() or here.parts[-len(named.parts) :] != named.parts:
        return None
    return here.parents[len(named.parts) - 1]


def from_unpacked(root: Path, init_param: Path | None = None) -> Seed:
    """Read a packed model after unpacking, or a model repository of Hugging Face.

    Args:
        root: The directory with `meta.yaml`.
        init_param: Parameters to start from; None for those of the archive.

    Returns:
        The seed; paths to files of the archive lead into `root`.

    Raises:
        UserError: It is no packed ASR model, or a file that it names is missing.
    """
    path = root / DESCRIPTION
    try:
        meta = yaml.safe_load(path.read_text(encoding="utf-8"))
        config_name = meta["yaml_files"]["asr_train_config"]
        model_name = meta["files"]["asr_model_file"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} names no asr_train_config and asr_model_file ({error!r}): this is "
            f"no speech recognition model that espnet2.bin.pack asr has packed"
        ) from error

    def inside(name: str) -> str:
        # Files from outside of the directory that they were packed in are named by
        # absolute paths, and stored without the leading slash.
        found = root / name.lstrip("/")
        return str(found) if name and found.is_file() else name

    config = relocate(read_config(Path(inside(config_name))), inside)
    checkpoint = init_param or Path(inside(model_name))
    return Seed(config, checkpoint, root, has_data=False)


def relocate(config: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """Rename the files in a configuration.

    Args:
        config: A configuration.
        rename: The new name of a string, or the string itself.

    Returns:
        A copy; tokens are left alone.
    """

    def renamed(value: Any) -> Any:
        if isinstance(value, str):
            return rename(value)
        if isinstance(value, Mapping):
            return {key: renamed(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [renamed(item) for item in value]
        return value

    return {k: v if k == "token_list" else renamed(v) for k, v in config.items()}


logger = logging.getLogger(__name__)


# What ESPnet's pack and unpack take.
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")


WHICH = ("student", "teacher", "average")


class Weights(NamedTuple):
    """The weights of a model, and where they come from.

    Attributes:
        state: Tensors by name, on the CPU.
        source: What they were read from, for people.
    """

    state: dict[str, torch.Tensor]
    source: str


def is_archive(path: Path) -> bool:
    """Tell whether a file name is one of ESPnet's archives."""
    return path.name.lower().endswith(ARCHIVES)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A trained model's directory.

    Attributes:
        directory: Where `config.yaml` is.
        config: What it says.
        model_file: The model, where there is only one to choose (an archive); else
            None.
        archive: What it was unpacked from, or None.
    """

    directory: Path
    config: dict[str, Any]
    model_file: Path | None = None
    archive: Path | None = None

    def find(self, name: str) -> Path | None:
        """Find a file that the configuration names.

        A relative name is looked for in the working directory, as ESPnet does, then in
        the experiment and every directory above it: one of these is the recipe's.

        Args:
            name: A file name, absolute or relative.

        Returns:
            The file, or None where there is none.
        """
        here = self.directory.resolve()
        for base in (Path(), here, *here.parents):
            with contextlib.suppress(OSError):  # Too long for a file's name.
                if (base / name).is_file():
                    return base / name
        return None

    def place_files(self, value: Any, place: Callable[[Path], str]) -> Any:
        """Name the files in a part of the configuration anew.

        Args:
            value: The part, or a value.
            place: Gives the new name of a file that exists.

        Returns:
            A copy. Names of files that do not exist stay as they are.
        """
        if isinstance(value, Mapping):
            # A token is no file, whatever it looks like.
            return {
                key: part if key == "token_list" else self.place_files(part, place)
                for key, part in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.place_files(part, place) for part in value]
        # A bare word such as `conformer` is a choice, even where a file is called so.
        if isinstance(value, str) and (os.sep in value or Path(value).suffix):
            file = self.find(value)
            return value if file is None else place(file)
        return value

    def check_files(self) -> None:
        """Refuse a model of which a file is missing.

        Raises:
            UserError: Which one.
        """
        needed = {}
        if self.config.get("normalize") == "global_mvn":
            conf = self.config.get("normalize_conf") or {}
            needed["normalize_conf.stats_file"] = conf.get("stats_file")
        if self.config.get("token_type") == "bpe":
            needed["bpemodel"] = self.config.get("bpemodel")
        for key, name in needed.items():
            if name is None or self.find(str(name)) is None:
                raise UserError(
                    f"{self.directory}/config.yaml: {key} is {name!r}, which is no "
                    f"file here. Run this in the directory that the model was trained "
                    f"in, or bring the file back"
                )

    def student_file(self, name: str | None = None) -> Path:
        """Find the model file of the student.

        Args:
            name: A file in the experiment, or a path. None takes, by each
                `best_model_criterion` in turn, the average of the best epochs, else the
                best epoch, else the latest, else the only file there is.

        Returns:
            The file.

        Raises:
            UserError: There is none.
        """
        there = sorted(path.name for path in self.directory.glob("*.pth"))
        if name is not None:
            for path in (self.directory / name, Path(name)):
                if path.is_file():
                    return path
            listed = ", ".join(there) or "none"
            raise UserError(
                f"{name} is not in {self.directory}; models there: {listed}"
            )
        if self.model_file is not None:
            return self.model_file
        criteria = self.config.get("best_model_criterion") or []
        stems = [f"{phase}.{statistic}" for phase, statistic, *_ in criteria]
        names = [f"{stem}.{kind}.pth" for kind in ("ave", "best") for stem in stems]
        names += ["latest.pth", *(there if len(there) == 1 else [])]
        for path in (self.directory / name for name in names):
            if path.is_file():
                return path
        raise UserError(
            f"{self.directory} has no model yet (looked for {', '.join(names)}); it "
            f"has one after the first epoch"
        )

    def teacher(self) -> Weights:
        """Read the teacher, of a finished run or of one that goes on or was killed.

        The state of the newest finished epoch has it; where that directory is gone,
        `teacher.pth`, which is written at the end of a run.

        Returns:
            The weights.

        Raises:
            UserError: The experiment has no teacher with weights of its own.
        """
        instead = "take the student (--which student)"
        for path in self._states():
            state = load_state(path, mmap=True)
            if state.get("version") != STATE_VERSION:
                logger.warning("%s is of another version of this package", path)
                continue
            teacher = state["teacher"]
            if "model" not in teacher:
                raise UserError(
                    f"{self.directory}: its teacher is the student itself (pl_teacher: "
                    f"{teacher.get('kind')}) and has no weights of its own; {instead}"
                )
            if teacher["model"] is None:
                raise UserError(
                    f"{self.directory}: its teacher is not born yet, which it is at "
                    f"the first unlabeled mini-batch; {instead}"
                )
            return Weights(dict(teacher["model"]), str(path))
        path = self.directory / TEACHER
        if path.is_file():
            return Weights(load_state(path), str(path))
        if self.config.get("pl_criterion") is None:
            raise UserError(
                f"{self.directory} was trained without pseudo-labels, and has no "
                f"teacher; {instead}"
            )
        raise UserError(
            f"{self.directory} has neither {TEACHER} nor a whole state in {STATE_DIR}: "
            f"no epoch is finished, or its teacher has no weights of its own; {instead}"
        )

    def _states(self) -> Iterator[Path]:
        """Yield the side states that are whole, the newest epoch's first."""
        found = {}
        for path in (self.directory / STATE_DIR).glob("*epoch.rank0.pth"):
            if saved := re.fullmatch(r"(\d+)epoch\.rank0\.pth", path.name):
                found[int(saved[1])] = path
        for epoch in sorted(found, reverse=True):
            if has_end(found[epoch]):
                yield found[epoch]
            else:
                logger.warning("%s is torn; the one before is taken", found[epoch])

    def weights(
        self, which: str, student: str | None = None, teacher_share: float = 0.5
    ) -> Weights:
        """Read student, teacher, or average them.

        Floating-point tensors, batch-norm statistics included, are averaged in
        float64; counters are the student's. See `teacher.topn.average`.

        Args:
            which: `student`, `teacher` or `average`.
            student: See `student_file`.
            teacher_share: The teacher's weight in the average, in [0, 1]; the
                student's is what is left.

        Returns:
            The weights.

        Raises:
            UserError: There is no such model, it is torn, or the two do not fit each
                other.
        """
        if which == "teacher":
            return self.teacher()
        file = self.student_file(student)
        state = load_state(file)
        if not (
            isinstance(state, Mapping) and all(map(torch.is_tensor, state.values()))
        ):
            raise UserError(
                f"{file} is not a model of ESPnet: it holds more than tensors"
            )
        known = file if self.archive is None else self.archive
        found = Weights(dict(state), str(known))
        if which == "student":
            return found
        teacher = self.teacher()
        share = f"{1.0 - teacher_share:g}"
        return Weights(
            average([found.state, teacher.state], [1.0 - teacher_share, teacher_share]),
            f"{share} of {found.source} + {teacher_share:g} of {teacher.source}",
        )


@contextlib.contextmanager
def open_experiment(path: str | Path) -> Iterator[Experiment]:
    """Open an experiment, or an archive as `espnet2.bin.pack asr` makes it.

    Args:
        path: The experiment's directory, or the archive.

    Yields:
        The experiment; an archive is unpacked for as long as it is open.

    Raises:
        UserError: It is neither.
    """
    path = Path(path)
    if not is_archive(path):
        yield Experiment(path, read_config(path / "config.yaml"))
        return
    with tempfile.TemporaryDirectory(prefix="espnet_softpl.") as directory:
        content = Path(directory) / "content"
        commands_packed.unpack(path, content)
        packed = from_unpacked(content)
        yield Experiment(content, packed.config, packed.checkpoint, archive=path)
