"""What decoders and intermediate layers learn, kept in a label cache."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from espnet_softpl import criteria, regularizers
from espnet_softpl.cache import packing
from espnet_softpl.cache.compression import Compression
from espnet_softpl.cache.store import LabelStore
from espnet_softpl.ctc import frame_mask
from espnet_softpl.labels.pseudo_label import Labels
from tests.cache.test_label_cache import cached_model, insertion, step_on
from tests.conftest import make_log_probs
from tests.criteria.test_base import (
    CASES,
    LENGTHS,
    SETTINGS,
    B,
    T,
    V,
    evaluate,
    student_and_label,
)
from tests.support.models import (
    FORM_IDS,
    FORMS,
    INTER_HYBRID,
    batch,
    give_a_voice,
    talking,
)
from tests.training.test_model import labeled_batch, make_model


@pytest.mark.parametrize("forms", FORMS[1:], ids=FORM_IDS[1:])
@pytest.mark.parametrize("criterion", ["hard_ctc", "soft_ce", "nbest_ctc"])
def test_a_cached_label_teaches_as_a_new_one(forms, criterion) -> None:
    exact = {"size": 2, "top_k": None, "precision": "float32"}
    torch.manual_seed(4)
    model = give_a_voice(cached_model(criterion, pl_cache_conf=exact, **forms))
    fresh = make_model(criterion, "student", **forms)
    fresh.load_state_dict(model.state_dict())
    waiting = insertion("a", 1, 0, 0)
    model.pl.insert(model, [waiting], 0)
    record = model.pl.cache._store.get(0)
    assert ("posteriors" in record) == (criterion != "hard_ctc")
    for layer in record.get("layers", ()):
        assert ("posteriors" in layer) == (criterion != "hard_ctc")
    soft = forms.get("pl_decoder") == "forced_soft"
    assert ("posteriors" in record.get("decoder", {})) == soft
    # What comes out of the cache is what went in.
    made = model.pl.make(model, waiting, 0)
    found = model.pl.cache.take(0, waiting.utt_id, "cpu")
    assert len(found.layers) == len(made.layers)
    if made.decoder is not None:
        assert torch.equal(found.decoder.tokens, made.decoder.tokens)
        assert torch.equal(found.decoder.lengths, made.decoder.lengths)
    for one, two in zip(found.layers, made.layers):
        assert torch.equal(one.tokens, two.tokens)
        assert torch.equal(one.weight, two.weight)
    stats = step_on(model, "a", 1, slot=0, draw=2)
    plain = fresh.eval()(unlabeled=waiting._replace(slot=None))[1]
    for key in (k for k in stats if k.startswith(("loss_pl", "pl_decoder"))):
        expected = pytest.approx(float(plain[key]), rel=1e-3, abs=1e-4)
        assert float(stats[key]) == expected, key


def test_compressed_answers_keep_their_best_tokens() -> None:
    forms = dict(INTER_HYBRID, pl_interctc="own", pl_decoder="forced_soft")
    model = talking("soft_ce", **forms)
    made = model.pl.make(model, batch(), 0)
    compression = cached_model().pl.cache.settings.compression()
    found = packing.unpack(packing.pack(made, compression), compression, "cpu")
    assert torch.equal(found.decoder.tokens, made.decoder.tokens)
    mask = frame_mask(made.decoder.lengths, made.decoder.tokens.size(1))
    gap = (found.decoder.log_probs.exp() - made.decoder.log_probs.exp())[mask].abs()
    assert 0.0 < float(gap.max()) < 0.02
    # Compressed again it is the same, bit for bit.
    again = packing.unpack(packing.pack(found, compression), compression, "cpu")
    assert torch.equal(again.decoder.log_probs, found.decoder.log_probs)
    for one, two in zip(again.layers, found.layers, strict=True):
        assert torch.equal(one.log_probs, two.log_probs)


def test_the_state_of_a_cache_is_that_of_its_forms(tmp_path) -> None:
    forms = dict(INTER_HYBRID, pl_interctc="own", pl_decoder="forced_soft")
    first = cached_model("soft_ce", **forms)
    first(**dict(labeled_batch(), insertions=[insertion("a", 1, 0, 0)]))
    torch.save(first.pl.state_dict(first), tmp_path / "state.pth")
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    second = cached_model("soft_ce", **forms)
    second.load_state_dict(first.state_dict())
    second.pl.cache._store = LabelStore(first.pl.cache._store._directory)
    second.pl.load_state_dict(state, second)
    stats = [step_on(m.eval(), "a", 1, 0, 2, step=5) for m in (first, second)]
    for key, value in stats[0].items():
        assert float(value) == float(stats[1][key]) or math.isnan(float(value)), key
    for change in ({"pl_decoder": "forced"}, {"pl_interctc": "last"}):
        other = cached_model("soft_ce", **dict(forms, **change))
        (key,) = change
        with pytest.raises(ValueError, match=f"other settings.*{key}: '{forms[key]}'"):
            other.pl.load_state_dict(state, other)


PAIRS = [
    ("blend", {"parts": [{"criterion": one}, {"criterion": two}]})
    for one, two in itertools.combinations(SETTINGS, 2)
]
REGULARIZERS = [(name, {}) for name in regularizers.available()]


@pytest.mark.parametrize(
    "registry, name, conf",
    [(criteria.REGISTRY, *case) for case in CASES + PAIRS]
    + [(regularizers.REGISTRY, *case) for case in REGULARIZERS],
)
def test_a_criterion_says_what_it_needs_of_a_cached_label(registry, name, conf) -> None:
    """Loss and gradient are those of the same label with all that it has."""
    criterion = registry.build(name, **conf)
    logits, label = student_and_label()
    label = label._replace(frame_weight=torch.rand(B, T))
    labels = Labels([""] * B, label, label.log_probs.argmax(-1), LENGTHS, {}, step=0)
    # Rounded once; again changes no bit, which a sample's seed depends on.
    whole = through_cache(labels, keep_posteriors=True)
    found = through_cache(whole, keep_posteriors=criterion.needs_posteriors)
    assert torch.equal(found.label.tokens[:, : label.tokens.size(1)], label.tokens)
    # What the engine adds.
    more = {"second_view": make_log_probs(B, T, V) if criterion.views == 2 else None}
    if criterion.needs_prior:
        more["prior"] = make_log_probs(1, 1, V)[0, 0].exp()
    results = []
    for each in (whole, found):
        added = each.label._replace(**more)
        losses = evaluate(criterion, logits.log_softmax(-1), LENGTHS, added)
        results.append((losses, *torch.autograd.grad(losses.sum(), logits)))
    assert results[0][0].abs().sum() > 0.0
    torch.testing.assert_close(results[1], results[0])


def through_cache(labels: Labels, keep_posteriors: bool) -> Labels:
    """Pack labels as a cache does by default, and unpack them."""
    record = packing.pack(labels, Compression(), keep_posteriors)
    return packing.unpack(record, Compression(), torch.device("cpu"))


def test_posteriors_that_are_needed_later_are_kept() -> None:
    ramp = {"from": 1, "to": 4, "steps": 10}
    exact = {"size": 2, "top_k": None, "precision": "float32"}
    conf = {"pl_criterion_conf": {"nbest": ramp}, "pl_cache_conf": exact}
    torch.manual_seed(4)
    model = give_a_voice(cached_model("nbest_ctc", **conf))
    fresh = make_model("nbest_ctc", "student", pl_criterion_conf={"nbest": 4})
    fresh.load_state_dict(model.state_dict())
    waiting = insertion("a", 1, 0, 0)
    model.pl.insert(model, [waiting], 0)
    loss = step_on(model, "a", 1, slot=0, draw=2, step=10)["loss_pl"]
    plain = fresh.eval()(unlabeled=waiting._replace(slot=None))[1]["loss_pl"]
    assert float(loss) == pytest.approx(float(plain), rel=1e-3)
