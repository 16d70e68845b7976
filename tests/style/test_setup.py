"""Tests of the package metadata, the pins and tools/setup_venv.sh."""

import configparser
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import espnet_softpl
from tests import ROOT
from tests.style.test_style import FILES


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the metadata of this checkout, without touching it."""
    base = tmp_path_factory.mktemp("egg_info")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(base)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return base / "espnet_softpl.egg-info"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy this checkout: building leaves files in the tree that is built."""
    copy = tmp_path_factory.mktemp("source")
    for file in FILES:
        target = copy / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return copy


def run_python(
    *words: str | Path, cwd: Path, python: str | Path = sys.executable
) -> str:
    """Run Python without this checkout in its path; return what it printed."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [python, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names_in(archive: Path) -> set[str]:
    """List the files of a wheel or of a source archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return set(wheel.namelist())
    with tarfile.open(archive) as source:
        names = [member.name for member in source.getmembers() if member.isfile()]
    return {name.partition("/")[2] for name in names}


def package_files() -> set[str]:
    """List what belongs to the package, whatever its kind."""
    names = {file.relative_to(ROOT).as_posix() for file in FILES}
    return {name for name in names if name.startswith("espnet_softpl/")}


def blocks() -> list[str]:
    """Return the blocks of commands of docs/install.md."""
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)


def wheel_commands() -> list[str]:
    """Return the page's commands that make a wheel and install it."""
    (found,) = (block for block in blocks() if "pip wheel" in block)
    return found.splitlines()


