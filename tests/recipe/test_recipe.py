"""The recipe: options, refusals, job control, and all stages from end to end."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.recipe import GENERATED, RECIPE, copy_recipe, environment, run
from tests.support.report_pages import check_page

SYSTEMS = ("warmup", "control", "hard_ctc", "soft_ctc")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the recipe in which nothing has been run."""
    return copy_recipe(tmp_path_factory.mktemp("fresh"))


def job(recipe: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["./scripts/run_job.sh", *map(str, arguments)]
    return subprocess.run(
        command, cwd=recipe, capture_output=True, text=True, timeout=60
    )


# Options


def test_help_names_every_option_with_its_default(recipe: Path) -> None:
    result = run(recipe, "--help")
    assert result.returncode == 0
    block = (recipe / "run.sh").read_text().split("# Options begin")[1]
    names = re.findall(r"^([a-z_]+)=", block.split("# Options end")[0], re.MULTILINE)
    assert len(names) > 30
    for name in names:
        assert re.search(rf"--{name.replace('_', '-')} ", result.stdout), name
    assert "[mini]" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stge", "3"], "unknown option 'stge' on the command line"),
        (["--a[$(touch hacked)]", "3"], "unknown option"),
        (["--stage", "three"], "--stage must be a whole number, not 'three'"),
        (["--stage", "0"], "stages go from 1 to 12, not 0"),
        (["--stage", "13"], "stages go from 1 to 12, not 13"),
        (["--stage", "9", "--stop-stage", "8"], "--stage 9 is after --stop-stage 8"),
        (["--stage"], "--stage needs a value"),
        (["--corpus", "--stage", "3"], "--corpus needs a value, but '--stage' follows"),
        (["--resample", "maybe"], "--resample must be true or false"),
        (["--max_seconds", "long"], "--max_seconds must be a number"),
        (["--seeds", "1,2"], "'1,2' is no whole number"),
        (["--seeds", " "], "--seeds names no seed"),
        (["stage", "3"], "'stage' is no option"),
        (["--corpus", "../other"], "must be made of letters"),
        (["--corpus", "other"], "--labeled_dir.*one of: .*mini"),
        (["--librispeech", "."], "not for corpus mini"),
        (["--corpus", "librispeech_100", "--librispeech", "no"], "no directory 'no'"),
        (["--corpus", "digits", "--digits", "my digits"], "white space"),
        (["--corpus", "digits"], "needs --digits DIR"),
        (["--corpus", "commands_ar"], "needs --words DIR"),
        (["--words", "."], "add --corpus commands_ar or commands_en"),
        (["--corpus", "commands_en", "--words", "no"], "no directory 'no'"),
        (["--base_init", "no.pth:encoder:encoder"], "there is no model 'no.pth'"),
        (["--base_init", "a b.pth"], "white space"),
        (["--pl_config", "nosuch"], "no configuration 'conf/tuning/train_pl_nosuch"),
        (["--pl_config", "hard_ctc hard_ctc"], "two systems have the same name"),
        (["--token_type", "word"], "char or bpe"),
        (["--nj", "0"], "start at 1"),
    ],
)
def test_bad_options_are_refused(
    recipe: Path, options: list[str], message: str
) -> None:
    result = run(recipe, *options)
    assert result.returncode in (1, 2)
    assert re.search(message, result.stdout), result.stdout
    assert "Stage" not in result.stdout
    assert not (recipe / "hacked").exists()


def test_dashes_underscores_and_equal_signs_mean_the_same(recipe: Path) -> None:
    outputs = []
    for options in (
        ["--stop-stage", 5, "--max-seconds", 7, "--dry-run"],
        ["--stop_stage=5", "--max_seconds=7", "--dry_run=true"],
    ):
        text = run(recipe, *options).stdout
        outputs.append(re.sub(r"\(\d\d:.*?\)|after .*|in \d+:\d\d:\d\d", "", text))
    assert outputs[0] == outputs[1]
    assert "--max_seconds 7 " in outputs[0]
    assert "Stage 5" in outputs[0] and "Stage 6" not in outputs[0]


def test_a_typo_in_a_preset_is_refused(recipe: Path) -> None:
    preset = recipe / "conf" / "corpora" / "typo.sh"
    preset.write_text("labelled_sets=x\n")
    result = run(recipe, "--corpus", "typo")
    preset.unlink()
    assert result.returncode == 2
    assert "unknown option 'labelled_sets' in conf/corpora/typo.sh" in result.stdout


