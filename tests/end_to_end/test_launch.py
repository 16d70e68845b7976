"""The commands of docs/distributed.md, run as they stand there, on stand-ins.

Stand-ins for schedulers and ssh start what the real ones would, on this machine.
`python` is one too: it notes each call of our command, and runs it only where a test
asks for that; the configuration says `dry_run: true`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from espnet2.train.distributed_utils import DistributedOption, get_master_addr
from espnet2.utils.build_dataclass import build_dataclass
from torch.distributed.run import get_args_parser

from espnet_softpl.training.task import SoftPLTask
from tests import ROOT, python_path
from tests.support import warm_python
from tests.support.espnet_runs import PL, config, make_data

PAGE = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
TRAIN = "python -m espnet_softpl.bin.train"
# Each block of commands on the page, by a part that no other has.
BLOCKS = {
    "one machine": "--ngpu 8",
    "run.pl": "--cmd run.pl",
    "path.sh": ". .venv/bin/activate",
    "sbatch": "#SBATCH",
    "slurm.pl": '--cmd "slurm.pl',
    "ssh": "--host",
    "by hand, first": "--dist_rank 0",
    "by hand, second": "--dist_rank 1",
    "torchrun": "torchrun --nnodes 2",
    "two on a CPU": "for rank in",
    "torchrun on a CPU": "torchrun --nproc_per_node 2",
}
# What Slurm sets for a batch script.
JOB = dict(
    SLURM_JOB_ID="123456", SLURM_CPUS_PER_TASK="16", SLURM_JOB_NODELIST="node[1-2]"
)
STAND_INS = (
    *("python", "python3", "run.pl", "queue.pl", "slurm.pl", "srun", "ssh"),
    *("scontrol", "torchrun"),
)
STAND_IN = '''
import json, os, subprocess, sys, time

site = os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0])))
tool, args = os.path.basename(sys.argv[0]), sys.argv[1:]
tool = "python" if tool == "python3" else tool
redirected = args[:4] == ["-m", "espnet_softpl", "-m", "espnet2.bin.asr_train"]
is_training = redirected or "espnet_softpl.bin.train" in args[:3]
with open(f"{site}/settings.json") as file:
    settings = json.load(file)
path = {"PATH": os.environ["PATH"]}


def call(command, env=os.environ, **more):
    return subprocess.call(command, env=dict(env), **more)


def kaldi():
    """Run a job as Kaldi's scripts do: after ./path.sh, its output in the log."""
    rest = list(args)
    while rest[0].startswith("--"):
        del rest[:2]
    env = path if tool == "slurm.pl" else os.environ
    with open(rest[0], "w") as log:
        line = '. ./path.sh; "$@"'
        both = dict(stdout=log, stderr=subprocess.STDOUT)
        return int(call(["bash", "-c", line, "-", *rest[1:]], env, **both) != 0)


def srun():
    """Run one task per node, and return the highest status."""
    rest, nodes = list(args), settings["nodes"]
    while rest[0].startswith("--"):
        del rest[0]
    here = {
        "SLURM_NTASKS": str(len(nodes)),
        "SLURM_STEP_NUM_NODES": str(len(nodes)),
        "SLURM_STEP_NODELIST": ",".join(nodes),
        "SLURM_LOCALID": "0",
    }
    each = [{"SLURM_PROCID": str(n), "SLURM_NODEID": str(n)} for n in range(len(nodes))]
    tasks = [subprocess.Popen(rest, env={**os.environ, **here, **one}) for one in each]
    return max(task.wait() for task in tasks)


def run():
    if tool == "python":
        if is_training and not settings["run"]:
            return settings["status"]
        return call([settings["python"], *args])
    if tool == "torchrun":
        launcher = [settings["python"], "-m", "torch.distributed.run", *args]
        env = {**os.environ, "PYTHON_EXEC": f"{site}/bin/python"}
        return call(launcher, env) if settings["run"] else 0
    if tool == "ssh":
        home = {"HOME": os.environ.get("HOME", site)}
        return call(["sh", "-c", " ".join(args[1:])], {**path, **home}, cwd="/")
    if tool == "scontrol" and args[:2] == ["show", "hostnames"]:
        print("\\n".join(settings["nodes"]))
        return 0
    return {"srun": srun, "run.pl": kaldi, "slurm.pl": kaldi}.get(tool, int)()


