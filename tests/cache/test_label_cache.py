"""The label cache in the model: what is labeled when, trained on, counted, resumed."""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from pathlib import Path

import pytest
import torch

from espnet_softpl import cache
from espnet_softpl.cache.plan import CachePlan
from espnet_softpl.cache.store import LabelStore
from espnet_softpl.training.labeling import UnlabeledBatch
from tests.training.test_model import batch, labeled_batch, make_model

SLIMIPL = dict(pl_cache="slimipl", pl_cache_conf={"size": 2, "probability": 0.5})


def cached_model(criterion: str = "hard_ctc", **changes):
    """Build a model with a cache of two slots, and its plan."""
    model = make_model(criterion, "student", **{**SLIMIPL, **changes})
    plan = model.pl.cache.settings.plan(num_batches=2, seed=1)
    model.pl.cache.plan = plan
    # Files go where the model does.
    directory = Path(tempfile.mkdtemp(prefix="softpl-cache."))
    weakref.finalize(model.pl.cache, shutil.rmtree, directory)
    model.pl.cache._store = LabelStore(directory)
    return model


def insertion(name: str, seed: int, slot: int | None, draw: int) -> UnlabeledBatch:
    speech = 0.1 * torch.randn(3, 12000, generator=torch.Generator().manual_seed(seed))
    ids = [f"{name}{i}" for i in range(3)]
    lengths = torch.tensor([12000, 9000, 7000])
    return UnlabeledBatch(ids, speech, lengths, slot=slot, draw=draw)


def step_on(
    model, name: str, seed: int, slot: int, draw: int, step: int = 0, insertions=()
):
    """Train on the mini-batch in a slot; return the statistics."""
    return model(
        unlabeled=insertion(name, seed, slot, draw),
        pl_step=step,
        insertions=list(insertions),
    )[1]


def count_labelings(model) -> list[int]:
    """Record how many mini-batches are labeled from now on."""
    calls = []
    run = model.pl.generator.run

    class Counting(type(model.pl.generator)):
        def run(self, *args, **kwargs):
            calls.append(1)
            return run(*args, **kwargs)

    model.pl.generator.__class__ = Counting
    return calls


def test_labels_are_made_at_insertion_by_the_live_model() -> None:
    model = cached_model()
    calls = count_labelings(model)
    batch = dict(labeled_batch(), insertions=[insertion("a", 1, 0, 0)])
    model(**batch)
    assert len(calls) == 1
    before = model.pl.cache.take(0, ["a0", "a1", "a2"], "cpu")
    with torch.no_grad():  # The model moves on; the labels do not.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    stats = step_on(model, "a", 1, slot=0, draw=2, step=7)
    assert len(calls) == 1  # A cached step costs no labeling.
    after = model.pl.cache.take(0, ["a0", "a1", "a2"], "cpu")
    assert torch.equal(before.label.tokens, after.label.tokens)
    assert float(stats["pl_age"]) == 7.0 and float(stats["pl_uses"]) == 2.0


@pytest.mark.parametrize("criterion", ["hard_ctc", "soft_ce", "nbest_ctc", "blend"])
def test_a_cached_label_teaches_as_a_new_one(criterion) -> None:
    """With all posteriors kept in float32 the loss is the one without a cache."""
    conf = {"size": 2, "top_k": None, "precision": "float32"}
    model = cached_model(criterion, pl_cache_conf=conf)
    model.eval()  # No dropout, so that the two can be compared.
    fresh = make_model(criterion, "student")
    fresh.load_state_dict(model.state_dict())
    fresh.eval()
    model(**dict(labeled_batch()))
    model.pl.insert(model, [insertion("a", 1, 0, 0)], 0)
    stats = step_on(model, "a", 1, slot=0, draw=2)
    plain = fresh(unlabeled=insertion("a", 1, None, 0))[1]
    for key in ("loss_pl", "pl_blank_share", "pl_length_ratio", "pl_disagreement"):
        expected = pytest.approx(float(plain[key]), rel=1e-4, abs=1e-5, nan_ok=True)
        assert float(stats[key]) == expected, key


def test_hard_labels_keep_no_posteriors() -> None:
    for criterion, kept in (("hard_ctc", False), ("soft_ce", True), ("blend", True)):
        model = cached_model(criterion)
        model(**dict(labeled_batch(), insertions=[insertion("a", 1, 0, 0)]))
        record = model.pl.cache._store.get(0)
        assert ("posteriors" in record) == kept


@pytest.mark.parametrize("measured", [False, True])
def test_labels_that_are_replaced_are_trained_on_once_more(measured) -> None:
    conf = {"size": 2, "measure_change": measured}
    model = cached_model(pl_cache_conf=conf)
    calls = count_labelings(model)
    model(**dict(labeled_batch(), insertions=[insertion("a", 1, 0, 0)]))
    stats = step_on(model, "a", 1, 0, 2, insertions=[insertion("b", 2, 0, 2)])
    assert float(stats["pl_uses"]) == 1.0
    # If its change is measured, for it leaves: the same model says the same.
    change = float(stats["pl_label_change"])
    assert change == 0.0 if measured else math.isnan(change)
    assert len(calls) == 2 + measured
    counts = model.pl.cache.counts
    assert (counts.made, counts.replaced, counts.uses, counts.updates) == (2, 1, 1, 2)
    assert float(step_on(model, "b", 2, 0, 3)["pl_uses"]) == 1.0
    assert float(step_on(model, "b", 2, 0, 4)["pl_turnover"]) == 1.0  # 2 of 2 slots.


