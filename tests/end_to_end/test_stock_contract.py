"""Without pseudo-labels, model and task are ESPnet's own in all that can be seen.

Over a space of settings: the same weights from the same seed, the same losses,
statistics, gradients and features bit for bit, and the same commands.
"""

from __future__ import annotations

import argparse
import copy
import io
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.abs_task import AbsTask
from espnet2.tasks.asr import ASRTask, model_choices
from espnet2.train.trainer import Trainer

from espnet_softpl.training.model import SoftPLModel
from espnet_softpl.training.task import SoftPLTask
from tests.support.espnet_runs import (
    HYBRID,
    PL,
    TOKENS,
    Data,
    config,
    make_data,
    same_tensors,
)

CTC_ONLY = dict(ctc_weight=1.0)
TRANSFORMER = dict(output_size=16, attention_heads=2, linear_units=16, num_blocks=2)
CONFORMER = dict(config()["encoder_conf"], num_blocks=2)
RNN = dict(num_layers=1, hidden_size=8, output_size=8)
RNN_DECODER = dict(
    decoder="rnn", decoder_conf=dict(num_layers=1, hidden_size=8, att_conf={})
)
TRANSDUCER = dict(
    decoder="transducer",
    decoder_conf=dict(num_layers=1, hidden_size=8),
    joint_net_conf=dict(joint_space_size=8),
)


def model_conf(ctc_weight: float, **more: Any) -> dict[str, Any]:
    return dict(ctc_weight=ctc_weight, **more)


# What changes from the tiny Conformer with CTC alone; see espnet_runs.config.
SETTINGS: dict[str, dict[str, Any]] = {
    "conformer": {},
    "transformer": dict(encoder="transformer", encoder_conf=TRANSFORMER),
    "rnn": dict(encoder="rnn", encoder_conf=RNN),
    "vgg_rnn": dict(encoder="vgg_rnn", encoder_conf=RNN),
    "branchformer": dict(
        encoder="branchformer",
        encoder_conf=dict(output_size=16, attention_heads=2, num_blocks=2),
    ),
    "e_branchformer": dict(encoder="e_branchformer", encoder_conf=TRANSFORMER),
    "streaming": dict(
        encoder="contextual_block_transformer",
        encoder_conf=dict(TRANSFORMER, block_size=8, hop_size=4, look_ahead=2),
    ),
    "hybrid": HYBRID,
    "hybrid rnn": dict(RNN_DECODER, model_conf=model_conf(0.5)),
    "attention": dict(HYBRID, model_conf=model_conf(0.0)),
    "label smoothing": dict(HYBRID, model_conf=model_conf(0.3, lsm_weight=0.1)),
    "normalized loss": dict(
        HYBRID, model_conf=model_conf(0.3, length_normalized_loss=True)
    ),
    "no error rates": dict(
        HYBRID, model_conf=model_conf(0.3, report_cer=False, report_wer=False)
    ),
    "decoder for ctc alone": dict(HYBRID, model_conf=CTC_ONLY),
    "transducer": dict(TRANSDUCER, model_conf=model_conf(0.3)),
    "transducer alone": dict(TRANSDUCER, model_conf=model_conf(0.0)),
    "intermediate ctc": dict(
        encoder_conf=dict(
            CONFORMER, interctc_layer_idx=[1], interctc_use_conditioning=True
        ),
        model_conf=model_conf(1.0, interctc_weight=0.3),
    ),
    "intermediate ctc of a hybrid": dict(
        HYBRID,
        encoder_conf=dict(CONFORMER, interctc_layer_idx=[1]),
        model_conf=model_conf(0.3, interctc_weight=0.5),
    ),
    "other intermediate targets": dict(
        encoder_conf=dict(CONFORMER, interctc_layer_idx=[1]),
        model_conf=model_conf(1.0, interctc_weight=0.3, aux_ctc={"1": "lid"}),
        aux_ctc_tasks=["lid"],
    ),
    "no specaug": dict(specaug=None, specaug_conf={}),
    "time warp": dict(specaug_conf=dict(apply_freq_mask=False, apply_time_mask=False)),
    "no normalization": dict(normalize=None),
    "global mvn": dict(normalize="global_mvn"),
    "features": dict(input_size=20),
    "features of a hybrid": dict(HYBRID, input_size=20),
    "feats not in stats": dict(
        model_conf=model_conf(1.0, extract_feats_in_collect_stats=False)
    ),
    "linear preencoder": dict(
        preencoder="linear", preencoder_conf=dict(input_size=20, output_size=12)
    ),
    "length adaptor": dict(
        postencoder="length_adaptor",
        postencoder_conf=dict(length_adaptor_n_layers=1),
    ),
    "ctc dropout": dict(ctc_conf=dict(dropout_rate=0.2)),
    "ctc in torch": dict(ctc_conf=dict(ctc_type="builtin2")),
    "ignored id": dict(HYBRID, model_conf=model_conf(0.3, ignore_id=-7)),
}
# One of each kind of model; the others are slow.
QUICK = {
    "conformer",
    "hybrid",
    "attention",
    "transducer",
    "intermediate ctc",
    "features",
}


