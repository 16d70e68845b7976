#!/usr/bin/env python3
"""Check the user's own Kaldi-style directories and copy their lists.

``labeled``, ``dev`` and ``test`` need ``wav.scp`` and ``text``; ``unlabeled`` needs
``wav.scp`` only. A ``text`` of unlabeled data goes to ``text.oracle``.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from datadir import DataDir, RecipeError, examples, run_main
from prepare_librispeech import save_parts


def read_directory(directory: Path, labeled: bool) -> DataDir:
    """Read and check one of the user's directories.

    Args:
        directory: A Kaldi-style data directory.
        labeled: Whether a transcript is required for every utterance.

    Raises:
        RecipeError: A file is missing or malformed, a line of ``wav.scp`` is a
            command or has white space in its path, an audio file does not exist, or
            a transcript is missing.
    """
    if (directory / "segments").exists():
        raise RecipeError(
            f"{directory / 'segments'}: segments are not supported; cut the audio "
            "into one file per utterance first"
        )
    data = DataDir.load(directory)
    scp = directory / "wav.scp"
    for utterance, path in data.wav.items():
        if "/" in utterance:
            raise RecipeError(f"{scp}: utterance {utterance} must not contain '/'")
        if path.endswith("|"):
            raise RecipeError(
                f"{scp}: {utterance} is read from a command ('{path}'); only plain "
                "paths of audio files are supported: write its output to files first"
            )
        if not path or re.search(r"\s", path):
            raise RecipeError(
                f"{scp}: the path of {utterance} ('{path}') must be one path "
                "without white space"
            )
    missing = [path for path in data.wav.values() if not Path(path).is_file()]
    if missing:
        raise RecipeError(
            f"{len(missing)} of {len(data)} files in {scp} do not exist: "
            f"{examples(missing)} (relative paths start at the recipe's directory)"
        )
    if labeled:
        untold = data.wav.keys() - data.text.keys()
        if untold:
            raise RecipeError(
                f"{directory / 'text'} has no line for {len(untold)} utterances of "
                f"{scp}: {examples(untold)}"
            )
    else:
        data.oracle = {**data.text, **data.oracle}
        data.text = {}
    data = data.subset(data.wav)
    data.speaker = {utt: data.speaker.get(utt) or utt for utt in data.wav}
    data.set_name = {utt: directory.name for utt in data.wav}
    data.samples = {}
    return data


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labeled", type=Path, required=True)
    parser.add_argument("--unlabeled", type=Path, required=True)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    names = [directory.name for directory in args.test]
    if len(set(names)) < len(names):
        raise RecipeError(f"two test directories have the same name: {names}")
    parts = {
        "labeled": read_directory(args.labeled, True),
        "unlabeled": read_directory(args.unlabeled, False),
        "dev": read_directory(args.dev, True),
        "test": DataDir(),
    }
    for directory in args.test:
        parts["test"].merge(read_directory(directory, True))
    print("\n".join(save_parts(parts, args.out)))


if __name__ == "__main__":
    run_main(main)
