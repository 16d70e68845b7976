"""Damaged tables, settings, archives and states end in success, or in one line.

Every mutation is drawn from a seed. A command may succeed, or refuse with status 2 to
4; any other exception, more than 20 s, and any file outside of its output directory are
failures.
"""

from __future__ import annotations

import collections
import json
import multiprocessing.pool
import os
import random
import shutil
import signal
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from espnet_softpl.bin import export, format_audio, label
from espnet_softpl.training.task import SoftPLTask
from tests.support.audio_forms import RATE, write_segments
from tests.support.espnet_runs import PL, config, make_data, train

SEED = int(os.getenv("FUZZ_SEED", "1"))
TRIES = int(os.getenv("FUZZ_TRIES", "75"))  # Of each kind.
LIMIT = 20  # Seconds.
ODD = [b"\xef\xbb\xbf", b"\0", b"|", b"../../x", b"/dev/zero", b"{", b"[", b" ", b"\n"]
ODD += [b"\xff", b"9" * 30, b"nan", b"-1", b":", b"fifo", b"*a", b"&a", b"!!python/x"]
VALUES = [None, 5, -1, 0.5, 1e308, True, "", "x", "/etc/passwd", "../x.y", "\0", [], {}]
VALUES += [
    [1],
    [[1]],
    ["a", "b"],
    {"a": 1},
    {"from": 0, "to": 1, "steps": 2},
    "a" * 300,
]


class Hang(BaseException):
    """A command that takes too long."""


def hang(*_: object) -> None:
    raise Hang


def damage(rng: random.Random, content: bytes) -> bytes:
    """Flip, insert, delete, repeat or cut off."""
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        place = rng.randrange(len(content) + 1)
        end = min(len(content), place + rng.choice([1, 1, 10, 100, 1000]))
        piece = rng.choice(
            [rng.choice(ODD), b"", content[place:end] * 2, rng.randbytes(end - place)]
        )
        content = content[:place] + piece + content[end:]
    return content[: rng.randrange(len(content) + 1)] if rng.random() < 0.1 else content


def damage_file(rng: random.Random, path: Path) -> None:
    path.write_bytes(damage(rng, path.read_bytes()))


def damage_value(rng: random.Random, values: dict) -> None:
    """Put an odd value in the place of one, anywhere in a configuration."""
    part, key = values, rng.choice(list(values))
    while isinstance(part[key], dict) and part[key] and rng.random() < 0.7:
        part = part[key]
        key = rng.choice(list(part))
    part[key] = rng.choice(VALUES)


def damage_yaml(rng: random.Random, path: Path) -> None:
    if rng.random() < 0.3:
        damage_file(rng, path)
        return
    values = yaml.safe_load(path.read_text())
    damage_value(rng, values)
    path.write_text(yaml.safe_dump(values))


def tables(rng: random.Random, work: Path) -> Callable[[], object]:
    """Format a directory with damaged tables."""
    source = write_segments(work / "calls", seed=1)
    os.mkfifo(source / "fifo")
    (source / "text").write_text("call1-1 A\ncall1-2 B\n")
    for name in rng.sample(["wav.scp", "segments", "text"], rng.choice([1, 1, 2])):
        damage_file(rng, source / name)
    words = ["--source", source, "--target", work / "out", "--fs", RATE, "--nj", 1]
    words += ["--max_bad_share", rng.choice(["0.01", "1"])]
    return lambda: format_audio.main(list(map(str, words)))


def experiments(rng: random.Random, work: Path) -> Callable[[], object]:
    """Export from, or label with, an experiment of damaged settings or states."""
    exp = Path(shutil.copytree(work.parent / "exp", work / "exp", symlinks=True))
    if rng.random() < 0.6:
        damage_yaml(rng, exp / "config.yaml")
    else:
        files = [p for p in exp.rglob("*.pth") if not p.is_symlink()]
        for file in files:
            damage_file(rng, file)
    words = ["--asr_exp", exp, "--which", rng.choice(["student", "teacher", "average"])]
    return command(rng, work, words)


def command(rng: random.Random, work: Path, words: list) -> Callable[[], object]:
    if rng.random() < 0.5:
        words += ["--out", work / rng.choice(["out", "out.zip", "out.tar.gz"])]
        return lambda: export.main(list(map(str, words)))
    scp = work / "wav.scp"
    scp.write_bytes((work.parent / "data/unlabeled/wav.scp").read_bytes())
    if rng.random() < 0.5:
        damage_file(rng, scp)
    words += ["--out", work / "out", "--wav_scp", scp, "--num_workers", 0]
    words += ["--pl_max_bad_share", rng.choice([0.01, 1])]
    return lambda: label.main(list(map(str, words)))


