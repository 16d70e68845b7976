#!/usr/bin/env python3
"""Turn sets in LibriSpeech layout into four Kaldi-style data directories.

A set is a folder `<root>/<set>/<speaker>/<chapter>/` with FLAC (or WAV) files and
`*.trans.txt`. `SET:I/N` takes the I-th of N parts of its speakers, who are sorted
by name. Transcripts of the unlabeled sets go to `text.oracle`, never to `text`.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from datadir import DataDir, RecipeError, examples, run_main
from overlap import separate

PARTS = ("labeled", "unlabeled", "dev", "test")


def find_set(name: str, roots: list[Path]) -> Path:
    """Return the folder of a set.

    Args:
        name: Folder below a root, or below its folder `LibriSpeech`; it may have
            several levels.
        roots: Directories to look in.

    Raises:
        RecipeError: No root holds the set, or more than one does.
    """
    places = [root / inner / name for root in roots for inner in ("", "LibriSpeech")]
    places = [place for place in places if place.is_dir()]
    where = ", ".join(str(root) for root in roots)
    if not places:
        raise RecipeError(f"there is no set folder {name} in {where}")
    if len(places) > 1:
        raise RecipeError(f"set {name} is in more than one place in {where}")
    return places[0]


def speakers_of(folder: Path, part: str | None) -> list[Path]:
    """Return the speaker folders of a set, or of one part of it.

    Args:
        folder: Folder of the set.
        part: `I/N` with 0 <= I < N, or None for all speakers.

    Raises:
        RecipeError: The part is malformed, or holds no speaker.
    """
    speakers = sorted(path for path in folder.iterdir() if path.is_dir())
    if part is None:
        return speakers
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if not match or not int(match[1]) < int(match[2]):
        raise RecipeError(
            f"'{part}' after '{folder.name}:' must be I/N with 0 <= I < N, such as 0/2"
        )
    index, count = int(match[1]), int(match[2])
    total = len(speakers)
    chosen = speakers[total * index // count : total * (index + 1) // count]
    if not chosen:
        raise RecipeError(f"part {part} of {folder} is empty: it has {total} speakers")
    return chosen


def read_transcripts(chapter: Path) -> dict[str, str]:
    """Read `*.trans.txt` of a chapter: transcripts with single spaces, by utterance."""
    transcripts: dict[str, str] = {}
    for path in sorted(chapter.glob("*.trans.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if words := line.split():
                transcripts[words[0]] = " ".join(words[1:])
    return transcripts


def read_set(spec: str, roots: list[Path], labeled: bool) -> DataDir:
    """Read one set.

    Args:
        spec: Name of the set, with `:I/N` for a part of its speakers.
        roots: Directories to look in.
        labeled: Whether transcripts are required (`text`) or optional
            (`text.oracle`).

    Raises:
        RecipeError: The set is missing or empty, a path has white space, or a
            transcript that is required is missing.
    """
    name, _, part = spec.partition(":")
    data = DataDir()
    transcripts: dict[str, str] = {}
    for speaker in speakers_of(find_set(name, roots), part or None):
        for chapter in sorted(path for path in speaker.iterdir() if path.is_dir()):
            transcripts.update(read_transcripts(chapter))
            for audio in sorted(chapter.glob("*")):
                if audio.suffix.lower() not in (".flac", ".wav"):
                    continue
                if re.search(r"\s", str(audio)):
                    raise RecipeError(f"'{audio}': a path must not have white space")
                if audio.stem in data.wav:
                    raise RecipeError(f"{audio.stem} occurs twice in set {name}")
                data.wav[audio.stem] = str(audio)
                data.speaker[audio.stem] = speaker.name
                data.set_name[audio.stem] = spec
    if not data:
        raise RecipeError(f"set {spec} has no audio (<speaker>/<chapter>/*.flac)")
    untold = data.wav.keys() - transcripts.keys()
    if labeled and untold:
        raise RecipeError(
            f"{len(untold)} of {len(data)} utterances of set {spec} have no "
            f"transcript: {examples(untold)}"
        )
    known = {utt: transcripts[utt] for utt in data.wav if utt in transcripts}
    if labeled:
        data.text = known
    else:
        data.oracle = known
    return data


def prepare(roots: list[Path], sets: dict[str, list[str]], out: Path) -> list[str]:
    """Write the data directories of all four parts.

    Args:
        roots: Directories that hold the set folders.
        sets: Sets by part; every part needs at least one.
        out: Parent of the four data directories.

    Returns:
        Lines for the user, see `save_parts`.

    Raises:
        RecipeError: See `read_set` and `overlap.separate`.
    """
    parts: dict[str, DataDir] = {}
    for part in PARTS:
        if not sets[part]:
            raise RecipeError(f"no {part} sets are named (option --{part}_sets)")
        parts[part] = DataDir()
        for spec in sets[part]:
            parts[part].merge(read_set(spec, roots, part != "unlabeled"))
    return save_parts(parts, out)


def save_parts(parts: dict[str, DataDir], out: Path) -> list[str]:
    """Check the parts against each other and write them below a directory.

    Returns:
        Lines for the user: the warnings, and one line per part.

    Raises:
        RecipeError: See `overlap.separate`.
    """
    lines = [f"warning: {warning}" for warning in separate(parts)]
    for part, data in parts.items():
        data.save(out / part)
        speakers = len(set(data.speaker.values()))
        oracle = len(data.oracle)
        told = f", {oracle} with text.oracle" if part == "unlabeled" else ""
        lines.append(f"{out / part}: {len(data)} utterances, {speakers} speakers{told}")
    return lines


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    for part in PARTS:
        parser.add_argument(f"--{part}", nargs="+", default=[], metavar="SET")
    args = parser.parse_args()
    sets = {part: getattr(args, part) for part in PARTS}
    print("\n".join(prepare(args.root, sets, args.out)))


if __name__ == "__main__":
    run_main(main)