def over(names: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test for each of the settings named."""
    slow = {name: [] if name in QUICK else [pytest.mark.slow] for name in names}
    cases = [pytest.param(name, marks=marks) for name, marks in slow.items()]
    return pytest.mark.parametrize("name", cases)


over_settings = over(SETTINGS)


class StandInRNNT(torch.nn.Module):
    """A differentiable stand-in for warprnnt_pytorch, which is no wheel."""

    def __init__(self, blank: int, fastemit_lambda: float) -> None:
        super().__init__()
        self.blank = blank

    def forward(self, joint_out, target, t_len, u_len):
        log_probs = joint_out.log_softmax(-1)
        blanks = log_probs[..., self.blank].sum((1, 2)) / t_len
        labels = log_probs[:, 0, :-1].gather(-1, target.long().unsqueeze(-1))
        return -(blanks.mean() + labels.mean())


@pytest.fixture(autouse=True)
def transducer_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("warprnnt_pytorch")
    module.RNNTLoss = StandInRNNT
    monkeypatch.setitem(sys.modules, "warprnnt_pytorch", module)


@pytest.fixture(scope="module")
def stats_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("stats") / "feats_stats.npz"
    np.savez(path, count=10, sum=np.full(20, 10.0), sum_square=np.full(20, 30.0))
    return str(path)


def parse(task: type[ASRTask], changes: dict[str, Any]) -> argparse.Namespace:
    args = task.get_parser().parse_args(["--output_dir", "unused"])
    for key, value in {**config(), **changes}.items():
        setattr(args, key, copy.deepcopy(value))
    args.token_list = list(TOKENS)
    return args


Pair = tuple[ESPnetASRModel, SoftPLModel]


@pytest.fixture
def pair(name: str, stats_file: str) -> Pair:
    """The stock model and ours, built from the same seed."""
    changes = dict(SETTINGS[name])
    if changes.get("normalize") == "global_mvn":
        changes["normalize_conf"] = dict(stats_file=stats_file)
    torch.manual_seed(5)
    theirs = parse(ASRTask, changes)
    stock = ASRTask.build_model(theirs)
    torch.manual_seed(5)
    args = parse(SoftPLTask, changes)
    ours = SoftPLTask.build_student(args)
    # What is written to config.yaml afterwards.
    assert {key: vars(args)[key] for key in vars(theirs)} == vars(theirs)
    assert "softpl" not in model_choices.classes
    assert type(stock) is ESPnetASRModel and type(ours) is SoftPLModel
    return stock, ours


def batch_of(model: ESPnetASRModel) -> dict[str, torch.Tensor]:
    """Make a fresh batch: ESPnet changes its own in place."""
    generator = torch.Generator().manual_seed(3)
    shape = (3, 12000) if model.frontend is not None else (3, 90, 20)
    ends = [12000, 9000, 7000] if model.frontend is not None else [90, 80, 60]
    text = torch.tensor([[3, 4, 5], [3, 3, -1], [5, -1, -1]])
    return dict(
        speech=0.1 * torch.randn(*shape, generator=generator),
        speech_lengths=torch.tensor(ends),
        text=text,
        text_lengths=torch.tensor([3, 2, 1]),
        lid=text[:, :1] - 1,
        lid_lengths=torch.tensor([1, 1, 1]),
        utt_id=["a", "b", "c"],
    )


def both(pair: Pair, call: Callable[[ESPnetASRModel], Any]) -> tuple[Any, Any]:
    """Do the same with both models, from the same random state."""
    results = []
    for model in pair:
        torch.manual_seed(7)
        np.random.seed(7)
        results.append(call(model))
    return results[0], results[1]


def assert_same(first: Any, second: Any) -> None:
    """Compare what models return, bit for bit; NaN is equal to NaN."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert list(first) == list(second)
        first, second = list(first.values()), list(second.values())
    if isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, two in zip(first, second):
            assert_same(one, two)
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and first.shape == second.shape
        assert torch.equal(first.nan_to_num(nan=1e9), second.nan_to_num(nan=1e9))
    else:
        assert first == second


@over_settings
def test_the_weights_are_the_same(name: str, pair: Pair) -> None:
    stock, ours = (model.state_dict() for model in pair)
    assert list(stock) == list(ours) and same_tensors(stock, ours)
    assert [n for n, _ in pair[0].named_parameters()] == [
        n for n, _ in pair[1].named_parameters()
    ]
    pair[0].load_state_dict(ours, strict=True)
    pair[1].load_state_dict(stock, strict=True)


@over_settings
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_the_same(name: str, pair: Pair, training: bool) -> None:
    def call(model: ESPnetASRModel) -> Any:
        return model.train(training)(**batch_of(model))

    stock, ours = both(pair, call)
    assert torch.isfinite(stock[0]).all()
    assert_same(stock, ours)
    for loss in (stock[0], ours[0]):
        loss.backward()
    gradients = [{n: p.grad for n, p in m.named_parameters()} for m in pair]
    assert_same(*gradients)
    assert any(grad is not None and grad.any() for grad in gradients[0].values())
    # Batch-norm statistics too.
    assert same_tensors(pair[0].state_dict(), pair[1].state_dict())


@over_settings
def test_nothing_is_held_on_to(name: str, pair: Pair) -> None:
    """Stock models can be copied after a forward once the loss is gone."""
    before = set(vars(pair[1]))
    for training in (True, False):
        pair[1].train(training)(**batch_of(pair[1]))
        assert set(vars(pair[1])) == before
    assert set(vars(pair[0])) == before


@over_settings
@pytest.mark.parametrize("training", [True, False])
def test_features_and_encodings_are_the_same(
    name: str, pair: Pair, training: bool
) -> None:
    def collect(model: ESPnetASRModel) -> Any:
        return model.train(training).collect_feats(**batch_of(model))

    def encode(model: ESPnetASRModel) -> Any:
        batch = batch_of(model)
        with torch.no_grad():
            return model.encode(batch["speech"], batch["speech_lengths"])

    stock, ours = both(pair, collect)
    assert_same(stock, ours)
    assert stock["feats"].numel() > 0
    assert_same(*both(pair, encode))


@over_settings
def test_likelihoods_are_the_same(name: str, pair: Pair) -> None:
    stock, _ = pair

    def of_encoder(model: ESPnetASRModel, method: str) -> Any:
        batch = batch_of(model)
        encoded, lengths = model.eval().encode(batch["speech"], batch["speech_lengths"])
        encoded = encoded[0] if isinstance(encoded, tuple) else encoded
        text = batch["text"].masked_fill(batch["text"] == -1, model.ignore_id)
        return getattr(model, method)(encoded, lengths, text, batch["text_lengths"])

    if stock.decoder is not None and not stock.use_transducer_decoder:
        for method in ("nll", "batchify_nll", "_calc_att_loss"):
            assert_same(*both(pair, lambda model: of_encoder(model, method)))
    if stock.ctc is not None:
        assert_same(*both(pair, lambda model: of_encoder(model, "_calc_ctc_loss")))
    keys = ("speech", "speech_lengths", "text", "text_lengths")

    def batch_ctc(model: ESPnetASRModel) -> Any:
        batch = batch_of(model)
        return model.eval()._calc_batch_ctc_loss(*(batch[key] for key in keys))

    assert_same(*both(pair, batch_ctc))


def test_the_settings_are_what_they_say() -> None:
    """A misspelled key would be set on the options, and change nothing."""
    known = set(vars(parse(ASRTask, {})))
    for name, changes in SETTINGS.items():
        assert changes.keys() <= known, name


WITH_CTC = [n for n, s in SETTINGS.items() if "attention" not in n and "alone" not in n]
NO_ENGINE = ("feats not in stats", "other intermediate targets")


@over(n for n in WITH_CTC if n not in NO_ENGINE)
def test_labeled_batches_of_a_pl_training_are_stock_too(name: str, pair: Pair) -> None:
    """Loss and gradient of a labeled batch, in the middle of pseudo-labeling."""
    _, bare = pair
    args = parse(SoftPLTask, {**SETTINGS[name], "input_size": None})
    args.pl_criterion = "hard_ctc"
    args.pl_schedule_conf = PL["pl_schedule_conf"]
    engine = SoftPLTask.build_model(parse_engine(args)).pl
    engine.dropout = None
    bare.pl = engine

    def call(model: ESPnetASRModel) -> Any:
        loss, stats, weight = model.train()(**batch_of(model))
        loss.backward()
        return loss.detach(), stats["loss"], weight

    assert_same(*both(pair, call))
    assert_same(*[{n: p.grad for n, p in m.named_parameters()} for m in pair])
    for model in pair:
        model.zero_grad()
    assert_same(*both(pair, lambda model: model.eval()(**batch_of(model))))


def parse_engine(args: argparse.Namespace) -> argparse.Namespace:
    """The engine does not depend on the model: build it with the plainest."""
    plain = parse(SoftPLTask, {})
    plain.pl_criterion, plain.pl_schedule_conf = (
        args.pl_criterion,
        args.pl_schedule_conf,
    )
    return plain


# The task.


def test_the_task_is_the_stock_task_with_more() -> None:
    assert issubclass(SoftPLTask, ASRTask) and issubclass(SoftPLTask.trainer, Trainer)
    assert SoftPLTask.num_optimizers == ASRTask.num_optimizers
    assert SoftPLTask.class_choices_list == ASRTask.class_choices_list
    assert SoftPLTask.exclude_opts() == ASRTask.exclude_opts()
    # Nothing of ESPnet's that other commands call is replaced, but what must be.
    ours = {name for name in vars(SoftPLTask) if hasattr(AbsTask, name)}
    ours |= {name for name in vars(SoftPLTask) if hasattr(ASRTask, name)}
    assert {name for name in ours if not name.startswith("_")} == {
        "trainer",
        "get_parser",
        "add_task_arguments",
        "required_data_names",
        "optional_data_names",
        "check_required_command_args",
        "main",
        "main_worker",
        "build_model",
        "build_iter_factory",
    }


def test_every_stock_option_is_there_as_it_was() -> None:
    stock, ours = (t.get_parser()._actions for t in (ASRTask, SoftPLTask))
    ours = {action.dest: action for action in ours}
    for action in stock:
        other = ours[action.dest]
        for what in ("option_strings", "default", "choices", "nargs", "required"):
            assert getattr(action, what) == getattr(other, what), action.dest
        assert type(action) is type(other)
    assert len(ours) > len({action.dest for action in stock})


def printed(task: type[ASRTask]) -> dict[str, Any]:
    file = io.StringIO()
    task.print_config(file)
    return yaml.safe_load(file.getvalue())


def test_the_printed_configuration_has_more_and_can_be_read(tmp_path: Path) -> None:
    stock, ours = printed(ASRTask), printed(SoftPLTask)
    assert {key: ours[key] for key in stock} == stock
    assert all(key.startswith(("pl_", "unlabeled_")) for key in ours.keys() - stock)
    file = tmp_path / "config.yaml"
    for conf in (stock, ours):
        file.write_text(yaml.safe_dump(conf))
        args = SoftPLTask.get_parser().parse_args(["--config", str(file)])
        assert args.encoder == stock["encoder"]
    with pytest.raises(SystemExit):  # ESPnet knows no key of ours.
        ASRTask.get_parser().parse_args(["--config", str(file)])


def ended(task: type[ASRTask], cmd: list[str], capsys: Any) -> tuple[Any, str]:
    """Run a command that ends at once; return its status and last words."""
    with pytest.raises(SystemExit) as end:
        task.main(cmd=cmd)
    lines = capsys.readouterr().err.strip().splitlines()
    return end.value.code, lines[-1] if lines else ""


@pytest.mark.parametrize(
    "cmd",
    [
        ["--help"],
        ["--print_config"],
        ["--output_dir"],
        ["--output_dir", "x", "--encoder", "unheard_of"],
        ["--output_dir", "x", "--optim", "unheard_of"],
        ["--output_dir", "x", "--max_epoch", "many"],
        ["--output_dir", "x", "--ngpu", "0", "--config", "gone.yaml"],
    ],
)
def test_commands_end_alike(cmd: list[str], capsys: Any) -> None:
    stock, ours = (ended(task, cmd, capsys) for task in (ASRTask, SoftPLTask))
    assert stock == ours
    assert stock[0] == (0 if cmd[:1] in (["--help"], ["--print_config"]) else 2)


@pytest.mark.parametrize(
    ("cmd", "missing"),
    [
        ([], "--output_dir and --token_list"),
        (["--output_dir", "x"], "--token_list"),
    ],
)
def test_missing_options_are_named(cmd: list[str], missing: str, capsys: Any) -> None:
    """ESPnet shows all of its help above them."""
    stock, _ = ended(ASRTask, cmd, capsys)
    ours, words = ended(SoftPLTask, cmd, capsys)
    assert stock == ours == 2
    assert f"error: {missing} must be given, here or in --config FILE" in words


def test_an_unknown_option_is_answered_with_the_nearest_one(capsys: Any) -> None:
    status, words = ended(SoftPLTask, ["--outptu_dir", "x"], capsys)
    assert status == ended(ASRTask, ["--outptu_dir", "x"], capsys)[0] == 2
    assert "unknown option '--outptu_dir'. Did you mean '--output_dir'?" in words


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("inference", [True, False])
def test_data_that_stock_espnet_takes_are_taken(training, inference) -> None:
    stock, ours = (
        (
            set(task.required_data_names(training, inference)),
            set(task.optional_data_names(training, inference)),
        )
        for task in (ASRTask, SoftPLTask)
    )
    assert ours[0] <= stock[0] and "speech" in ours[0]
    assert ours[0] | ours[1] >= stock[0] | stock[1]


def dry_run(task: type[ASRTask], root: Path, *more: str) -> dict[str, Any]:
    tokens = root / "tokens.txt"
    tokens.write_text("\n".join(TOKENS) + "\n")
    words = ["--dry_run", "true", "--token_list", str(tokens), "--token_type", "char"]
    task.main(cmd=[*words, "--output_dir", str(root / "exp"), "--ngpu", "0", *more])
    return yaml.safe_load((root / "exp" / "config.yaml").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("--decoder", "rnn"),
        ("--decoder", "transformer", "--encoder", "conformer"),
        ("--encoder", "contextual_block_transformer", "--model_conf", "ctc_weight=1"),
        ("--decoder", "transducer", "--joint_net_conf", "joint_space_size=8"),
        ("--decoder", "rnn", "--model", "pit_espnet", "--model_conf", "num_ref=1")
        + ("--model_conf", "num_inf=1"),
    ],
)
def test_dry_runs_write_the_same(more: tuple[str, ...], tmp_path: Path) -> None:
    stock = dry_run(ASRTask, tmp_path, *more)
    ours = dry_run(SoftPLTask, tmp_path, *more)
    assert {key: ours[key] for key in stock} == stock
    assert ours["pl_criterion"] is None
    file = tmp_path / "exp" / "config.yaml"
    models = [t.build_model_from_file(file)[0] for t in (ASRTask, SoftPLTask)]
    assert type(models[0]) is type(models[1])
    weights = tmp_path / "model.pth"
    torch.save(models[0].state_dict(), weights)
    loaded, args = SoftPLTask.build_model_from_file(file, weights)
    assert same_tensors(loaded.state_dict(), models[0].state_dict())
    assert args.token_list == TOKENS


