#!/usr/bin/env python3
"""Download and unpack the LibriSpeech sets that are named, from openslr.org.

An archive that was partly downloaded is resumed, every one is checked against its
SHA-256 sum, and a set that is already unpacked is left alone. Names that start with
``1h/`` or ``9h/`` stand for Libri-light's ten labeled hours.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from datadir import RecipeError, run_main
from progress import clock

OPENSLR = "https://www.openslr.org/resources/12"
LIBRILIGHT = "https://dl.fbaipublicfiles.com/librilight/data"
_SUMS = {
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "train-clean-100": (
        "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"
    ),
    "train-clean-360": (
        "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"
    ),
    "train-other-500": (
        "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"
    ),
}
_LIBRILIGHT_SUM = "5d1efdc777b548194d7e09ba89126e2188026df9fd57aa57eb14408d2b2342af"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """One archive of the corpus.

    Attributes:
        url: Where it is.
        sha256: Its checksum.
        folder: Folder that it unpacks to, below the download directory.
    """

    url: str
    sha256: str
    folder: str


def archive_of(name: str, openslr: str, librilight: str) -> Archive:
    """Return the archive that holds a set.

    Args:
        name: Set, such as ``dev-clean``, ``test-other:0/2`` or ``1h/0/clean``.
        openslr: Address of the folder with LibriSpeech's archives.
        librilight: Address of the folder with Libri-light's.

    Raises:
        RecipeError: There is no such public set.
    """
    name = name.partition(":")[0]
    if name.startswith(("1h/", "9h/")):
        url = f"{librilight}/librispeech_finetuning.tgz"
        return Archive(url, _LIBRILIGHT_SUM, "librispeech_finetuning")
    if name not in _SUMS:
        raise RecipeError(
            f"{name} is no set of LibriSpeech ({', '.join(_SUMS)}); give its "
            "directory with --librispeech DIR"
        )
    return Archive(f"{openslr}/{name}.tar.gz", _SUMS[name], f"LibriSpeech/{name}")


def show(name: str, done: int, total: int, start: float, first: int) -> None:
    """Show on a terminal how much has been downloaded.

    Args:
        name: File name.
        done: Bytes there now.
        total: Bytes in all, 0 where unknown.
        start: Time of the start, in seconds of ``time.monotonic``.
        first: Bytes that were there at the start.
    """
    if not sys.stderr.isatty():
        return
    text = f"{name}: {done / 1e6:.0f}/{total / 1e6:.0f} MB"
    seconds = time.monotonic() - start
    if first < done < total:
        left = seconds * (total - done) / (done - first)
        text += f", time to finish {clock(left)}"
    sys.stderr.write(f"\r\x1b[2K{text}")
    sys.stderr.flush()


def fetch(url: str, path: Path) -> None:
    """Download a file, or the rest of it where ``<path>.part`` has its beginning.

    Args:
        url: Where it is.
        path: File to write.

    Raises:
        RecipeError: It cannot be reached, or the connection broke.
    """
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    print(f"downloading {url}" + (f", {have / 1e6:.0f} MB are there" if have else ""))
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            if response.status != 206:
                have = 0
            total = have + int(response.headers.get("Content-Length", 0))
            done, start = have, time.monotonic()
            with part.open("ab" if have else "wb") as stream:
                while block := response.read(_BLOCK):
                    stream.write(block)
                    done += len(block)
                    show(path.name, done, total, start, have)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            # Nothing is left to send: the part is complete, or longer than the file.
            os.replace(part, path)
            return
        raise RecipeError(f"{url}: {error}") from error
    except OSError as error:
        raise RecipeError(
            f"{url} cannot be downloaded: {error}. Without a network, get the corpus "
            "on another machine and give its directory with --librispeech DIR; after "
            "a broken connection, run the stage again to go on"
        ) from error
    if total and done < total:
        raise RecipeError(f"{url}: the connection broke; run the stage again to go on")
    os.replace(part, path)


def sha256(path: Path) -> str:
    """Return the SHA-256 sum of a file.

    Args:
        path: The file.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def unpack(path: Path, archive: Archive, out: Path) -> None:
    """Unpack an archive; its folder appears only when complete.

    Args:
        path: The archive.
        archive: What it holds.
        out: Download directory.

    Raises:
        RecipeError: It is no archive, or holds something else.
    """
    print(f"unpacking {path}")
    temporary = out / f".{path.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with tarfile.open(path) as stream:
            stream.extractall(temporary, filter="data")
        target = out / archive.folder
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / archive.folder, target)
    except (tarfile.TarError, OSError) as error:
        raise RecipeError(f"{path} cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def get(archive: Archive, out: Path, keep: bool) -> None:
    """Make sure that an archive is downloaded, checked and unpacked.

    Args:
        archive: The archive.
        out: Download directory.
        keep: Whether to keep the archive itself.

    Raises:
        RecipeError: See ``fetch`` and ``unpack``; or the checksum is wrong, and the
            file is removed.
    """
    if (out / archive.folder).is_dir():
        print(f"{out / archive.folder} is there")
        return
    out.mkdir(parents=True, exist_ok=True)
    path = out / archive.url.rsplit("/", 1)[-1]
    if not path.exists():
        fetch(archive.url, path)
    print(f"checking {path}")
    found = sha256(path)
    if found != archive.sha256:
        path.unlink()
        raise RecipeError(
            f"{path} was damaged (SHA-256 {found}, not {archive.sha256}) and has been "
            "removed; run the stage again"
        )
    unpack(path, archive, out)
    if not keep:
        path.unlink()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--openslr", default=OPENSLR, help="mirror of LibriSpeech")
    parser.add_argument("--librilight", default=LIBRILIGHT)
    parser.add_argument("--keep", action="store_true", help="keep the archives")
    args = parser.parse_args()
    archives = [archive_of(name, args.openslr, args.librilight) for name in args.sets]
    for archive in dict.fromkeys(archives):
        get(archive, args.out, args.keep)


if __name__ == "__main__":
    run_main(main)
