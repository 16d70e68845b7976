"""The download of LibriSpeech, from a server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.librispeech_runs import write_chapter
from tests.support.recipe import RECIPE

SCRIPT = RECIPE / "local" / "download_librispeech.sh"


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and the rest of files; notes what was asked for."""

    asked: list[str | None] = []

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content, asked = path.read_bytes(), self.headers.get("Range")
        self.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start >= len(content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            last, size = len(content) - 1, len(content)
            self.send_header("Content-Range", f"bytes {start}-{last}/{size}")
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A web server with an archive of one set."""
    chapter = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "1"
    write_chapter(chapter, "84-1", np.random.default_rng(0))
    (tmp_path / "www").mkdir()
    with tarfile.open(tmp_path / "www" / "dev-clean.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "LibriSpeech", "LibriSpeech")
    RangeHandler.asked.clear()

    def handler(*args: object) -> RangeHandler:
        return RangeHandler(*args, directory=str(tmp_path / "www"))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def download(
    script: Path, out: Path, *options: object
) -> subprocess.CompletedProcess[str]:
    command = [str(script), "--out", str(out), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def script(mirror: str, tmp_path: Path) -> Path:
    """The script, with the sum of the mirror's archive and its address."""
    archive = (tmp_path / "www" / "dev-clean.tar.gz").read_bytes()
    lines = SCRIPT.read_text().splitlines(keepends=True)
    (place,) = [i for i, line in enumerate(lines) if "[dev-clean]=" in line]
    lines[place] = f"[dev-clean]={hashlib.sha256(archive).hexdigest()}\n"
    text = "".join(lines).replace("https://www.openslr.org/resources/12", mirror)
    path = tmp_path / SCRIPT.name
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_broken_download_is_resumed(script: Path, tmp_path: Path) -> None:
    out = tmp_path / "downloads"
    out.mkdir()
    content = (tmp_path / "www" / "dev-clean.tar.gz").read_bytes()
    (out / "dev-clean.tar.gz.part").write_bytes(content[:1000])
    for _ in range(2):  # The second time there is nothing to do.
        result = download(script, out, "--sets", "dev-clean", "dev-clean:0/2")
        assert result.returncode == 0, result.stderr
        assert RangeHandler.asked == ["bytes=1000-"]
        assert len(list((out / "LibriSpeech" / "dev-clean").rglob("*.flac"))) == 2
        assert [path.name for path in out.iterdir()] == ["LibriSpeech"]
    assert result.stdout == f"{out}/LibriSpeech/dev-clean is there\n"


def test_a_part_may_be_the_whole(script: Path, tmp_path: Path) -> None:
    out = tmp_path / "downloads"
    out.mkdir()
    content = (tmp_path / "www" / "dev-clean.tar.gz").read_bytes()
    (out / "dev-clean.tar.gz.part").write_bytes(content)
    result = download(script, out, "--sets", "dev-clean")
    assert result.returncode == 0, result.stderr
    assert (out / "LibriSpeech" / "dev-clean").is_dir()


def test_a_damaged_download_is_refused_and_removed(
    script: Path, tmp_path: Path
) -> None:
    out = tmp_path / "downloads"
    out.mkdir()
    (out / "dev-clean.tar.gz.part").write_bytes(b"x" * 1000)
    result = download(script, out, "--sets", "dev-clean")
    assert result.returncode == 1
    assert "was damaged" in result.stderr and "run the stage again" in result.stderr
    assert not list(out.iterdir())
    assert download(script, out, "--sets", "dev-clean", "--keep").returncode == 0
    assert (out / "dev-clean.tar.gz").exists()
    assert (out / "LibriSpeech" / "dev-clean").is_dir()


def test_no_network_is_said_with_what_to_do(tmp_path: Path) -> None:
    sets = ["--sets", "dev-clean", "--openslr", "http://127.0.0.1:9"]
    # Nobody listens on port 9 of this machine.
    result = download(SCRIPT, tmp_path / "downloads", *sets)
    assert result.returncode == 1
    assert "cannot be downloaded" in result.stderr
    assert "--librispeech DIR" in result.stderr


def test_archives_are_found_by_set(script: Path, mirror: str, tmp_path: Path) -> None:
    where = ["--librilight", mirror]
    result = download(script, tmp_path / "out", "--sets", "9h/other", *where)
    assert f"downloading {mirror}/librispeech_finetuning.tgz\n" == result.stdout
    assert result.returncode == 1 and "404" in result.stderr
    result = download(script, tmp_path, "--sets", "dev-clean", "train-clean-100-mine")
    assert result.returncode == 1 and result.stdout == ""
    assert "train-clean-100-mine is no set of LibriSpeech (" in result.stderr
    assert "test-other" in result.stderr
