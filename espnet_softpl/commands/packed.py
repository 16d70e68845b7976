"""Packed ESPnet models, from a file or from the model zoo, unpacked safely."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from espnet_softpl.core.errors import UserError, name_some, status_of
from espnet_softpl.core.files import work_directory

# espnet_model_zoo asks for ESPnet, and pip would then replace torch: see setup.py.
INSTALL_ZOO = (
    "pip install --no-deps espnet_model_zoo && "
    "pip install huggingface_hub pandas requests tqdm filelock"
)

# What ESPnet's pack and unpack take.
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")
# What an archive may hold when unpacked: this times its own size, and this many bytes.
# Weights hardly shrink, so an honest one is far from it.
MOST_GROWTH, MOST_EXTRA = 20, 10**8
DESCRIPTION = "meta.yaml"  # What espnet2.bin.pack puts first into an archive.


def is_archive(path: Path) -> bool:
    """Tell whether a file name is one of ESPnet's archives."""
    return path.name.lower().endswith(ARCHIVES)


def stem(path: Path) -> str:
    """Return an archive's name without its ending: `exp_valid.acc.ave` of a `.zip`."""
    ends = (end for end in ARCHIVES if path.name.lower().endswith(end))
    return path.name[: len(path.name) - len(next(ends, ""))]


def _members(
    archive: Path, content: zipfile.ZipFile | tarfile.TarFile
) -> Iterator[str]:
    """Yield the names of members, or refuse an archive that grows without bound."""
    most = MOST_GROWTH * archive.stat().st_size + MOST_EXTRA
    total = 0
    is_zip = isinstance(content, zipfile.ZipFile)
    for member in content.infolist() if is_zip else content:
        # Names cost something too: there may be millions.
        total += 512 + (member.file_size if is_zip else member.size)
        if total > most:
            raise UserError(
                f"{archive} holds more than {most} bytes when unpacked, {MOST_GROWTH} "
                f"times its size and {MOST_EXTRA}: no model does. If it is one, unpack "
                f"it yourself and give the directory"
            )
        yield member.filename if is_zip else member.name


def _extract(archive: Path, target: Path) -> None:
    """Unpack into an empty directory; a member that leads out of it is refused."""
    # A tar archive may end in a model, which is a zip archive: tar is asked first.
    is_zip = not tarfile.is_tarfile(archive)
    if is_zip and not zipfile.is_zipfile(archive):
        raise UserError(
            f"{archive} is neither a zip nor a tar archive, as espnet2.bin.pack "
            f"writes, or it is damaged"
        )
    with zipfile.ZipFile(archive) if is_zip else tarfile.open(archive) as content:
        names = list(_members(archive, content))
        outside = [
            name
            for name in names
            if name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name
        ]
        if outside:
            raise UserError(
                f"{archive}: members lead out of the archive's directory "
                f"({name_some(outside)}); it is not unpacked"
            )
        if is_zip:
            for name in names:
                content.extract(name, target)  # Links become files of their text.
        elif hasattr(tarfile, "data_filter"):
            content.extractall(target, filter="data")
        elif all(member.isfile() or member.isdir() for member in content):
            content.extractall(target)  # noqa: S202  # Names were checked above.
        else:
            raise UserError(
                f"{archive} holds links or devices; unpack it with Python 3.10.12, "
                f"3.11.4 or later, which can tell whether they lead out of it"
            )


def unpack(archive: Path, target: Path) -> None:
    """Unpack an archive of `espnet2.bin.pack` to a new directory, whole or not at all.

    ESPnet's own `unpack` trusts the members' names; this does not. If `target` holds
    this very archive already (the same meta.yaml, which has the time of packing),
    nothing is done.
    """
    if not archive.is_file():
        raise UserError(f"{archive} does not exist")
    target.parent.mkdir(parents=True, exist_ok=True)
    with work_directory(target.with_name(f".unpack.{target.name}")) as directory:
        content = directory / "content"
        content.mkdir()
        try:
            _extract(archive, content)
        except Exception as error:  # Each compression has its own.
            if isinstance(error, UserError) or status_of(error) == 4:
                raise
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{archive} cannot be unpacked: {reason}") from error
        description, known = content / DESCRIPTION, target / DESCRIPTION
        if not description.is_file():
            raise UserError(
                f"{archive} has no {DESCRIPTION}: espnet2.bin.pack has not packed it"
            )
        if not target.exists():
            os.replace(content, target)
        elif not known.is_file() or known.read_bytes() != description.read_bytes():
            raise UserError(
                f"{target} exists and is not what {archive} holds; give another "
                f"--unpack_dir"
            )


def fetch(tag: str, cache_dir: Path | None) -> Path:
    """Download a model of the zoo, packed or not, or find it in the cache."""
    try:
        from espnet_model_zoo.downloader import ModelDownloader
    except ImportError as error:
        raise UserError(
            f"--model_tag needs espnet_model_zoo ({error}). Install it by: "
            f"{INSTALL_ZOO}. Or download the archive and give it by --archive"
        ) from error
    try:
        return Path(ModelDownloader(cache_dir).download(tag))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(
            f"--model_tag {tag}: cannot be downloaded: {error}. Check the name and the "
            f"network, or give an archive by --archive"
        ) from error