def run_line(line: str, cwd: Path, **more: str) -> None:
    """Run a command of the page with the pip and the setuptools that are here."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    # A value of "no isolation" that is false switches it off, by pip's own reading.
    env.update(PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="false", PIP_USE_PEP517="1")
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=cwd,
        env={**env, **more},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_on_installing_is_known() -> None:
    text = "".join(blocks())
    assert set(re.findall(r"tools/\S+\.sh", text)) == {"tools/setup_venv.sh"}
    assert text.count("python -m espnet_softpl.bin.check_env") == 3
    for line in re.findall(r"^pip install .*$", text, re.M):
        # What would resolve the requirements of this package or ESPnet is warned of.
        assert "--no-deps" in line or "kaldialign" in line or "[espnet]" in line
    assert f"espnet_softpl-{espnet_softpl.__version__}-py3-none-any.whl" in text


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    """Build the wheel by the command of the page."""
    run_line(wheel_commands()[0], source)
    (found,) = (source / "dist").iterdir()
    assert found.name in wheel_commands()[0]
    return found


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = names_in(wheel)
    assert {n for n in names if ".dist-info/" not in n} == package_files()
    assert "espnet_softpl/__main__.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_build_makes_the_same_wheel_and_a_source_archive(
    source: Path, wheel: Path, tmp_path: Path
) -> None:
    run_python("-m", "build", "--no-isolation", "-o", tmp_path, cwd=source)
    archive, built = sorted(tmp_path.iterdir(), key=lambda file: file.suffix)
    assert names_in(built) == names_in(wheel)
    tracked = {file.relative_to(ROOT).as_posix() for file in FILES} - {".gitignore"}
    assert names_in(archive) >= tracked, "see MANIFEST.in"
    run_python("-m", "twine", "check", "--strict", archive, built, cwd=tmp_path)


def test_the_image_is_made_of_what_is_here() -> None:
    """Nothing here can build it; so every path and argument in it is looked up."""
    text = (ROOT / "tools" / "Dockerfile").read_text(encoding="utf-8")
    script = (ROOT / "tools" / "setup_venv.sh").read_text(encoding="utf-8")
    (version,) = re.findall(r"^FROM python:([\d.]+)-slim$", text, re.M)
    assert f"python{version}" in script
    inside = set(re.findall(r"/srv/espnet_softpl/(\S+)", text))
    assert inside == {"tools/setup_venv.sh", "egs2/librispeech_softpl"}
    assert all((ROOT / path).exists() for path in inside)
    assert set(re.findall(r"TORCH_BUILD=(\w+)", text)) == {"default", "cpu"}
    assert "TORCH_BUILD must be cpu or default" in script
    conda = yaml.safe_load((ROOT / "tools" / "environment.yml").read_text())
    assert f"python={version}" in conda["dependencies"]


def test_a_build_of_torch_that_is_none_is_refused(tmp_path: Path) -> None:
    run = subprocess.run(
        [ROOT / "tools" / "setup_venv.sh", tmp_path / "new"],
        env={**os.environ, "TORCH_BUILD": "gpu"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1 and "must be cpu or default, not 'gpu'" in run.stderr
    assert not (tmp_path / "new").exists()


def stand_in(name: str, version: str, requires: str, site_packages: Path) -> None:
    """Write what pip takes for an installed package."""
    info = site_packages / f"{name}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text("\n".join([*lines, f"Requires-Dist: {requires}\n"]))
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text("")


@pytest.mark.slow
def test_the_wheel_moves_nothing_and_works(
    source: Path, wheel: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    (site_packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    stand_in("torch", "2.0.0", "setuptools>=77", site_packages)
    stand_in("espnet", "202511", "setuptools<74", site_packages)
    before = {path.name for path in site_packages.iterdir()}
    run_line(wheel_commands()[1], source, PIP_PYTHON=str(python))
    new = {path.name for path in site_packages.iterdir()} - before
    info = f"espnet_softpl-{espnet_softpl.__version__}.dist-info"
    assert new == {"espnet_softpl", info}
    assert (site_packages / "torch-2.0.0.dist-info").exists()
    script = "import espnet_softpl; print(espnet_softpl.__version__)"
    version = run_python("-c", script, cwd=tmp_path, python=python)
    assert version.strip() == espnet_softpl.__version__
    usage = run_python("-m", "espnet_softpl.cli", "--help", cwd=tmp_path, python=python)
    commands = re.findall(r"^ {4}([\w-]+)", usage, re.M)
    assert "train" in commands and os.access(python.parent / "softpl", os.X_OK)
    for name in commands:
        script = python.parent / f"espnet-softpl-{'add-pl' if name == 'add' else name}"
        assert os.access(script, os.X_OK), name
    report = subprocess.run(
        [python.parent / "espnet-softpl-check-env"], capture_output=True, text=True
    )
    assert report.returncode == 1 and report.stderr == ""
    assert re.search(r"^torch +2\.0\.0 .* BROKEN ", report.stdout, re.M)
    assert re.search(r"^kaldialign +- .* MISSING ", report.stdout, re.M)
    assert "Not usable until this is fixed: torch, " in report.stdout


def read_pins() -> dict[str, str]:
    lines = (ROOT / "tools" / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def read_requirements(metadata: Path) -> dict[str, list[Requirement]]:
    """Return extra -> requirements; "" holds install_requires."""
    groups: dict[str, list[Requirement]] = {}
    section = ""
    for line in (metadata / "requires.txt").read_text().split("\n"):
        if match := re.fullmatch(r"\[(\w*):?.*\]", line):
            section = match.group(1)
        elif line:
            groups.setdefault(section, []).append(Requirement(line))
    return groups


def test_version_is_the_package_version(metadata: Path) -> None:
    text = (metadata / "PKG-INFO").read_text(encoding="utf-8")
    assert re.search(r"^Name: espnet_softpl$", text, re.MULTILINE)
    assert re.search(rf"^Version: {espnet_softpl.__version__}$", text, re.MULTILINE)
    assert re.search(r"^Requires-Python: >=3\.10$", text, re.MULTILINE)
    assert re.search(r"^License: Apache-2\.0$", text, re.MULTILINE)


def test_espnet_is_no_hard_dependency(metadata: Path) -> None:
    groups = read_requirements(metadata)
    hard = {canonicalize_name(requirement.name) for requirement in groups[""]}
    assert "torch" in hard
    assert not hard & {"espnet", "torchaudio"}, "see EXTRAS['espnet'] in setup.py"
    assert {r.name for r in groups["espnet"]} == {"espnet", "torchaudio"}
    assert "espeakng-loader" not in hard, "GPL-3: an extra"


def test_pins_satisfy_requirements(metadata: Path) -> None:
    pins = read_pins()
    for requirements in read_requirements(metadata).values():
        for requirement in requirements:
            pin = pins[canonicalize_name(requirement.name)]
            assert pin in requirement.specifier, f"{requirement} but pinned to {pin}"


def test_only_the_package_is_installed(metadata: Path) -> None:
    assert (metadata / "top_level.txt").read_text().split() == ["espnet_softpl"]


def test_sdist_lists_what_it_needs(metadata: Path) -> None:
    sources = set((metadata / "SOURCES.txt").read_text().splitlines())
    needed = ["LICENSE", "setup.py", "tools/constraints.txt", "tools/setup_venv.sh"]
    assert sources.issuperset([*needed, "tests/run.sh", "tests/style/test_setup.py"])
    generated = re.compile(r"egs2/[^/]+/(data|downloads|dump|exp)/")
    assert not [source for source in sources if generated.match(source)]


def test_console_scripts_exist(metadata: Path) -> None:
    parser = configparser.ConfigParser()
    parser.read(metadata / "entry_points.txt")
    targets = dict(parser["console_scripts"])
    assert targets["espnet-softpl-train"] == "espnet_softpl.bin.train:main"
    modules = (ROOT / "espnet_softpl" / "bin").glob("[!_]*.py")
    scripts = [f"espnet-softpl-{file.stem.replace('_', '-')}" for file in modules]
    assert sorted(targets) == sorted([*scripts, "softpl"])
    for target in targets.values():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function)), target


def run_setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "tools" / "setup_venv.sh"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def make_interpreter(path: Path, version: str) -> Path:
    """Write a stand-in for a Python that knows only its version."""
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return path


def test_setup_venv_help() -> None:
    result = run_setup("--help")
    assert result.returncode == 0
    assert "Usage: tools/setup_venv.sh [DIR]" in result.stdout


@pytest.mark.parametrize("version", ["2.7", "3.8", "3.9"])
def test_setup_venv_refuses_an_old_python(version: str, tmp_path: Path) -> None:
    old = make_interpreter(tmp_path / "old python", version)
    result = run_setup(str(tmp_path / "venv"), PYTHON=str(old))
    assert result.returncode == 1
    assert f"is Python {version}, but 3.10 or later is needed" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_setup_venv_refuses_what_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    result = run_setup(str(tmp_path))
    assert result.returncode == 1
    assert "was not made by this script" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("arguments", [["--clear"], ["one", "two"]])
def test_setup_venv_refuses_unknown_arguments(arguments: list[str]) -> None:
    result = run_setup(*arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("setup_venv.sh: ")


def test_setup_venv_shows_why_a_step_failed(tmp_path: Path) -> None:
    """A Python without venv, as on some distributions, ends with the log's end."""
    venv = tmp_path / "a venv"
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ncase "$1" in -c) echo 3.11 ;; *) echo no venv >&2; exit 1 ;; esac\n'
    )
    python.chmod(0o755)
    result = run_setup(str(venv), PYTHON=str(python))
    assert result.returncode == 1
    assert "this command failed" in result.stderr
    assert "no venv" in result.stderr
    assert str(venv / "setup.log") in result.stderr
    assert (venv / "espnet_softpl.setup").read_text() == "incomplete\n"


