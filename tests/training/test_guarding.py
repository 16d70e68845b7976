"""What the guard's alarms do to a training, step by step."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from espnet2.train.reporter import SubReporter

from espnet_softpl import cache, criteria, teacher
from espnet_softpl.cache import LabelCache
from espnet_softpl.core.errors import CollapseError
from espnet_softpl.monitors.guard import MONITORS, Guard
from espnet_softpl.teacher.generator import CTCOutputs, PseudoLabelGenerator
from espnet_softpl.training import guarding
from espnet_softpl.training.engine import PseudoLabeling
from espnet_softpl.training.labeling import UnlabeledBatch
from espnet_softpl.training.resume.snapshot import Training
from espnet_softpl.training.schedule import Scheduled
from tests.training.test_model import make_model

LIMIT = {"pl_frame_entropy": {"above": 1.0}}


def build(output_dir: Path, action: str, **conf) -> Training:
    """A training in its second epoch, with a guard that judges each step."""
    model = make_model()
    once = dict(reference_steps=1, window=1, patience=1, limits=LIMIT)
    model.pl.guard = Guard(action, **{**once, **conf})
    model.pl.last_batch = (["a"], model.pl.generator(model, *speech()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reporter = SubReporter("train", 2, 0)
    return Training(model, output_dir, 2, [optimizer], [None], None, reporter)


def speech() -> tuple[torch.Tensor, torch.Tensor]:
    return 0.1 * torch.randn(1, 9000), torch.tensor([9000])


def report(training: Training, entropy: float) -> None:
    """Report a step's monitors, as ESPnet's trainer does, and consult the guard."""
    values = dict.fromkeys(MONITORS, math.nan) | {"pl_frame_entropy": entropy}
    training.reporter.register(values)
    training.reporter.next()
    guarding.consult_guard(training)


def test_latest_monitors_are_those_of_the_latest_step(tmp_path) -> None:
    training = build(tmp_path, "warn")
    assert all(map(math.isnan, guarding.latest_monitors(training).values()))
    for entropy in (0.25, 0.5):
        report(training, entropy)
    latest = guarding.latest_monitors(training)
    assert list(latest) == list(MONITORS)
    assert latest["pl_frame_entropy"] == 0.5


def test_a_labeled_step_is_not_shown_to_the_guard(tmp_path) -> None:
    training = build(tmp_path, "warn")
    for entropy in (0.5, math.nan):
        report(training, entropy)
    assert len(training.model.pl.guard.history()[0]) == 1


def test_a_warning_is_reported_and_a_stop_ends(tmp_path, caplog) -> None:
    training = build(tmp_path / "warn", "warn")
    for entropy in (0.5, 2.0):
        report(training, entropy)
    assert len(list((tmp_path / "warn" / guarding.REPORT_DIR).iterdir())) == 1
    training = build(tmp_path / "stop", "stop")
    report(training, 0.5)
    with pytest.raises(CollapseError, match="training is stopped"):
        report(training, 2.0)


def test_an_alarm_calls_for_help(tmp_path, caplog) -> None:
    command = f'echo "$PL_ALARM" > {tmp_path}/alarm; test -d "$PL_REPORT" && exit 7'
    training = build(tmp_path / "exp", "warn", on_alarm=command)
    report(training, 0.5)
    assert not (tmp_path / "alarm").exists()
    report(training, 2.0)
    assert "pl_frame_entropy" in (tmp_path / "alarm").read_text()
    assert "on_alarm" in caplog.text and "exit status 7" in caplog.text


def test_all_processes_wait_for_the_call(tmp_path, monkeypatch) -> None:
    """Or the first that a stop ends would have the one that calls killed."""
    order = []
    monkeypatch.setattr(guarding, "call_for_help", lambda *_: order.append("call"))
    monkeypatch.setattr(guarding, "wait_for_all", lambda: order.append("wait"))
    for rank in (0, 1):
        monkeypatch.setattr(guarding, "rank_and_world", lambda rank=rank: (rank, 2))
        training = build(tmp_path / f"{rank}", "stop", on_alarm="true")
        report(training, 0.5)
        with pytest.raises(CollapseError):
            report(training, 2.0)
    assert order == ["call", "wait", "wait"]


def test_a_call_for_help_may_not_take_forever(tmp_path, caplog) -> None:
    guarding.call_for_help("exec sleep 30", "words", tmp_path, seconds=0.1)
    assert "timed out" in caplog.text


@pytest.mark.slow
def test_a_back_off_returns_to_the_healthy_epoch(tmp_path, caplog) -> None:
    training = build(tmp_path, "back_off", max_back_offs=1)
    guarding.keep_healthy(training)
    model = training.model
    assert model.pl.healthy_epoch == 1  # The one before that in training.
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report(training, 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
            parameter.grad = torch.ones_like(parameter)  # With `accum_grad`.
    report(training, 2.0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[k]) for k, value in model.state_dict().items())
    assert "the model is that of the end of epoch 1 again" in caplog.text
    assert model.pl.guard.weight_factor == 0.5
    with pytest.raises(CollapseError):  # No use in another.
        report(training, 2.0)


def test_an_epoch_that_is_not_healthy_is_not_kept(tmp_path) -> None:
    training = build(tmp_path, "back_off", patience=9)
    guarding.keep_healthy(training)
    for entropy in (0.5, 2.0):
        report(training, entropy)
    training.epoch = 3
    guarding.keep_healthy(training)
    assert training.model.pl.healthy_epoch == 1
    for action in ("warn", "stop"):
        other = build(tmp_path / action, action)
        guarding.keep_healthy(other)
        assert not (tmp_path / action).exists()


def test_broken_weights_end_it_even_where_the_guard_only_warns(tmp_path) -> None:
    training = build(tmp_path, "warn")
    report(training, 0.5)
    training.model.pl.broken = "weights of the student"
    with pytest.raises(CollapseError, match="the numbers are broken"):
        report(training, 0.5)
    assert len(list((tmp_path / guarding.REPORT_DIR).iterdir())) == 1


def test_a_cache_shows_the_labels_that_were_made_and_no_others(tmp_path) -> None:
    training = build(tmp_path, "warn")
    engine = training.model.pl
    engine.cache = LabelCache(cache.build("slimipl"), False, tmp_path / "cache")
    engine.made = [{"pl_frame_entropy": torch.tensor(0.25)}, {"pl_vocabulary": 3.0}]
    values = dict.fromkeys(MONITORS, 0.75)
    training.reporter.register(values)
    training.reporter.next()
    guarding.consult_guard(training)
    steps, history = engine.guard.history()
    assert steps == [1, 1] and engine.made == []
    assert history["pl_frame_entropy"][0] == 0.25
    assert history["pl_disagreement"][0] == 0.75
    assert history["pl_vocabulary"][1] == 3.0
    assert math.isnan(history["pl_blank_share"][0])


def test_a_back_off_mends_broken_weights(tmp_path) -> None:
    training = build(tmp_path, "back_off", max_back_offs=1)
    guarding.keep_healthy(training)
    report(training, 0.5)
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.fill_(math.nan)
    training.model.pl.broken = "weights of the student"
    report(training, math.nan)
    assert all(p.isfinite().all() for p in training.model.parameters())
    assert training.model.pl.broken == ""


class Talker(torch.nn.Module):
    """Student and teacher: what it hears are the tokens of its frames."""

    use_transducer_decoder, ctc_weight = False, 1.0

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(5.0))
        self.collapsed = False

    def ctc_outputs(self, speech, lengths, layers=False, head=None) -> CTCOutputs:
        """Say what is heard in train mode; after a collapse a teacher says blank."""
        tokens = torch.nn.functional.one_hot(speech.long(), 5).float()
        if self.collapsed and not self.training:
            tokens = torch.eye(5)[0].expand_as(tokens)
        log_probs = (self.scale * tokens).log_softmax(-1)
        return CTCOutputs(log_probs, lengths, log_probs)

    def combine_losses(self, parts):
        """Return the only part."""
        return parts["loss_pl_ctc"]


def test_a_collapse_is_seen_when_labels_are_made(tmp_path) -> None:
    """With slimIPL's C 100, p 0.1 labels in use are old for a thousand updates."""
    settings = cache.build("slimipl", size=100, probability=0.1)
    model = Talker().train()
    model.pl = PseudoLabeling(
        criterion=Scheduled(criteria.HardCTC, {}),
        generator=PseudoLabelGenerator(teacher.build("student")),
        cache=LabelCache(settings, False, tmp_path / "cache"),
        guard=Guard("stop"),
    )
    model.pl.cache.plan = plan = settings.plan(100, seed=1)
    reporter = SubReporter("train", 1, 0)
    training = Training(model, tmp_path, 1, [], [], None, reporter)
    random, insertions, refreshes, updates, used = torch.Generator(), [], 0, 0, []

    def read(load, draw: int) -> UnlabeledBatch:
        random.manual_seed(load.number)
        speech = torch.randint(0, 5, (4, 30), generator=random).float()
        ids = [f"{load.number}-{i}" for i in range(4)]
        lengths = torch.full((4,), 30)
        return UnlabeledBatch(ids, speech, lengths, slot=load.slot, draw=draw)

    def update(draw: int, loads) -> None:
        batch = None
        for load in loads:
            if load.insert:
                insertions.append(read(load, draw))
            else:
                batch = read(load, draw)
        if batch is None:
            return
        _, values = model.pl.step(model, batch, insertions, draw)
        insertions.clear()
        names = {n: values[n] for n in MONITORS}
        reporter.register({n: float(value) for n, value in names.items()})
        reporter.next()
        used.append(float(values["pl_blank_share"]))
        guarding.consult_guard(training)

    with pytest.raises(CollapseError, match="the transcripts vanish"):
        for draw, loads in enumerate(plan.draws(0)):
            model.collapsed = draw >= 150
            refreshes += draw >= 150 and len(loads) == 2
            updates += draw >= 150
            assert refreshes <= 20
            update(draw, loads)
    assert updates > refreshes > 0
    # What was learned from in the meantime would have told little.
    assert sum(used[-20:]) / 20 < 0.5