def test_a_pl_configuration_builds_the_stock_model_elsewhere(tmp_path: Path) -> None:
    """Stock commands read our config.yaml, with every key of ours in it."""
    conf = dry_run(
        SoftPLTask, tmp_path, "--decoder", "rnn", "--pl_criterion", "hard_ctc"
    )
    assert conf["pl_criterion"] == "hard_ctc"
    model, _ = ASRTask.build_model_from_file(tmp_path / "exp" / "config.yaml")
    assert type(model) is ESPnetASRModel


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


def files_below(root: Path) -> dict[str, Any]:
    """Read what a command wrote, arrays and texts by name."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = str(path.relative_to(root))
        if path.suffix == ".npz":
            found[name] = {k: v.tolist() for k, v in np.load(path).items()}
        elif path.name != "config.yaml":
            found[name] = path.read_text()
    return found


@pytest.mark.parametrize("unlabeled", [False, True])
def test_statistics_are_the_same(data: Data, tmp_path: Path, unlabeled: bool) -> None:
    """With the keys of ours in the YAML as well."""
    outs = []
    for task in (ASRTask, SoftPLTask):
        ours = task is SoftPLTask and unlabeled
        options = config(**data.options(unlabeled=ours), **(PL if ours else {}))
        for part in ("train", "valid"):
            options[f"{part}_shape_file"] = options[f"{part}_shape_file"][:1]
        file = tmp_path / f"{task.__name__}.yaml"
        file.write_text(yaml.safe_dump(options))
        outs.append(tmp_path / task.__name__)
        words = ["--collect_stats", "true", "--config", str(file)]
        task.main(cmd=[*words, "--output_dir", str(outs[-1])])
    stock, ours = map(files_below, outs)
    assert {"train/feats_stats.npz", "train/speech_shape"} <= stock.keys()
    assert stock == ours


def test_the_same_optimizer() -> None:
    """With an engine too: a teacher is nothing to train."""
    groups = []
    for task in (ASRTask, SoftPLTask):
        args = parse(task, {**HYBRID, "exclude_weight_decay": True})
        args.optim_conf = dict(lr=0.1, weight_decay=0.01)
        if task is SoftPLTask:
            args.pl_criterion = "hard_ctc"
        model = task.build_model(args)
        assert (getattr(model, "pl", None) is not None) == (task is SoftPLTask)
        (optimizer,) = task.build_optimizers(args, model)
        groups.append(
            [
                ([p.shape for p in g["params"]], g["lr"], g["weight_decay"])
                for g in optimizer.param_groups
            ]
        )
    assert groups[0] == groups[1] and groups[0]