@pytest.mark.parametrize(
    "refusal", ["No matching distribution", "ResolutionImpossible"]
)
def test_setup_venv_takes_another_torch_where_there_is_none_for_cpus(
    tmp_path: Path, refusal: str
) -> None:
    """pip says it otherwise if the caller's settings constrain torch."""
    python, inside = tmp_path / "python", tmp_path / "inside"
    inside.write_text(
        f'#!/bin/sh\ncase "$*" in *+cpu) echo "ERROR: {refusal}"; exit 1 ;; esac\n'
        'echo "asked for: $*"; exit 1\n'
    )
    python.write_text(
        '#!/bin/sh\ncase "$1" in -c) echo 3.11 ;; *) mkdir -p "$3/bin"; '
        f'cp "{inside}" "$3/bin/python" ;; esac\n'
    )
    for script in (python, inside):
        script.chmod(0o755)
    result = run_setup(str(tmp_path / "venv"), PYTHON=str(python), TORCH_BUILD="cpu")
    assert result.returncode == 1
    assert re.search(r"asked for: -m pip install torch==[\d.]+$", result.stderr, re.M)


def test_env_uses_an_existing_environment_as_it_is() -> None:
    script = '. "$1/tools/env.sh" && echo "$PYTHON"'
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script, "bash", str(ROOT)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert os.path.normpath(result.stdout.strip()) == os.path.normpath(sys.executable)
    assert result.stderr == ""
