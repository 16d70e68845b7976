"""Decodings in an experiment directory, the references for them, and their errors.

ESPnet's `asr.sh` writes `<exp>/<decode tag>/<set>/text` and, once scored, `score_wer`
beside it; this project's recipe writes `<exp>/decode/text` for all sets at once; the
bare `espnet2.bin.asr_inference` writes `1best_recog/text`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_softpl.commands.scoring import Score, load_references, score_sets
from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.data.tables import read_scp

RECOGNIZED = "1best_recog"


TRN_LINE = re.compile(r"^(.*?)\s*\(([^()]*)\)$")


@dataclasses.dataclass
class Decoding:
    """Errors of one decoding on one set.

    Attributes:
        tag: The decoding's directory.
        name: The set.
        utterances: How many were scored.
        scores: Score by unit, `char` and `word`.
    """

    tag: str
    name: str
    utterances: int
    scores: Mapping[str, Score]


def resolve(path: str, directory: Path) -> Path | None:
    """Find a file that a configuration names relative to where the training ran.

    Args:
        path: As it is in `config.yaml`.
        directory: The experiment directory.

    Returns:
        The file, seen from the current directory or from one above the experiment's;
        None where it is not there.
    """
    places = [Path.cwd(), *directory.resolve().parents]
    for place in places:
        if (place / path).exists():
            return place / path
    return None


def find_decodings(
    directory: Path, config: Mapping[str, Any], references: Mapping[str, Path]
) -> tuple[list[Decoding], list[str]]:
    """Score whatever was decoded in an experiment.

    Args:
        directory: The experiment directory.
        config: Its `config.yaml`.
        references: File of true transcripts by set, where the user named some; they
            come first.

    Returns:
        The decodings, and notes of what cannot be scored.

    Raises:
        UserError: A file in `references` cannot be read.
    """
    given = {name: read_reference(path) for name, path in references.items()}
    dumps = _dump_directories(config, directory)
    found: list[Decoding] = []
    notes: list[str] = []
    for tag, name, path in _hypotheses(directory):
        where = path.parent.relative_to(directory)
        try:
            hypotheses = read_scp(path, empty=True)
            sets = _references(path, name, given, dumps, hypotheses)
            scores = score_sets(sets, hypotheses)
        except (OSError, ValueError) as error:
            notes.append(f"{where} is not scored: {error}")
            continue
        if not sets:
            notes.append(
                f"{where} is not scored: no references were found; name them with "
                f"--ref_text {name or 'SET'}=FILE."
            )
        for key, units in scores.items():
            found.append(Decoding(tag, key, len(sets[key]), units))
    return found, notes


def read_reference(path: Path) -> dict[str, str]:
    """Read true transcripts that the user named.

    Args:
        path: A Kaldi text file.

    Returns:
        Transcript by utterance.

    Raises:
        UserError: It is missing, or no such file.
    """
    try:
        texts = read_scp(path, empty=True)
    except (OSError, ValueError) as error:
        raise UserError(f"--ref_text: {path} cannot be read: {error}") from error
    if not texts:
        raise UserError(f"--ref_text: {path} is empty")
    return texts


def _hypotheses(directory: Path) -> list[tuple[str, str, Path]]:
    """Return tag, set ("" for all at once) and file of every decoding."""
    found = []
    for top in sorted(directory.glob("decode*")):
        if not top.is_dir() or top.suffix == ".previous":
            continue
        if (top / "text").is_file():
            found.append((top.name, "", top / "text"))
            continue
        files = {file for depth in ("*", "*/*", "*/*/*") for file in top.glob(depth)}
        for file in sorted(f for f in files if f.name == "text" and f.is_file()):
            parts = list(file.parent.relative_to(top).parts)
            if parts[-1] == RECOGNIZED:
                parts.pop()
            # The parts of a decoding that goes on, in several jobs.
            working = any(p in ("logdir", "log") or p.isdigit() for p in parts)
            if not working and not any(p.startswith("output.") for p in parts):
                found.append((top.name, "/".join(parts), file))
    return found


def _dump_directories(config: Mapping[str, Any], directory: Path) -> list[Path]:
    """Return directories of data sets, as those of the validation data tell."""
    found: list[Path] = []
    for key in ("valid", "train"):
        for entry in config.get(f"{key}_data_path_and_name_and_type") or []:
            path = resolve(str(entry[0]), directory) if entry else None
            if path is not None:
                found += [path.parent.parent, path.parent.parent.parent]
    return list(dict.fromkeys(found))


def _references(
    path: Path,
    name: str,
    given: Mapping[str, dict[str, str]],
    dumps: list[Path],
    hypotheses: Mapping[str, str],
) -> dict[str, dict[str, str]]:
    """Return the references of a decoding by set; none where there are none."""
    if not name:
        return _references_of_all(given, dumps, hypotheses)
    short = name.rpartition("/")[2]
    for key in (name, short):
        if key in given:
            return {key: given[key]}
    scored = path.parent / "score_wer" / "ref.trn"
    if scored.is_file():
        texts = _read_trn(scored, hypotheses)
        if texts:
            return {short: texts}
    for dump in dumps:
        for candidate in (dump / name / "text", dump / "org" / name / "text"):
            if candidate.is_file():
                return {short: read_scp(candidate, empty=True)}
    return {}


def _references_of_all(
    given: Mapping[str, dict[str, str]],
    dumps: list[Path],
    hypotheses: Mapping[str, str],
) -> dict[str, dict[str, str]]:
    """Return the references of a decoding that holds several sets.

    Sets of which nothing was decoded are other data.
    """

    def decoded(sets: Mapping[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        return {k: texts for k, texts in sets.items() if texts.keys() & hypotheses}

    found = decoded(given)
    for dump in dumps:
        if found:
            break
        if (dump / "org" / "test" / "utt2set").is_file():
            found = decoded(load_references(dump / "org"))
    return found


def _read_trn(path: Path, hypotheses: Mapping[str, str]) -> dict[str, str]:
    """Read sclite's references; ESPnet names an utterance `speaker-utterance`."""
    texts: dict[str, str] = {}
    unknown = []
    for line in path.read_text(encoding="utf-8").splitlines():
        found = TRN_LINE.match(line.strip())
        if found is None:
            continue
        key = found[2]
        while key not in hypotheses and "-" in key:
            key = key.partition("-")[2]
        if key in hypotheses:
            texts[key] = found[1]
        else:
            unknown.append(found[2])
    if unknown:
        raise UserError(f"{path} has utterances of other data: {name_some(unknown)}")
    return texts