def test_the_command_line_wins_over_the_preset(recipe: Path) -> None:
    options = ["--corpus", "digits", "--digits", ".", "--stage", 5, "--stop_stage", 5]
    assert "--fs 8000" in run(recipe, *options, "--dry_run").stdout
    assert "--fs 4000" in run(recipe, *options, "--dry_run", "--fs", 4000).stdout


@pytest.mark.parametrize(
    "preset", sorted(path.stem for path in (RECIPE / "conf" / "corpora").glob("*.sh"))
)
def test_every_preset_gives_twelve_stages(recipe: Path, preset: str) -> None:
    options = ["--corpus", preset, "--dry_run", "--ngpu", 2]
    if preset == "digits":
        options += ["--digits", "."]
    if preset.startswith("commands_"):
        options += ["--words", "."]
    result = run(recipe, *options, train_cmd="queue.pl --mem 4G")
    assert result.returncode == 0, result.stdout
    headings = re.findall(r"^Stage (\d+): (?!done)", result.stdout, re.MULTILINE)
    assert headings == [str(number) for number in range(1, 13)]
    pattern = r"^  queue.pl --mem 4G --gpu 2 \S+/(\w+)/train.log "
    names = re.findall(pattern, result.stdout, re.MULTILINE)
    assert names == list(SYSTEMS)
    assert result.stdout.count("--multiprocessing_distributed true") == 4
    assert not any((recipe / name).exists() for name in GENERATED)


def test_the_warm_up_alone_starts_from_base_init(recipe: Path) -> None:
    (recipe / "exp").mkdir()
    (recipe / "exp" / "base.pth").write_bytes(b"model")
    options = ["--stage", 8, "--stop_stage", 9, "--dry_run"]
    result = run(recipe, *options, "--base_init", "exp/base.pth:encoder:encoder")
    shutil.rmtree(recipe / "exp")
    assert result.returncode == 0, result.stdout
    found = re.findall(r"/(\w+)/train.log .* --init_param (\S+)", result.stdout)
    warmup = "exp/mini/seed1/warmup/valid.cer_ctc.ave.pth"
    expected = [(name, warmup) for name in SYSTEMS]
    assert found == [("warmup", "exp/base.pth:encoder:encoder"), *expected[1:]]


def test_a_configuration_with_its_own_init_param_is_not_given_the_warm_up(
    recipe: Path,
) -> None:
    names = ["hard_ctc", "from_the_start", "mpl"]
    options = ["--stage", 9, "--stop_stage", 9, "--dry_run", "--seeds", "1 2"]
    result = run(recipe, *options, "--pl_config", " ".join(names))
    assert result.returncode == 0, result.stdout
    found = {
        (seed, name): re.findall(r" --init_param (\S+)", line)
        for line in result.stdout.splitlines()
        for seed, name in re.findall(r"/(seed\d)/(\w+)/train\.log", line)
        if "--config" in line
    }
    assert len(found) == 2 * (1 + len(names))
    for (seed, name), given in found.items():
        warmup = f"exp/mini/{seed}/warmup/valid.cer_ctc.ave.pth"
        assert given == ([] if name == "from_the_start" else [warmup])


@pytest.mark.parametrize(
    ("stage", "missing", "earlier"),
    [
        (2, "downloads/mini", 1),
        (4, "data/mini/labeled/wav.scp", 2),
        (5, "dump/mini/org/dev/wav.scp", 4),
        (6, "dump/mini/labeled/text", 5),
        (7, "dump/mini/labeled/text", 5),
        (8, "exp/mini/stats_char/train/feats_stats.npz", 7),
        (9, "exp/mini/stats_char/train/feats_stats.npz", 7),
        (10, "dump/mini/org/dev/wav.scp", 4),
        (11, "exp/mini/seed1/warmup/decode/text", 10),
        (12, "exp/mini/seed1/hard_ctc/valid.cer_ctc.ave.pth", 9),
    ],
)
def test_a_missing_stage_is_named(
    recipe: Path, stage: int, missing: str, earlier: int
) -> None:
    result = run(recipe, "--stage", stage)
    assert result.returncode == 1
    expected = f"stage {stage} needs {missing}, which stage {earlier} writes"
    assert expected in result.stdout
    assert f"stopped in stage {stage} " in result.stdout


