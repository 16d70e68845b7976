#!/usr/bin/env python3
"""Check the user's own Kaldi-style directories and copy their lists.

`labeled`, `dev` and `test` need `wav.scp` and `text`; `unlabeled` needs
`wav.scp` only. A `text` of unlabeled data goes to `text.oracle`. Audio that is no
plain file (parts of recordings by `segments`, places in archives, several files,
commands) is decoded and written to `--audio`. Transcripts become Unicode NFC.
"""

from __future__ import annotations

import argparse
import multiprocessing
import unicodedata
from pathlib import Path

from datadir import DataDir, RecipeError, examples, run_main
from prepare_librispeech import save_parts
from tqdm import tqdm

from espnet_softpl.data.formatting import (
    Job,
    Outcome,
    format_recording,
    list_bad,
    read_recordings,
)


def extract(jobs: list[Job], label: str, workers: int) -> list[Outcome]:
    """Write the audio of recordings that are no plain files.

    Returns:
        The outcome of every utterance.
    """
    if not jobs:
        return []
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        done = pool.imap(format_recording, jobs)
        shown = tqdm(done, label, len(jobs), False, disable=None)
        return [item for items in shown for item in items]


def read_directory(
    directory: Path, labeled: bool, audio: Path, args: argparse.Namespace
) -> DataDir:
    """Read and check one of the user's directories.

    Args:
        directory: A Kaldi-style data directory.
        labeled: Whether a transcript is required for every utterance.
        audio: Where audio is written that is no plain file.
        args: Options `allow_pipes`, `max_bad_share` and `nj`.

    Raises:
        RecipeError: A file is missing or malformed, audio does not exist or too much
            of it cannot be decoded, a transcript is missing, or there is a command
            that is not allowed.
    """
    recordings = read_recordings(directory, args.allow_pipes)
    data = DataDir.load(directory)
    data.wav, jobs = {}, []
    for recording in recordings:
        (first, *others) = recording.cuts
        if recording.kind == "sound" and first.whole and not others:
            data.wav[first.utterance] = recording.value
        else:
            jobs.append(Job(recording, str(audio)))
    found = extract(jobs, f"extracting {directory.name}", args.nj)
    if warning := list_bad(found, args.max_bad_share, audio / "bad_audio"):
        print(f"warning: {warning}")
    data.wav.update({item.utterance: item.path for item in found if item.path})
    if labeled:
        untold = data.wav.keys() - data.text.keys()
        if untold:
            raise RecipeError(
                f"{directory / 'text'} has no line for {len(untold)} utterances of "
                f"{directory}: {examples(untold)}"
            )
    else:
        data.oracle = {**data.text, **data.oracle}
        data.text = {}
    data = data.subset(data.wav)
    data.text = compose(data.text)
    data.oracle = compose(data.oracle)
    data.speaker = {utt: data.speaker.get(utt) or utt for utt in data.wav}
    data.set_name = dict.fromkeys(data.wav, directory.name)
    data.samples = {}
    return data


def compose(texts: dict[str, str]) -> dict[str, str]:
    """Bring transcripts to Unicode NFC: a letter with its accents is one character.

    Else the same word would be two, and the same letter two tokens, depending on the
    keyboard that it was written with.
    """
    return {utt: unicodedata.normalize("NFC", text) for utt, text in texts.items()}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for part in ("labeled", "unlabeled", "dev"):
        parser.add_argument(
            f"--{part}", type=Path, required=True, help=f"directory of the {part} set"
        )
    parser.add_argument(
        "--test", type=Path, nargs="+", required=True, help="directories of test sets"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="parent of the four to write"
    )
    parser.add_argument(
        "--audio",
        type=Path,
        help="where extracted audio is written (default: OUT/audio)",
    )
    parser.add_argument(
        "--allow_pipes",
        choices=("true", "false"),
        default="false",
        help="run the commands in wav.scp (default: false)",
    )
    parser.add_argument(
        "--max_bad_share",
        type=float,
        default=0.01,
        help="share of a set's audio, 0 to 1, that may be unusable (default: 0.01)",
    )
    parser.add_argument(
        "--nj", type=int, default=2, help="number of processes (default: 2)"
    )
    args = parser.parse_args()
    args.allow_pipes = args.allow_pipes == "true"
    if args.nj < 1 or not 0 <= args.max_bad_share <= 1:
        raise RecipeError("--nj must be at least 1, --max_bad_share 0 to 1")
    audio = args.audio or args.out / "audio"
    names = [directory.name for directory in args.test]
    if len(set(names)) < len(names):
        raise RecipeError(f"two test directories have the same name: {names}")
    parts = {
        part: read_directory(
            getattr(args, part), part != "unlabeled", audio / part, args
        )
        for part in ("labeled", "unlabeled", "dev")
    }
    parts["test"] = DataDir()
    for directory in args.test:
        place = audio / "test" / directory.name
        parts["test"].merge(read_directory(directory, True, place, args))
    print("\n".join(save_parts(parts, args.out)))


if __name__ == "__main__":
    run_main(main)