def test_cache_and_loader_must_agree() -> None:
    model = cached_model()
    model(**dict(labeled_batch(), insertions=[insertion("a", 1, 0, 0)]))
    with pytest.raises(RuntimeError, match="the loader brought"):
        step_on(model, "b", 2, 0, 2)


def test_a_cleared_slot_is_labeled_when_it_is_visited() -> None:
    model = cached_model()
    model(**dict(labeled_batch(), insertions=[insertion("a", 1, 0, 0)]))
    model.pl.cache.clear()
    stats = step_on(model, "a", 1, 0, 2, step=9)
    assert float(stats["pl_age"]) == 0.0 and model.pl.cache.counts.missed == 1
    assert float(step_on(model, "a", 1, 0, 3, step=12)["pl_age"]) == 3.0


def test_unusable_audio_teaches_nothing() -> None:
    model = make_model("hard_ctc", "student")
    usable = torch.tensor([True, False, True])
    _, stats, _ = model(unlabeled=batch()._replace(usable=usable))
    assert float(stats["pl_unusable"]) == pytest.approx(1 / 3)
    assert float(stats["pl_kept"]) == pytest.approx(2 / 3)
    assert float(stats["pl_kept_audio"]) == pytest.approx(19 / 28)
    assert float(stats["pl_kept_hours"]) == pytest.approx(19000 / 16000 / 3600)


CHANGE = dict(pl_cache="label_change", pl_cache_conf={"size": 2, "lag": 1})


def test_label_change_decides_by_the_edit_distance() -> None:
    model = cached_model("hard_ctc", **CHANGE)
    pl = model.pl
    model(**dict(labeled_batch(), insertions=[insertion("a", 1, 0, 0)]))
    stats = step_on(model, "a", 1, 0, 2, step=1)
    assert float(stats["pl_label_change"]) == 0.0 and not pl.cache.evicted(2)
    with torch.no_grad():
        model.ctc.ctc_lo.weight.copy_(torch.randn_like(model.ctc.ctc_lo.weight) * 5)
    old = pl.cache.take(0, ["a0", "a1", "a2"], "cpu")
    stats = step_on(model, "a", 1, 0, 3, step=2)
    new = pl.cache.take(0, ["a0", "a1", "a2"], "cpu")
    change = float(stats["pl_label_change"])
    assert change == cache.label_change(old, new) > 0.0
    assert pl.cache.evicted(3) == (pl.cache.plan.chance(3) < change)
    assert new.step == 2  # It stays, with the new labels.
    with pytest.raises(RuntimeError, match="before it was taken"):
        pl.cache.evicted(4)
    with pytest.raises(RuntimeError, match="trained on after"):
        pl.cache.decide(9, 0.5)


@pytest.mark.parametrize("kind", [SLIMIPL, CHANGE], ids=["slimipl", "label_change"])
def test_state_is_exact(kind, tmp_path) -> None:
    def build():
        model = cached_model("soft_ce", **kind)
        settings = model.pl.cache.settings
        model.pl.cache = cache.LabelCache(settings, True, tmp_path / "rank0")
        model.pl.cache.plan = CachePlan(2, 1, None if kind is CHANGE else 0.5)
        return model

    torch.manual_seed(5)
    first = build()
    for slot, name in enumerate("ab"):
        first(**dict(labeled_batch(), insertions=[insertion(name, slot, slot, slot)]))
    step_on(first, "a", 0, 0, 2)
    torch.save(first.pl.state_dict(first), tmp_path / "state.pth")
    second = build()
    second.load_state_dict(first.state_dict())
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    second.pl.load_state_dict(state, second)
    # Earlier versions saved dicts, and no position.
    before, slots = dict(state["cache"]), state["cache"]["store"]["slots"].tolist()
    del before["position"]
    for name in ("uses", "inserted_at"):
        before[name] = dict(zip(slots, before[name].tolist()))
    third = build()
    third.load_state_dict(first.state_dict())
    third.pl.load_state_dict({**state, "cache": before}, third)
    for model in (first, second, third):
        model.eval()
    stats = [step_on(model, "b", 1, 1, 3, step=5) for model in (first, second, third)]
    for key, value in stats[0].items():
        for other in (stats[1][key], stats[2][key]):
            assert float(value) == float(other) or math.isnan(float(value)), key
    other = build()
    other.pl.cache.settings = cache.SlimIPL(size=3)
    with pytest.raises(ValueError, match="other settings.*size"):
        other.pl.load_state_dict(state, other)


def test_the_limit_on_memory_is_without_effect_and_says_so(tmp_path, caplog) -> None:
    settings = cache.SlimIPL(size=2, memory_limit_mb=100)
    cache.LabelCache(settings, True, tmp_path / "rank0")
    assert "memory_limit_mb has no effect any more" in caplog.text
    assert str(tmp_path / "rank0") in caplog.text