# Jobs


def test_a_job_gets_its_words_as_they_are(recipe: Path, tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    words = ["two words", "$(touch hacked)", "'quoted\"", "*", ""]
    script = "import sys; print(sys.argv[1:])"
    result = job(recipe, "--gpu", 0, log, sys.executable, "-c", script, *words)
    assert result.returncode == 0, result.stderr
    text = log.read_text()
    assert repr(words) in text
    assert "# Ended (code 0)" in text
    assert not (recipe / "hacked").exists()


def test_an_array_job_replaces_its_variable(recipe: Path, tmp_path: Path) -> None:
    options = ["--mem", "4G", "--max-jobs-run", 1, "JOB=2:4"]
    log = tmp_path / "log" / "JOB.log"
    result = job(recipe, *options, log, "echo", "part.JOB")
    assert result.returncode == 0, result.stderr
    logs = sorted(path.name for path in log.parent.iterdir())
    assert logs == ["2.log", "3.log", "4.log"]
    assert "\npart.3\n" in (log.parent / "3.log").read_text()


def test_a_failing_job_shows_the_end_of_its_log(recipe: Path, tmp_path: Path) -> None:
    script = "print('what went wrong'); raise SystemExit(int('JOB') - 1)"
    log = tmp_path / "JOB.log"
    result = job(recipe, "JOB=1:2", log, sys.executable, "-c", script)
    assert result.returncode == 1
    assert "status 1" in result.stderr and "2.log" in result.stderr
    assert result.stderr.count("what went wrong") == 1


def test_an_array_job_needs_its_variable_in_the_log(
    recipe: Path, tmp_path: Path
) -> None:
    result = job(recipe, "JOB=1:2", tmp_path / "log", "echo")
    assert result.returncode == 2
    assert "must contain JOB" in result.stderr
    assert job(recipe, "only_a_log").returncode == 2


# What was done, and what is to be done again


def shell(
    recipe: Path, script: str, *words: object, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script, with words as $1 and so on, that has the functions of run.sh."""
    start = "set -euo pipefail; . ./scripts/functions.sh; . ./local/training.sh\n"
    settings = {"dry_run": "false", "force": "false", "ngpu": "0", **variables}
    return subprocess.run(
        ["bash", "-c", start + script, "bash", *map(str, words)],
        cwd=recipe,
        env=environment(train_cmd="./scripts/run_job.sh", LC_ALL="C.UTF-8", **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


def digests(recipe: Path, *paths: Path) -> list[str]:
    result = shell(recipe, 'for f; do digest "$f"; done', *paths)
    assert result.returncode == 0, result.stdout
    return result.stdout.splitlines()


def write_data(directory: Path, audio: Path, size: int, text: str = "u1 A\n") -> Path:
    directory.mkdir(exist_ok=True)
    audio.write_bytes(bytes(size))
    (directory / "wav.scp").write_text(f"u1 {audio}\n")
    (directory / "text").write_text(text)
    return directory


def test_a_copy_of_the_data_is_the_same_data(recipe: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", tmp_path / "a.wav", 100)
    large = tmp_path / "large.pth"
    with large.open("wb") as file:
        file.truncate(40 << 20)
    copies = [tmp_path / "copied", tmp_path / "copied.pth"]
    shutil.copytree(data, copies[0])
    shutil.copy(large, copies[1])
    for path in (data, data / "text", large):
        os.utime(path, (1, 1))
    directory, file, *same = digests(recipe, data, large, *copies)
    assert [directory, file] == same
    # Other audio of the same name, other words of the same length, another end.
    write_data(data, tmp_path / "a.wav", 101)
    write_data(copies[0], tmp_path / "b.wav", 100, "u1 B\n")
    with large.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"x")
    assert len({directory, file, *digests(recipe, data, large, copies[0])}) == 5


CHANGED = """
options=$(command_options --epochs "$1" --conf a=1 --conf "$2" ${3:-})
! changed stamp/.done "$options" text || mark_done stamp/.done "$options" text
"""


def test_the_reason_is_printed_why_a_stage_is_done_again(
    recipe: Path, tmp_path: Path
) -> None:
    script = f"cd {tmp_path}\n{CHANGED}"
    (tmp_path / "text").write_text("A\n")
    assert shell(recipe, script, 3, "b=2").stdout == ""
    os.utime(tmp_path / "text", (1, 1))
    assert (
        "  unchanged since it was done: stamp "
        in shell(recipe, script, 3, "b=2").stdout
    )
    result = shell(recipe, script, 4, "b=3", "--new=x")
    assert result.stdout.splitlines() == [
        "  stamp was done with other options or data:",
        "    --epochs: 3 -> 4",
        "    --conf: a=1 b=2 -> a=1 b=3",
        "    --new: (not given) -> x",
    ]
    (tmp_path / "text").write_text("B\n")
    result = shell(recipe, script, 4, "b=3", "--new=x")
    assert result.stdout.splitlines()[1:] == ["    text has changed"]
    (tmp_path / "stamp" / ".done").write_text("of an older version\n")
    assert "it is not known which" in shell(recipe, script, 4, "b=3").stdout
    # Work that was begun again and cut off is not taken for the work before.
    cut_off = script.replace("|| mark_done", "|| exit 0; true")
    assert "    --epochs: 4 -> 5\n" in shell(recipe, cut_off, 5, "b=3").stdout
    assert shell(recipe, script, 4, "b=3").stdout == ""


def write_training(
    directory: Path, key: str, *names: str, stamp: str = ".started"
) -> None:
    """Leave files that say which training they are of."""
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(key)
    (directory / stamp).write_text(f"{key}\n")


def test_nothing_is_replaced_and_a_previous_run_comes_back(
    recipe: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "hard_ctc"
    names = ["hard_ctc.previous", "hard_ctc.previous2", "hard_ctc.previous3"]
    for number in range(3):
        write_training(run_dir, f"--epochs\t{number}", "checkpoint.pth")
        result = shell(recipe, 'set_aside "$1"', run_dir)
        assert f"hard_ctc is now {tmp_path / names[number]}" in result.stdout
    for number, name in enumerate(names):
        assert (tmp_path / name / "checkpoint.pth").read_text()[-1] == str(number)
    write_training(run_dir, "--epochs\t3", "checkpoint.pth")
    # Two are of the key that is asked for; the finished one is wanted.
    shutil.copytree(tmp_path / names[0], tmp_path / names[0].replace("ious", "ious0"))
    write_training(tmp_path / names[0], "--epochs\t0", "whole", stamp=".done")
    result = shell(recipe, 'bring_back "$1" "$2"', run_dir, "--epochs\t0")
    assert f"{names[0]} has these options and data: it is brought back" in result.stdout
    assert (run_dir / "whole").exists()
    moved = (tmp_path / "hard_ctc.previous4" / "checkpoint.pth").read_text()
    assert moved == "--epochs\t3"
    # It was cut off between the two moves.
    shutil.move(run_dir, tmp_path / names[0])
    shell(recipe, 'bring_back "$1" "$2"', run_dir, "--epochs\t0")
    assert (run_dir / "whole").exists()
    shell(recipe, 'bring_back "$1" "$2"', run_dir, "--epochs\t1", force="true")
    assert (run_dir / "whole").exists()


MAKE_ROOM = 'make_room "$1" "$2" "$PYTHON" -m espnet_softpl.bin.train "${@:3}"'
TINY = "--token_type char --model_conf ctc_weight=1 --encoder_conf num_layers=1"


@pytest.mark.parametrize(
    "left", ["checkpoint.pth", "2epoch.pth", "pl_state/1epoch.3batches.rank0.pth"]
)
def test_options_with_a_mistake_move_nothing(
    recipe: Path, tmp_path: Path, left: str
) -> None:
    run_dir = tmp_path / "soft_ctc"
    write_training(run_dir, "--epochs\t3", left)
    words = [run_dir, "--epochs\t4", "--token_list", "x", "--pl_criterion", "no"]
    result = shell(recipe, MAKE_ROOM, *words)
    assert result.returncode == 1
    assert "unknown criterion 'no'" in result.stdout
    assert "soft_ctc stays as it is: the new options are refused" in result.stdout
    assert (run_dir / left).read_text() == "--epochs\t3"
    assert not list(tmp_path.glob("*.previous*"))


def test_a_training_makes_room_for_another(recipe: Path, tmp_path: Path) -> None:
    run_dir, tokens = tmp_path / "warmup", tmp_path / "tokens.txt"
    tokens.write_text("<blank>\n<unk>\nA\n<sos/eos>\n")
    words = [run_dir, "--epochs\t4", "--token_list", tokens, *TINY.split()]
    # Nothing was saved of the first epoch: the place is used as it is.
    write_training(run_dir, "--epochs\t3", "train.log", "notes")
    result = shell(recipe, MAKE_ROOM, *words)
    assert (result.returncode, result.stdout) == (0, "")
    assert (run_dir / "notes").exists()
    write_training(run_dir, "--epochs\t3", "1epoch.pth")
    with (run_dir / ".lock").open("w") as lock:
        lock.write("process 7 on there")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = shell(recipe, MAKE_ROOM, *words)
    assert result.returncode == 1
    assert f"another run trains in {run_dir}: process 7 on there" in result.stdout
    assert (run_dir / "1epoch.pth").exists()
    result = shell(recipe, MAKE_ROOM, *words)
    assert result.returncode == 0, result.stdout
    assert "    --epochs: 3 -> 4\n" in result.stdout
    assert (tmp_path / "warmup.previous" / "1epoch.pth").exists()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["tokens.txt", "warmup.previous"]


@pytest.mark.parametrize(
    ("jobs", "settings", "threads"),
    [
        (1, {}, "4"),  # A lone training gets all of --nj.
        (2, {}, "2"),
        (9, {}, "1"),  # Three at a time, of four processors.
        (1, {"nj": "32"}, "4"),
        (1, {"nj": "1"}, "1"),
        (1, {"ngpu": "1"}, "3"),
        (1, {"threads_given": "3"}, "3"),
    ],
)
def test_jobs_share_the_processors(
    recipe: Path, jobs: int, settings: dict[str, str], threads: str
) -> None:
    before = {"nj": "4", "threads_given": "", "OMP_NUM_THREADS": "3", **settings}
    script = 'share_threads "$1" 3; echo "$OMP_NUM_THREADS"'
    assert shell(recipe, script, jobs, **before).stdout == f"{threads}\n"


@pytest.mark.parametrize(
    ("options", "pool"),
    [([], 2), (["--train_jobs", 5], 5), (["--nj", 4], 4), (["--ngpu", 1], 1)],
)
def test_as_many_are_decoded_at_a_time(
    recipe: Path, options: list[object], pool: int
) -> None:
    """By --nj, for systems are decoded in the same time; by --train_jobs if given."""
    script = recipe / "run_traced.sh"
    text = (recipe / "run.sh").read_text()
    script.write_text(
        text.replace("    decode_all\n", '    echo "at a time: $decode_jobs"\n')
    )
    words = ["--stage", 10, "--stop_stage", 10, "--dry_run", *options]
    result = subprocess.run(
        ["bash", script.name, *map(str, words)],
        cwd=recipe,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"at a time: {pool}\n" in result.stdout, result.stdout + result.stderr


# Refusals of data, through run.sh


def write_speech(root: Path, name: str, speakers: range, rate: int = 8000) -> None:
    """Write a set in LibriSpeech layout: two utterances of noise per speaker."""
    generator = np.random.default_rng(speakers.start)
    for speaker in speakers:
        chapter = root / name / str(speaker) / "1"
        chapter.mkdir(parents=True)
        lines = []
        for index in range(2):
            utterance = f"{speaker}-1-{index:04d}"
            audio = 0.1 * generator.standard_normal(rate)
            soundfile.write(chapter / f"{utterance}.flac", audio, rate)
            lines.append(f"{utterance} A B\n")
        (chapter / f"{speaker}-1.trans.txt").write_text("".join(lines))


@pytest.fixture
def speech(tmp_path: Path) -> list[object]:
    """Options for a small corpus in LibriSpeech layout."""
    root = tmp_path / "corpus"
    options: list[object] = ["--corpus", "own", "--librispeech", root, "--fs", 8000]
    for start, part in ((10, "labeled"), (20, "unlabeled"), (30, "dev"), (40, "test")):
        write_speech(root, part, range(start, start + 2))
        options += [f"--{part}_sets", part]
    return options


@pytest.mark.slow
def test_own_librispeech_layout_needs_no_preset(
    tmp_path: Path, speech: list[object]
) -> None:
    recipe = copy_recipe(tmp_path)
    result = run(recipe, *speech, "--stop_stage", 5, "--speed_perturb_factors", "0.9 1")
    assert result.returncode == 0, result.stdout
    labeled = (recipe / "dump" / "own" / "labeled" / "wav.scp").read_text().split()
    assert labeled[::2][-1] == "sp0.9-11-1-0001" and len(labeled) == 16
    again = run(recipe, *speech, "--stop_stage", 5, "--speed_perturb_factors", "0.9 1")
    assert again.stdout.count("unchanged since it was done") == 4
    shutil.rmtree(recipe / "dump")  # Its audio is made anew.
    anew = run(recipe, *speech, "--stop_stage", 5, "--speed_perturb_factors", "0.9 1")
    assert anew.returncode == 0, anew.stdout
    assert (
        recipe / "dump" / "own" / "labeled" / "wav.scp"
    ).read_text().split() == labeled
    other = run(recipe, *speech, "--stage", 4, "--stop_stage", 5)
    assert "unchanged" not in other.stdout
    assert "dump/own/labeled: 4 utterances" in other.stdout


@pytest.mark.slow
def test_overlap_and_rate_are_refused_in_their_stages(
    tmp_path: Path, speech: list[object]
) -> None:
    recipe = copy_recipe(tmp_path)
    overlap = run(recipe, *speech, "--unlabeled_sets", "unlabeled test")
    assert overlap.returncode == 1
    assert "4 utterances of the unlabeled set are also in the test" in overlap.stdout
    assert "stopped in stage 2" in overlap.stdout
    rate = run(recipe, *speech, "--fs", 16000)
    assert rate.returncode == 1
    assert re.search(r"10-1-0000 has 8000 Hz.*--resample true", rate.stdout)
    assert "stopped in stage 4" in rate.stdout


@pytest.mark.slow
def test_new_audio_makes_the_stages_run_again(
    tmp_path: Path, speech: list[object]
) -> None:
    recipe = copy_recipe(tmp_path)
    assert run(recipe, *speech, "--stop_stage", 5).returncode == 0
    contents = recipe / "dump/own/.contents"  # What trainings depend on.
    before = contents.read_text()
    # The same data, prepared again.
    for name in ("data/own/.prepared", "dump/own/.filtered"):
        (recipe / name).unlink()
    assert "dump/own/dev: 4 " in run(recipe, *speech, "--stop_stage", 5).stdout
    assert contents.read_text() == before
    write_speech(tmp_path / "corpus", "unlabeled", range(50, 51))
    result = run(recipe, *speech, "--stop_stage", 5)
    assert "corpus has changed" in result.stdout
    assert "dump/own/unlabeled: 6 utterances" in result.stdout
    changed = set(contents.read_text().splitlines()) - set(before.splitlines())
    assert [line.partition("\t")[0] for line in changed] == ["dump/own/unlabeled"]


# End to end


def decode_one(archive: Path, audio: Path, root: Path) -> str:
    """Decode a file with a packed model in the stock Speech2Text."""
    from espnet2.bin.asr_inference import Speech2Text
    from espnet2.main_funcs.pack_funcs import unpack

    files = unpack(archive, root / "unpacked")
    model = Speech2Text(**files, ctc_weight=1.0, beam_size=1)
    return model(soundfile.read(audio)[0])[0][0]


def check_files(recipe: Path) -> None:
    """Check what a full run leaves behind."""
    exp = recipe / "exp" / "smoke"
    assert (exp / "seed1" / "hard_ctc" / "hard_ctc.zip").exists()
    unlabeled = recipe / "dump" / "smoke" / "unlabeled"
    assert not (unlabeled / "text").exists()
    results = (exp / "RESULTS.md").read_text()
    for system in SYSTEMS:
        assert (exp / "seed1" / system / "valid.cer_ctc.ave.pth").exists()
        assert re.search(rf"^\| {system} \| 1 \| [\d.]+ ±", results, re.MULTILINE)
    assert "not run" not in results
    assert re.search(r"\| hard_ctc \| hard_ctc \| ema \|.* to ", results)
    check_page(exp / "report.html")


def check_what_is_done_again(recipe: Path) -> None:
    """Check that a mistake moves nothing, and that a finished training comes back."""
    hard = recipe / "exp/smoke/seed1/hard_ctc"
    one = ["--corpus", "smoke", "--pl_config", "hard_ctc", "--run_control", "false"]
    one += ["--stage", 9, "--stop_stage", 9]
    failed = run(recipe, *one, "--pl_args", "--pl_criterion no", timeout=300)
    assert failed.returncode == 1
    assert "unknown criterion 'no'" in failed.stdout
    before = (hard / "checkpoint.pth").stat().st_ino
    other = run(recipe, *one, "--pl_args", "--unlabeled_batch_bins 400000")
    assert other.returncode == 0, other.stdout
    assert "--unlabeled_batch_bins: (not given) -> 400000" in other.stdout
    assert (hard.parent / "hard_ctc.previous/checkpoint.pth").stat().st_ino == before
    back = run(recipe, *one)
    assert "hard_ctc.previous has these options and data" in back.stdout
    assert (hard / "checkpoint.pth").stat().st_ino == before
    assert (hard.parent / "hard_ctc.previous2/.done").exists()

    # A decoding that was stopped goes on.
    text = (hard / "decode/text").read_text()
    for path in (hard / "decode/text", hard / "decode/.done"):
        path.unlink()
    part = hard / "decode/1/1best_recog/text"
    part.write_text(part.read_text()[:-10])
    decoded = run(recipe, "--corpus", "smoke", "--stage", 10, "--stop_stage", 10)
    assert decoded.returncode == 0, decoded.stdout
    assert re.search(r"decode goes on: [12] of \d\d utterances", decoded.stdout)
    assert (hard / "decode/text").read_text() == text


@pytest.mark.slow
def test_all_stages_from_end_to_end(tmp_path: Path) -> None:
    recipe = copy_recipe(tmp_path)
    options = ["--corpus", "smoke", "--stage", 1, "--stop-stage", 12]
    first = run(recipe, *options, timeout=900)
    assert first.returncode == 0, first.stdout
    for system in SYSTEMS:
        assert re.search(rf"^{system} +1 ", first.stdout, re.MULTILINE), system
    check_files(recipe)

    again = run(recipe, *options)
    assert again.returncode == 0, again.stdout
    assert again.stdout.count("unchanged since it was done") == 16
    assert "log:" not in again.stdout
    assert again.stdout.splitlines()[-7:-1] == first.stdout.splitlines()[-7:-1]

    # A stage alone, with a system that is not part of the table yet.
    more = ["--corpus", "smoke", "--pl_config", "hard_ctc other"]
    other = recipe / "conf" / "tuning" / "train_pl_other.yaml"
    shutil.copy(recipe / "conf" / "tuning" / "train_pl_soft_ce.yaml", other)
    alone = run(recipe, *more, "--stage", 11, "--stop_stage", 11)
    assert alone.returncode == 0, alone.stdout
    assert re.search(r"^other +1 +not run", alone.stdout, re.MULTILINE)
    assert re.search(r"^soft_ctc +1 +[\d.]+ ±", alone.stdout, re.MULTILINE)
    missing = run(recipe, *more, "--stage", 10, "--stop_stage", 10)
    assert missing.returncode == 1
    assert "seed1/other/valid.cer_ctc.ave.pth, which stage 9" in missing.stdout

    check_what_is_done_again(recipe)
    audio = next((recipe / "downloads" / "smoke" / "test").rglob("*.flac"))
    archive = recipe / "exp/smoke/seed1/hard_ctc/hard_ctc.zip"
    assert isinstance(decode_one(archive, audio, tmp_path), str)


@pytest.mark.slow
def test_a_stopped_training_goes_on_where_it_was(tmp_path: Path) -> None:
    recipe = copy_recipe(tmp_path)
    options: list[object] = ["--corpus", "smoke"]
    assert run(recipe, *options, "--stop_stage", 7, timeout=600).returncode == 0
    train = [*options, "--stage", 8, "--stop_stage", 8]
    few = "--max_epoch 12 --num_iters_per_epoch 3 --batch_bins 500000"
    train += ["--train_args", few]
    command = ["./run.sh", *map(str, train)]
    place = recipe / "exp" / "smoke" / "seed1" / "warmup"
    with subprocess.Popen(
        command, cwd=recipe, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (place / "2epoch.pth").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
    log = place / "train.log"
    size = log.stat().st_size
    time.sleep(3)
    assert log.stat().st_size == size, "the training lives on"
    assert not (place / ".done").exists()
    resumed = run(recipe, *train, timeout=600)
    assert resumed.returncode == 0, resumed.stdout
    assert "was trained with other options" not in resumed.stdout
    assert re.search(r"resumed|start_epoch|\b[3-9]/12epoch", log.read_text())
    assert " 1/12epoch started" not in log.read_text()
    assert (place / ".done").exists()