wanted = ("SLURM_", "MASTER_", "FROM_", "OMP_", "RANK", "WORLD_SIZE", "LOCAL_RANK")
env = {k: v for k, v in os.environ.items() if k.startswith(wanted)}
note = dict(tool=tool, args=args, env=env, cwd=os.getcwd(), start=time.time_ns())
note["is_training"] = is_training
note["status"] = run()
with open(f"{site}/calls/{note['start']}-{os.getpid()}.json", "w") as file:
    json.dump(note, file)
sys.exit(note["status"])
'''


def sh_blocks() -> list[str]:
    """Return the page's blocks of commands."""
    return re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S)


def block(name: str) -> str:
    """Return one of them by its name in `BLOCKS`."""
    (found,) = (text for text in sh_blocks() if BLOCKS[name] in text)
    return found


class Site:
    """A directory from which the page's commands can be run.

    Args:
        root: The directory, empty.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("bin", "calls", "conf", "exp/pl", ".venv/bin"):
            (root / name).mkdir(parents=True)
        for name in STAND_INS:
            tool = root / "bin" / name
            tool.write_text(f"#!{sys.executable} -IS\n{STAND_IN}")
            tool.chmod(0o755)
        (root / "path.sh").write_text(block("path.sh"))
        # As in the tests, also where a scheduler hands on nothing but PATH.
        given = {**warm_python.same(), "PYTHONPATH": python_path()}
        given.pop("OMP_NUM_THREADS", None)  # That is for the page's path.sh.
        words = [f"{name}={shlex.quote(value)}" for name, value in given.items()]
        (root / ".venv/bin/activate").write_text(
            f"export FROM_ENVFILE=1 {' '.join(words)}\n"
        )
        options = dict(config(**PL), dry_run=True, log_level="INFO")
        self.configure(options)
        self.set()

    def configure(self, options: dict[str, Any]) -> None:
        """Write `conf/train_pl.yaml`."""
        options = {"token_list": str(self.root / "tokens.txt"), **options}
        (self.root / "tokens.txt").write_text("<blank>\n<unk>\nA\n<sos/eos>\n")
        path = self.root / "conf" / "train_pl.yaml"
        path.write_text(yaml.safe_dump(options, sort_keys=False))

    def set(self, run: bool = False, status: int = 0) -> None:
        """Tell the stand-ins whether to run our command, or what it ends with."""
        settings = dict(run=run, status=status, nodes=["node1", "node2"])
        settings["python"] = warm_python.executable()
        (self.root / "settings.json").write_text(json.dumps(settings))

    def run(self, script: str, timeout: int = 120, **env: str) -> tuple[int, str]:
        """Run a script with bash; return its status and all that it printed."""
        foreign = ("SLURM_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "CUDA_V")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        kept.update(PATH=f"{self.root / 'bin'}:{os.environ['PATH']}", **env)
        kept.update(PYTHONPATH=python_path(), OMP_NUM_THREADS="1")
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.root,
            env=kept,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        logs = [log.read_text() for log in self.root.glob("exp/pl/*.log")]
        return process.returncode, "\n".join([output, *logs])

    def calls(self, tool: str, *words: str) -> list[dict[str, Any]]:
        """Return the calls of a stand-in with some arguments, in order."""
        notes = sorted((self.root / "calls").iterdir())
        found = [json.loads(note.read_text()) for note in notes]
        return [c for c in found if c["tool"] == tool and {*words} <= {*c["args"]}]

    def trainings(self) -> list[dict[str, Any]]:
        """Return the calls of our command, under its own name or under ESPnet's."""
        return [call for call in self.calls("python") if call["is_training"]]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, site: Site):
    """Return a function from a noted call to the processes that ESPnet makes of it."""
    started: list[DistributedOption] = []

    def main_worker(args: Any) -> None:
        option = build_dataclass(DistributedOption, args)
        option.init_options()
        assert args.output_dir == "exp/pl"
        started.append(option)

    class Process:
        def __init__(self, target: Any, args: tuple, daemon: bool) -> None:
            self.start = lambda: target(*args)

    ended = types.SimpleNamespace(join=lambda: True)
    context = types.SimpleNamespace(Process=Process)
    monkeypatch.setattr(SoftPLTask, "main_worker", main_worker)
    monkeypatch.setattr(torch.multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr("espnet2.tasks.abs_task.ProcessContext", lambda *_: ended)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def of(call: dict[str, Any]) -> list[DistributedOption]:
        started.clear()
        assert call["args"][:2] == ["-m", "espnet_softpl.bin.train"]
        with monkeypatch.context() as patch:
            patch.chdir(call["cwd"])
            for key, value in call["env"].items():
                patch.setenv(key, value)
            SoftPLTask.main(cmd=call["args"][2:])
        return list(started)

    return of


def check_group(options: list[DistributedOption], gpus: int, machines: int) -> None:
    """Check that processes will find each other, each with a GPU of its own."""
    size = gpus * machines
    options = sorted(options, key=lambda option: option.dist_rank)
    assert [option.dist_rank for option in options] == list(range(size))
    assert [option.local_rank for option in options] == [*range(gpus)] * machines
    assert {option.dist_world_size for option in options} == {size}
    assert {(option.distributed, option.ngpu) for option in options} == {(True, 1)}
    assert {option.dist_backend for option in options} == {"nccl"}
    (method,) = {option.dist_init_method for option in options}
    assert re.match(r"(tcp://\w+:\d+|file:///.+)$", method)


def test_every_block_is_known() -> None:
    texts = sh_blocks()
    assert sorted(map(block, BLOCKS)) == sorted(texts)
    assert PAGE.count("```") == 2 * (len(texts) + PAGE.count("```text\n"))
    assert sum(TRAIN in text for text in texts) >= len(BLOCKS) - 3


@pytest.mark.parametrize("name", sorted({*BLOCKS} - {"path.sh"}))
def test_our_parser_takes_every_command(site: Site, name: str, monkeypatch) -> None:
    status, output = site.run(block(name), **JOB)
    assert status == 0, output
    monkeypatch.chdir(site.root)
    calls = site.trainings() or site.calls("torchrun")
    assert calls
    for call in calls:
        first = call["args"].index("espnet_softpl.bin.train") + 1
        parsed = SoftPLTask.get_parser().parse_args(call["args"][first:])
        assert parsed.output_dir == "exp/pl"
        assert parsed.pl_criterion == PL["pl_criterion"]
        assert parsed.ngpu > 0 or parsed.dist_backend == "gloo"


def test_one_machine(site: Site, start) -> None:
    status, output = site.run(block("one machine"))
    (call,) = site.trainings()
    assert status == 0, output
    check_group(start(call), gpus=8, machines=1)


def test_several_gpus_need_several_processes(site: Site, start, capsys) -> None:
    script = block("one machine").replace("_distributed true", "_distributed false")
    site.run(script)
    with pytest.raises(SystemExit):
        start(*site.trainings())
    assert "ngpu: several GPUs need" in capsys.readouterr().err


def test_launch_on_one_machine(site: Site, start) -> None:
    status, output = site.run(block("run.pl"))
    assert status == 0, output
    (job,) = site.calls("run.pl")
    assert job["args"][:4] == ["--gpu", "4", "exp/pl/train.log", "python"]
    (call,) = site.trainings()
    check_group(start(call), gpus=4, machines=1)


def test_launch_takes_the_recipes_job_script(site: Site, start) -> None:
    job = ROOT / "egs2" / "librispeech_softpl" / "scripts" / "run_job.sh"
    script = block("run.pl").replace("--cmd run.pl", f"--cmd {shlex.quote(str(job))}")
    status, output = site.run(script)
    assert status == 0, output
    (call,) = site.trainings()
    check_group(start(call), gpus=4, machines=1)


def test_launch_through_slurm(site: Site, start) -> None:
    status, output = site.run(block("slurm.pl"))
    assert status == 0, output
    (job,) = site.calls("slurm.pl")
    command = " ".join([job["tool"], *job["args"]])
    command = re.sub(rf"{site.root}(/exp/pl/.dist_init_)[-\w]+", r"...\1...", command)
    (documented,) = re.findall(r"^```text\n(slurm\.pl .*?)^```$", PAGE, re.M | re.S)
    assert command == " ".join(documented.split())
    calls = site.trainings()
    assert [call["env"]["SLURM_NODEID"] for call in calls] in (["0", "1"], ["1", "0"])
    assert all(call["env"]["FROM_ENVFILE"] == "1" for call in calls)
    check_group([option for call in calls for option in start(call)], 4, machines=2)


def test_slurm_conf_knows_every_option_of_launch(site: Site) -> None:
    site.run(block("slurm.pl"))
    (job,) = site.calls("slurm.pl")
    given = job["args"][: job["args"].index("exp/pl/train.log")]
    (conf,) = re.findall(r"^```text\n(command sbatch.*?)^```$", PAGE, re.M | re.S)
    described = re.findall(r"^option (\w+)=\*", conf, re.M)
    assert {name.removeprefix("--") for name in given[::2]} <= {*described}


def test_launch_does_not_take_run_pl_to_other_machines(site: Site) -> None:
    script = block("slurm.pl").replace("slurm.pl --name pl", "run.pl")
    status, output = site.run(script)
    assert status == 1
    assert "run.pl doesn't support submitting to the other nodes" in output
    assert not site.trainings()


def test_other_schedulers_start_tasks_by_mpi(site: Site) -> None:
    site.run(block("slurm.pl").replace("slurm.pl --name pl", "queue.pl"))
    (job,) = site.calls("queue.pl")
    assert " mpirun -np 2 python " in " ".join(job["args"])
    assert "--dist_launcher mpi" in " ".join(job["args"])


def test_launch_hides_the_status(site: Site) -> None:
    site.set(status=143)
    status, output = site.run(block("run.pl"))
    assert status == 1, output
    assert site.trainings()[0]["status"] == 143


def batch(site: Site) -> tuple[int, str]:
    """Run the batch script as Slurm does on the first node."""
    return site.run(block("sbatch"), **JOB)


def test_batch_script_starts_a_task_per_node(site: Site, start) -> None:
    status, output = batch(site)
    assert status == 0, output
    (step,) = site.calls("srun")
    assert step["args"][0] == "--cpus-per-task=16"
    calls = site.trainings()
    assert len(calls) == 2
    options = [option for call in calls for option in start(call)]
    check_group(options, gpus=4, machines=2)
    assert options[0].dist_init_method == "tcp://node1:23456"
    assert all("--resume" in call["args"] for call in calls)
    assert all(call["env"]["FROM_ENVFILE"] == "1" for call in calls)
    given = dict(re.findall(r"^#SBATCH --([-\w]+)=(\S+)$", block("sbatch"), re.M))
    assert given["signal"] == "TERM@120"  # To the steps: without "B:".
    assert (given["nodes"], given["ntasks-per-node"]) == ("2", "1")
    assert given["gres"] == "gpu:4"


@pytest.mark.parametrize("status, requeues", [(0, 0), (143, 1), (1, 0), (3, 0)])
def test_batch_script_requeues_what_was_told_to_stop(
    site: Site, status: int, requeues: int
) -> None:
    site.set(status=status)
    ended, output = batch(site)
    assert ended == status, output
    assert [c["args"] for c in site.calls("scontrol", "requeue")] == [
        ["requeue", "123456"]
    ] * requeues


def slurm_step(nodes: int, tasks: int, names: str) -> dict[str, str]:
    """Return the variables of a process in a job step."""
    return dict(
        SLURM_PROCID="0",
        SLURM_NTASKS=str(tasks),
        SLURM_NODEID="0",
        SLURM_LOCALID="0",
        SLURM_STEP_NUM_NODES=str(nodes),
        SLURM_STEP_NODELIST=names,
    )


def test_espnet_wants_one_task_per_node(site: Site, start) -> None:
    batch(site)
    call = site.trainings()[0]
    call["env"] = slurm_step(nodes=2, tasks=8, names="node[1-2]")
    with pytest.raises(RuntimeError, match="Run with --ntasks_per_node=1"):
        start(call)


def test_espnet_cuts_node_names_at_a_hyphen(monkeypatch) -> None:
    for names, first in (("gpu-node-[1-2]", "gpu"), ("node[1-2]", "node1")):
        for key, value in slurm_step(nodes=2, tasks=2, names=names).items():
            monkeypatch.setenv(key, value)
        assert get_master_addr(launcher="slurm") == first


def test_launch_by_ssh(site: Site, start) -> None:
    status, output = site.run(block("ssh"))
    assert status == 0, output
    hosts = [call["args"][0] for call in site.calls("ssh")]
    assert sorted(hosts) == ["node1"] * 4 + ["node2"] * 4
    calls = site.trainings()
    assert {call["cwd"] for call in calls} == {str(site.root)}
    assert all(call["env"]["FROM_ENVFILE"] == "1" for call in calls)
    assert all(call["env"]["OMP_NUM_THREADS"] == "1" for call in calls)
    options = [option for call in calls for option in start(call)]
    check_group(options, gpus=4, machines=2)
    assert str(site.root / "exp/pl/.dist_init_") in options[0].dist_init_method


def test_launch_by_ssh_on_some_gpus_without_envfile(site: Site, start) -> None:
    script = block("ssh").replace("node1,node2", "node1:0:2,node2:1")
    script = script.replace("--envfile path.sh", "--envfile none")
    status, output = site.run(script)
    assert status == 0, output
    calls = site.trainings()
    assert not any("FROM_ENVFILE" in call["env"] for call in calls)
    options = sorted((o for c in calls for o in start(c)), key=lambda o: o.dist_rank)
    assert [option.local_rank for option in options] == [0, 2, 1]
    assert {option.dist_world_size for option in options} == {3}


def test_launch_by_ssh_quotes_nothing(site: Site) -> None:
    status, output = site.run(block("ssh").replace("exp/pl --r", "'exp/p l' --r"))
    assert status == 0, output
    assert all("exp/p" in call["args"] for call in site.trainings())


def test_by_hand(site: Site, start) -> None:
    options = []
    for name in ("by hand, first", "by hand, second"):
        status, output = site.run(block(name))
        assert status == 0, output
    for call in site.trainings():
        options += start(call)
    check_group(options, gpus=4, machines=2)
    assert options[0].dist_init_method == "tcp://node1:29500"


def torchrun_variables(rank: int) -> dict[str, str]:
    """Return what torchrun sets in one of two times four processes."""
    return dict(
        RANK=str(rank),
        WORLD_SIZE="8",
        LOCAL_RANK=str(rank % 4),
        MASTER_ADDR="node1",
        MASTER_PORT="29500",
    )


def test_torchrun(site: Site, start, tmp_path: Path) -> None:
    status, output = site.run(block("torchrun"))
    assert status == 0, output
    (launched,) = site.calls("torchrun")
    where = launched["args"].index("-m")
    parsed = get_args_parser().parse_args(launched["args"])
    assert (parsed.nnodes, parsed.nproc_per_node) == ("2", "4")
    calls = [
        dict(launched, args=launched["args"][where:], env=torchrun_variables(rank))
        for rank in range(8)
    ]
    check_group([option for call in calls for option in start(call)], 4, machines=2)
    # What the page warns of: all on the first GPU.
    for call in calls:
        call["args"] = [*call["args"], "--multiprocessing_distributed", "true"]
    options = [option for call in calls for option in start(call)]
    assert {option.local_rank for option in options} == {0}


def really(name: str) -> str:
    """Return a block for processes without GPUs."""
    return block(name).replace("--ngpu 4", "--ngpu 0")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["two on a CPU", "torchrun on a CPU", "slurm.pl", "ssh"]
)
def test_two_processes_really_meet(site: Site, name: str) -> None:
    """Both join one group, build the model and end; the first writes its options."""
    data = make_data(site.root / "data")
    site.configure(dict(config(**PL), **data.options(), dry_run=True, log_level="INFO"))
    site.set(run=True)
    status, output = site.run(really(name), timeout=300)
    assert status == 0, output[-3000:]
    calls = site.trainings()
    assert [call["status"] for call in calls] == [0, 0], output[-3000:]
    assert re.search(r"^\[\S+:0/2\] .*Saving the configuration", output, re.M)
    options = yaml.safe_load((site.root / "exp/pl/config.yaml").read_text())
    assert options["dist_backend"] == "gloo"
    assert options["pl_criterion"] == PL["pl_criterion"]


@pytest.mark.slow
def test_a_stand_in_fails_where_the_command_fails(site: Site) -> None:
    """Or the tests above could pass without any process having started."""
    site.set(status=7)
    for name in ("one machine", "run.pl", "slurm.pl", "ssh"):
        status, _ = site.run(block(name))
        assert status == (7 if name == "one machine" else 1)
