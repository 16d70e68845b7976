"""Decodings in an experiment directory, the references for them, and their errors.

ESPnet's `asr.sh` writes `<exp>/<decode tag>/<set>/text` and, once scored, `score_wer`
beside it; this project's recipe writes `<exp>/decode/text` for all sets at once; the
bare `espnet2.bin.asr_inference` writes `1best_recog/text`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from espnet_softpl.commands.experiment import Experiment
from espnet_softpl.commands.scoring import Score, load_references, score_sets
from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.data.tables import read_scp

TRN_LINE = re.compile(r"^(.*?)\s*\(([^()]*)\)$")
# Directories in which a decoding that goes on has the parts of its jobs.
OF_A_JOB = re.compile(r"log|logdir|\d+|output\..*", re.DOTALL)

# Transcript by utterance, by set.
References = Mapping[str, Mapping[str, str]]
# Score by unit (`char` and `word`), by set, by the decoding's directory.
Decodings = dict[str, dict[str, dict[str, Score]]]


def read_references(entries: Sequence[str]) -> References:
    """Read the true transcripts that the user names by `SET=FILE`."""
    references: dict[str, dict[str, str]] = {}
    for entry in entries:
        name, _, file = entry.partition("=")
        if not (name and file):
            raise UserError(f"--ref_text must be SET=FILE, got {entry!r}")
        if name in references:
            raise UserError(f"--ref_text: {name} is there twice")
        try:
            references[name] = read_scp(file, empty=True)
        except (OSError, ValueError) as error:
            raise UserError(f"--ref_text: {error}") from error
        if not references[name]:
            raise UserError(f"--ref_text: {file} is empty")
    return references


def find_decodings(
    experiment: Experiment, references: References
) -> tuple[Decodings, list[str]]:
    """Score whatever was decoded; `references` come before those that are found.

    Returns the decodings, and notes of what cannot be scored.
    """
    dumps = _dump_directories(experiment)
    decodings: Decodings = {}
    notes: list[str] = []
    for tag, name, path in _hypotheses(experiment.directory):
        where = path.parent.relative_to(experiment.directory)
        try:
            hypotheses = read_scp(path, empty=True)
            sets = _references_of(name, path, references, dumps, hypotheses)
            scores = score_sets(sets, hypotheses)
        except (OSError, ValueError) as error:
            notes.append(f"{where} is not scored: {error}")
            continue
        if sets:
            decodings.setdefault(tag, {}).update(scores)
        else:
            notes.append(
                f"{where} is not scored: no references were found; name them with "
                f"--ref_text {name or 'SET'}=FILE."
            )
    return decodings, notes


def _hypotheses(directory: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield tag, set ("" for all at once) and file of every decoding."""
    for top in sorted(directory.glob("decode*")):
        if not top.is_dir() or top.suffix.startswith(".previous"):
            continue
        whole = top / "text"
        for file in [whole] if whole.is_file() else sorted(top.rglob("text")):
            parts = file.parent.relative_to(top).parts
            if file.is_file() and not any(map(OF_A_JOB.fullmatch, parts)):
                name = "/".join(parts).removesuffix("1best_recog").strip("/")
                yield top.name, name, file


def _dump_directories(experiment: Experiment) -> list[Path]:
    """Return directories of data sets, as those of the validation data tell."""
    entries = [
        entry
        for key in ("valid", "train")
        for entry in experiment.config.get(f"{key}_data_path_and_name_and_type") or []
    ]
    files = [experiment.find(str(entry[0])) for entry in entries if entry]
    return list(dict.fromkeys(d for file in files if file for d in file.parents[1:3]))


def _references_of(
    name: str,
    path: Path,
    references: References,
    dumps: Sequence[Path],
    hypotheses: Mapping[str, str],
) -> References:
    """Return the references of a decoded set under its name; nothing if not found.

    Those of all sets at once, if the name is empty.
    """
    if not name:
        orgs = [dump / "org" for dump in dumps if (dump / "org/test/utt2set").is_file()]
        for sets in (references, *map(load_references, orgs)):
            # Sets of which nothing was decoded are other data.
            if own := {k: t for k, t in sets.items() if t.keys() & hypotheses}:
                return own
        return {}
    short = name.rpartition("/")[2]
    for key in (name, short):
        if key in references:
            return {key: references[key]}
    scored = path.parent / "score_wer" / "ref.trn"
    if scored.is_file() and (texts := _read_trn(scored, hypotheses)):
        return {short: texts}
    for folder in (each for dump in dumps for each in (dump, dump / "org")):
        if (folder / name / "text").is_file():
            return {short: read_scp(folder / name / "text", empty=True)}
    return {}


def _read_trn(path: Path, hypotheses: Mapping[str, str]) -> dict[str, str]:
    """Read sclite's references; ESPnet names an utterance `speaker-utterance`."""
    texts: dict[str, str] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for match in filter(None, (TRN_LINE.match(line.strip()) for line in lines)):
        parts = match[2].split("-")
        keys = ("-".join(parts[first:]) for first in range(len(parts)))
        texts[next((k for k in keys if k in hypotheses), match[2])] = match[1]
    if unknown := texts.keys() - hypotheses.keys():
        raise UserError(f"{path} has utterances of other data: {name_some(unknown)}")
    return texts
