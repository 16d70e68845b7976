"""Attention decoders on pseudo-labels, against plain loops; what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from espnet_softpl.ctc import PADDING
from tests.support.espnet_runs import HYBRID, TOKENS
from tests.support.models import (
    FORM_IDS,
    FORMS,
    HYBRIDS,
    INTER_HYBRID,
    batch,
    run,
    talking,
)
from tests.training.test_model import labeled_batch, unlabeled_batch

# The attention decoder.


def answer_step_by_step(model, encoder_out, lengths, tokens) -> torch.Tensor:
    """Ask for one position after the other, of one utterance, without a look ahead."""
    rows = []
    for count in range(len(tokens) + 1):
        prefix = torch.tensor([[model.sos, *tokens[:count]]])
        size = torch.tensor([count + 1])
        scores, _ = model.decoder(encoder_out, lengths, prefix, size)
        rows.append(scores[0, -1].log_softmax(-1))
    return torch.stack(rows)


@HYBRIDS
def test_forced_answers_are_those_of_a_step_by_step_loop(kind) -> None:
    model = talking(pl_decoder="forced_soft", **kind)
    made = model.pl.make(model, batch(), step=0)
    heard = model.pl.generator.listen(model, batch().speech, batch().speech_lengths)
    label, answer = made.label, made.decoder
    assert int(label.token_lengths.min()) > 2
    assert torch.equal(answer.lengths, label.token_lengths + 1)
    for i, (frames, count) in enumerate(zip(label.lengths, label.token_lengths)):
        tokens = label.tokens[i, :count].tolist()
        expected = answer_step_by_step(
            model, heard.encoder_out[i : i + 1, :frames], frames[None], tokens
        )
        found = answer.log_probs[i, : count + 1]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        # The best token, or one that ties with it within rounding.
        picked = expected.gather(1, answer.tokens[i, : count + 1, None])[:, 0]
        torch.testing.assert_close(picked, expected.amax(-1), atol=1e-5, rtol=1e-4)
        assert (answer.tokens[i, count + 1 :] == PADDING).all()
    hard = talking(pl_decoder="forced", **kind).pl
    assert torch.equal(hard.make(model, batch(), 0).decoder.tokens, answer.tokens)
    assert hard.make(model, batch(), 0).decoder.log_probs is None


@HYBRIDS
@pytest.mark.parametrize("target", ["transcript", "forced", "forced_soft"])
@pytest.mark.parametrize("normalized", [False, True], ids=["sum", "mean"])
def test_the_loss_of_the_decoder_is_that_of_a_loop(kind, target, normalized) -> None:
    conf = dict(lsm_weight=0.1, length_normalized_loss=normalized, ctc_weight=0.3)
    model = talking(pl_decoder=target, **dict(kind, model_conf=conf))
    made = model.pl.make(model, batch(), step=0)
    label, answer = made.label, made.decoder
    inputs = batch().speech, batch().speech_lengths
    heard = model.pl.generator.listen(model, *inputs).encoder_out
    total = 0.0
    for weight in (torch.ones(3), torch.tensor([1.0, 0.5, 0.0])):
        losses, positions = [], 0
        for i, (frames, count) in enumerate(zip(label.lengths, label.token_lengths)):
            tokens = label.tokens[i, :count].tolist()
            log_probs = answer_step_by_step(
                model, heard[i : i + 1, :frames], frames[None], tokens
            )
            goal = torch.tensor([*tokens, model.eos])
            if target == "forced":
                goal = answer.tokens[i, : count + 1]
            q = torch.full_like(log_probs, 0.1 / (len(TOKENS) - 1))
            q[range(count + 1), goal] = 0.9
            entropy = torch.special.entr(q).sum()
            if target == "forced_soft":
                q, entropy = answer.log_probs[i, : count + 1].exp(), 0.0
            losses.append(-(q * log_probs).sum() - entropy)
            positions += int(count + 1) * int(weight[i] > 0)
        expected = (weight * torch.stack(losses)).sum() / 3
        if normalized:
            expected *= int((weight > 0).sum()) / positions
        found = model.pseudo_decoder_loss(
            target, heard, label.lengths, label._replace(weight=weight), answer
        )
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        total += float(found.detach())
    assert total > 0.1


@HYBRIDS
def test_the_branches_are_weighed_as_espnet_weighs_them(kind) -> None:
    for target in ("transcript", "forced", "forced_soft", "none"):
        model = talking("soft_ce", pl_decoder=target, **kind)
        loss, stats, grads = run(model)
        parts = 0.3 * stats.get("loss_pl_ctc", stats["loss_pl"] / 0.3)
        if target != "none":
            parts = parts + 0.7 * stats["loss_pl_decoder"]
            assert float(stats["loss_pl_decoder"]) > 0.1
        torch.testing.assert_close(loss, parts)
        trained = [g is not None for n, g in grads.items() if n.startswith("decoder")]
        assert all(trained) == any(trained) == (target != "none")


def test_a_shared_model_has_no_gradient_from_soft_labels() -> None:
    kind = dict(INTER_HYBRID, pl_interctc="own", pl_decoder="forced_soft")
    _, _, grads = run(talking("soft_ce", **kind))
    assert max(float(grad.abs().max()) for grad in grads.values()) < 1e-5
    _, _, grads = run(talking("soft_ce", **dict(kind, pl_decoder="forced")))
    assert float(grads["decoder.output_layer.weight"].abs().max()) > 1e-2
    _, _, grads = run(talking("soft_ce", **dict(kind, pl_interctc="last")))
    assert float(grads["ctc.ctc_lo.weight"].abs().max()) > 1e-2


@pytest.mark.parametrize(
    "criterion, same", [("hard_ctc", "transcript"), ("soft_ce", "none")]
)
def test_auto_is_the_transcript_or_nothing(criterion, same) -> None:
    one = run(talking(criterion, **HYBRID))
    two = run(talking(criterion, pl_decoder=same, **HYBRID))
    assert torch.equal(one[0], two[0])
    for name, grad in one[2].items():
        assert (grad is None) == (two[2][name] is None), name
        assert grad is None or torch.equal(grad, two[2][name]), name
    assert ("loss_pl_decoder" in one[1]) == (criterion == "hard_ctc")


@pytest.mark.parametrize("forms", FORMS, ids=FORM_IDS)
@pytest.mark.parametrize("criterion", ["hard_ctc", "soft_ce"])
def test_a_weight_of_zero_removes_exactly(forms, criterion) -> None:
    """As if there were no such utterance, but for the size of the batch."""
    model = talking(criterion, **forms)
    for row in (0, 2):
        usable = torch.arange(3) != row
        unlabeled = dict(usable=usable, slot=None, draw=0)
        noisy = unlabeled_batch()["speech"]
        noisy[row] = 0.1 * torch.randn(12000)
        loss, _, grads = run(model, unlabeled=unlabeled)
        again, _, others = run(model, unlabeled=unlabeled, speech=noisy)
        torch.testing.assert_close(loss, again)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, others[name], atol=1e-5, rtol=1e-3)
    nothing = dict(usable=torch.zeros(3, dtype=torch.bool), slot=None, draw=0)
    loss, stats, grads = run(model, unlabeled=nothing)
    assert float(loss) == float(stats["loss_pl"]) == 0.0
    assert not any(grad.any() for grad in grads.values() if grad is not None)


@pytest.mark.parametrize("forms", FORMS, ids=FORM_IDS)
def test_every_batch_reports_the_keys_of_the_forms(forms) -> None:
    model = talking(**forms).train()
    _, of_labeled, _ = model(**labeled_batch())
    _, of_unlabeled, _ = model(**unlabeled_batch())
    assert list(of_labeled) == list(of_unlabeled) == list(model.statistics_keys())
    added = {"loss_pl_ctc"}
    added |= {"loss_pl_interctc"} if "pl_interctc" in forms else set()
    decoder = forms.get("pl_decoder")
    added |= {"loss_pl_decoder"} if decoder else set()
    added |= {"pl_decoder_disagreement"} if decoder and "forced" in decoder else set()
    prefixes = ("loss_pl_", "pl_decoder")
    assert {key for key in of_labeled if key.startswith(prefixes)} == added
    for key in added:
        assert math.isnan(float(of_labeled[key]))
        assert math.isfinite(float(of_unlabeled[key])), key


@HYBRIDS
@pytest.mark.parametrize("target", ["transcript", "forced", "forced_soft"])
def test_empty_transcripts_train_the_end(kind, target) -> None:
    model = talking(pl_decoder=target, **kind)
    with torch.no_grad():
        model.ctc.ctc_lo.weight.zero_()
        model.ctc.ctc_lo.bias[0] = 9.0
    made = model.pl.make(model, batch(), step=0)
    assert made.label.token_lengths.tolist() == [0, 0, 0]
    if made.decoder is not None:
        assert made.decoder.tokens.shape == (3, 1)
    loss, stats, grads = run(model)
    assert math.isfinite(float(loss)) and float(stats["loss_pl_decoder"]) > 0.0
    assert all(g.isfinite().all() for g in grads.values() if g is not None)


@pytest.mark.parametrize(
    "who, conf",
    [
        ("ema", {"decay": 0.5}),
        ("student", {}),
        ("delayed", {"steps": 2}),
        ("topn", {"n": 1}),
        ("frozen", {}),
    ],
)
def test_the_teacher_of_every_kind_answers(who, conf) -> None:
    kind = dict(INTER_HYBRID, pl_interctc="own", pl_decoder="forced_soft")
    model = talking("soft_ce", who, pl_teacher_conf=conf, **kind)
    run(model)
    teacher = model.pl.generator.teacher.module(model)
    with torch.no_grad():
        for part in (model.decoder, model.encoder.encoders):
            for parameter in part.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    made = model.pl.make(model, batch(), step=0)
    teacher.eval()
    label = made.label
    outputs = teacher.ctc_outputs(batch().speech, batch().speech_lengths, layers=True)
    scores, _ = teacher.decoder_scores(
        outputs.encoder_out, label.lengths, label.tokens, label.token_lengths
    )
    torch.testing.assert_close(made.decoder.log_probs, scores.log_softmax(-1))
    for layer, expected in zip(made.layers, outputs.layers, strict=True):
        torch.testing.assert_close(layer.log_probs, expected)
    assert not made.decoder.log_probs.requires_grad
    assert not any(layer.log_probs.requires_grad for layer in made.layers)
    _, stats, grads = run(model)
    if who != "student":
        assert all(p.grad is None for p in teacher.parameters())
        mine, theirs = model.state_dict(), teacher.state_dict()
        assert list(mine) == list(theirs)
        moved = "decoder.output_layer.weight"
        assert not torch.equal(mine[moved], theirs[moved])
        assert float(grads[moved].abs().max()) > 1e-3


def test_a_language_token_stands_before_the_transcript() -> None:
    conf = dict(ctc_weight=0.3, lang_token_id=2)
    stock = talking(**dict(HYBRID, model_conf=conf))
    made = stock.pl.make(stock, batch(), step=0)
    inputs = stock.pl.generator.listen(
        stock, batch().speech, batch().speech_lengths
    ).encoder_out
    one = stock.pseudo_decoder_loss(
        "transcript", inputs, made.label.lengths, made.label
    )
    half = made.label._replace(weight=torch.full((3,), 0.5))
    two = stock.pseudo_decoder_loss("transcript", inputs, made.label.lengths, half)
    torch.testing.assert_close(two, 0.5 * one)  # Ours, and ESPnet's own path.
    model = talking(pl_decoder="forced_soft", **dict(HYBRID, model_conf=conf))
    made = model.pl.make(model, batch(), step=0)
    assert torch.equal(made.decoder.lengths, made.label.token_lengths + 2)
    assert math.isfinite(float(run(model)[0]))


def test_a_decoder_that_says_nan_says_nothing() -> None:
    for target in ("forced", "forced_soft"):
        model = talking(pl_decoder=target, **HYBRID)
        scores = type(model).decoder_scores

        def spoilt(*args, **kwargs):
            found, targets = scores(model, *args, **kwargs)
            if not found.requires_grad:
                found[1] = math.nan
            return found, targets

        model.decoder_scores = spoilt
        made = model.pl.make(model, batch(), step=0)
        assert made.label.weight.tolist() == [1.0, 0.0, 1.0]
        assert made.reason.tolist() == [-1, 1, -1]  # Behind the filter `tokens`.
        loss, stats, _ = run(model)
        assert math.isfinite(float(loss)) and float(stats["pl_kept"]) < 0.7