def archives(rng: random.Random, work: Path) -> Callable[[], object]:
    """Export from, or label with, a damaged archive."""
    archive = work / f"in{rng.choice(['.zip', '.tar', '.tgz'])}"
    archive.write_bytes((work.parent / f"model{archive.suffix}").read_bytes())
    damage_file(rng, archive)
    return command(rng, work, ["--asr_exp", archive])


def trainings(rng: random.Random, work: Path) -> Callable[[], object]:
    """Train with damaged settings of ours, tables or base model."""
    data = shutil.copytree(work.parent / "data", work / "data")
    text = (work.parent / "train.yaml").read_text()
    options = yaml.safe_load(text.replace(str(work.parent / "data"), str(data)))
    kind = rng.choice(["settings", "settings", "tables", "model"])
    if kind == "settings":
        ours = {key: v for key, v in options.items() if key.startswith("pl_")}
        damage_value(rng, ours)
        options |= ours
    elif kind == "tables":
        names = ("labeled/wav.scp", "labeled/text", "unlabeled/wav.scp", "tokens.txt")
        names += ("unlabeled/text.oracle", "labeled/text_shape", "dev/text")
        damage_file(rng, Path(data) / rng.choice(names))
    else:
        shutil.copyfile(work.parent / "exp/latest.pth", work / "base.pth")
        part = rng.choice(["", ":encoder:encoder", ":ctc:encoder", ":x", ":::ctc"])
        options["init_param"] = [f"{work / 'base.pth'}{part}"]
        if rng.random() < 0.7:
            damage_file(rng, work / "base.pth")
    return lambda: train(SoftPLTask, options, work / "out")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole data, a trained experiment, and archives of it."""
    root = tmp_path_factory.mktemp("fuzz")
    data = make_data(root / "data")
    options = config(**data.options(), **PL, max_epoch=1, num_iters_per_epoch=6)
    options |= dict(pl_filter=["tokens"], pl_guard="warn", pl_guard_conf={})
    options |= dict(pl_cache="slimipl", pl_cache_conf=dict(size=2))
    (root / "train.yaml").write_text(yaml.safe_dump(options))
    train(SoftPLTask, options, root / "exp")
    for name in ("model.zip", "model.tar", "model.tgz"):
        export.main(["--asr_exp", str(root / "exp"), "--out", str(root / name)])
    return root


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """List what lies in a directory, with size and time."""
    found = {}
    for path in root.rglob("*"):
        stat = path.lstat()
        is_file = path.is_file()
        found[str(path)] = (stat.st_size, stat.st_mtime_ns) if is_file else (0, 0)
    return found


def outcome(call: Callable[[], object]) -> str:
    signal.signal(signal.SIGALRM, hang)
    signal.alarm(LIMIT)
    try:
        call()
    except Hang:
        return "hang"
    except SystemExit as end:
        return "refused" if end.code in (2, 3, 4) else f"status {end.code}"
    except BaseException as error:
        import traceback

        return f"{type(error).__name__}: {error}\n{traceback.format_exc()[-1500:]}"
    finally:
        signal.alarm(0)
    return "succeeded"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [tables, experiments, archives, trainings])
def test_no_damage_ends_in_a_traceback(root, kind, monkeypatch, capsys) -> None:
    """Counts are printed as JSON (pytest -s), and stand in docs/dev/soak.md."""
    # Threads start sooner; only processes have signals to ignore.
    pool = multiprocessing.pool.ThreadPool
    threads = types.SimpleNamespace(Pool=lambda jobs, *_: pool(jobs))
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: threads)
    counts: collections.Counter[str] = collections.Counter()
    failures = []
    for number in range(TRIES):
        rng = random.Random(f"{SEED} {kind.__name__} {number}")
        work = root / "work"
        work.mkdir()
        call = kind(rng, work)
        before = tree(root)
        monkeypatch.chdir(work)
        result = outcome(call)
        capsys.readouterr()
        new = {key for key, value in tree(root).items() if before.get(key) != value}
        outside = [name for name in new if not name.startswith(f"{work}/out")]
        outside = [name for name in outside if name != str(work)]
        known = result in ("succeeded", "refused", "hang")
        counts[result if known else "traceback"] += 1
        if result not in ("succeeded", "refused") or outside:
            failures.append(f"{kind.__name__} {number}: {result} {sorted(outside)}")
        monkeypatch.chdir(root)
        shutil.rmtree(work)
    with capsys.disabled():
        print(json.dumps({"kind": kind.__name__, "tried": TRIES, **counts}))
    assert not failures, "\n".join(failures)
    assert counts["succeeded"] and counts["refused"]
