"""The command `check_env` knows every requirement, and says what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import re

import pytest

from espnet_softpl.bin import check_env
from espnet_softpl.ctc import beam_kernel, graph_kernel


def test_every_requirement_has_a_row_and_a_pin() -> None:
    """The metadata are those of setup.py: see tests/style/test_setup.py."""
    pins = check_env.tested_versions()
    rows = {row.name: row for row in check_env.check_all(quick=True)}
    needed = check_env.requirements("") + check_env.requirements("espnet")
    assert {"torch", "PyYAML", "kaldialign", "espnet", "torchaudio"} <= set(needed)
    assert "setuptools" not in needed  # Of later versions of Python alone.
    optional = [
        name for extra in check_env.OPTIONAL for name in check_env.requirements(extra)
    ]
    assert {"matplotlib", "espeakng-loader"} <= set(optional)
    assert rows.keys() == {"python", "machine", "GPU", *needed, *optional}
    for name in (*needed, *optional):
        assert rows[name].tested == pins[name], name


def test_a_wheel_has_no_tested_versions(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(check_env, "PINS", tmp_path / "none")
    for row in check_env.check_all(quick=True):
        if row.name != "python":
            assert (row.status, row.tested) == ("ok", "-")


def test_check_env_passes_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_env.main(["--quick"]) == 0
    report = capsys.readouterr().out
    assert re.search(r"^torch +\d", report, re.MULTILINE)
    assert "Everything necessary is there." in report


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("librosa", "MISSING", 1),
        ("espnet", "MISSING", 1),
        ("kaldialign", "MISSING", 1),
        ("tensorboard", "optional", 0),
    ],
)
def test_check_env_reports_what_is_missing(
    name: str,
    status: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = importlib.metadata.version

    def version(asked: str) -> str:
        if asked == name:
            raise importlib.metadata.PackageNotFoundError(asked)
        return real(asked)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert check_env.main(["--quick"]) == code
    report = capsys.readouterr().out
    assert re.search(rf"^{name} +- .* {status} .*pip install", report, re.MULTILINE)
    assert (f"fixed: {name}\n" in report) == (code == 1)


def test_check_env_explains_a_torchaudio_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(module: str) -> None:
        raise OSError("libc10_cuda.so: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    row = check_env.check_import(
        check_env.Row("torchaudio", "2.11.0", "2.11.0", "ok"), "torchaudio._extension"
    )
    assert row.broken
    assert "*.so" in row.advice


def test_check_env_notices_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.12.1+cu130")
    row = check_env.check_version("torch", "2.13.0", "MISSING", "")
    assert (row.status, row.broken) == ("differs from tested", False)


def test_check_env_compiles_the_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training after it compiles none; a numba that cannot compile is broken."""
    row = check_env.Row("numba", "0.68.1")
    assert check_env.check_kernels(row) == row._replace(advice="compiles")
    for kernel in (beam_kernel.search, graph_kernel.forward_backward):
        assert kernel.nopython_signatures

    def broken(*arguments: object) -> None:
        raise ImportError("LLVM is missing\nand more")

    monkeypatch.setattr(beam_kernel, "search", broken)
    row = check_env.check_kernels(row)
    assert row.broken and row.advice == "ImportError: LLVM is missing"
