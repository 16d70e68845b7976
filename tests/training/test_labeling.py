"""From a mini-batch to labels: teacher, prior, shaping, the teacher's decoder."""

from __future__ import annotations

import math

import pytest
import torch
from espnet2.torch_utils.device_funcs import to_device
from torch.distributed.utils import _to_kwargs

from espnet_softpl import shaping
from espnet_softpl.commands.token_lm import witten_bell, write_arpa
from espnet_softpl.ctc import PADDING
from espnet_softpl.training.labeling import UnlabeledBatch
from tests.support.espnet_runs import HYBRID, TOKENS
from tests.support.models import HYBRIDS, INTER_HYBRID, run, talking
from tests.training.test_model import batch, labeled_batch, make_model, unlabeled_batch
from tests.training.test_model_decoder import answer_step_by_step


def test_the_prior_comes_from_labeled_batches() -> None:
    conf = dict(pl_regularizer=["prior_kl"], pl_regularizer_conf={"weight": 1.0})
    model = make_model("hard_ctc", **conf)
    assert model.pl.make(model, batch(), step=0).label.prior is None
    model(**labeled_batch())
    prior = model.pl.prior.value
    assert prior.shape == (len(TOKENS),)
    assert float(prior.sum()) == pytest.approx(1.0, abs=1e-5)
    model(**unlabeled_batch())
    assert torch.equal(model.pl.prior.value, prior)
    assert make_model("hard_ctc").pl.prior is None  # Nobody asks for it.


def test_shaping_changes_the_label_but_not_the_monitors() -> None:
    torch.manual_seed(1)
    _, plain, _ = make_model("soft_ce")(**unlabeled_batch())
    torch.manual_seed(1)
    conf = dict(
        pl_shaping=["sharpen", "utterance_confidence"],
        pl_shaping_conf={
            "sharpen": {"temperature": 0.1},
            "utterance_confidence": {"threshold": 1.0},
        },
    )
    _, shaped, _ = make_model("soft_ce", **conf)(**unlabeled_batch())
    assert torch.equal(plain["pl_frame_entropy"], shaped["pl_frame_entropy"])
    assert float(shaped["pl_kept"]) == 0.0 and float(plain["pl_kept"]) == 1.0


def test_every_shaping_runs_in_the_model(tmp_path) -> None:
    lm = str(tmp_path / "bigram.arpa")
    write_arpa(witten_bell([["A", "B"]], TOKENS), lm)
    confs = {"lm_posterior": {"lm": lm}, "rescore": {"lm": lm}}
    for name in shaping.available():
        conf = confs.get(name, {})
        model = make_model("hard_ctc", pl_shaping=[name], pl_shaping_conf=conf)
        model(**labeled_batch())
        loss, _, _ = model(**unlabeled_batch())
        assert torch.isfinite(loss), name


def test_votes_are_of_the_teacher_with_dropout() -> None:
    conf = dict(pl_shaping=["votes"], pl_shaping_conf={"passes": 4})
    model = talking("soft_ctc", **conf)
    torch.manual_seed(3)
    made = model.pl.make(model, batch(), step=0).label
    speech = batch().speech, batch().speech_lengths
    torch.manual_seed(3)
    said = [model.pl.generator(model, *speech, dropout=True) for _ in range(4)]
    for b in range(3):
        votes = [y.tokens[b, : y.token_lengths[b]].tolist() for y in said]
        best = max(votes, key=votes.count)
        assert made.tokens[b, : made.token_lengths[b]].tolist() == best
        share = float(made.list_scores[b, 0].exp())
        assert share == pytest.approx(votes.count(best) / 4)
    clean = model.pl.generator(model, *speech)
    assert torch.equal(made.log_probs, clean.log_probs)
    assert float(made.list_scores.exp().amin()) < 1.0  # Dropout changes something.


@HYBRIDS
def test_forced_answers_are_those_of_a_step_by_step_loop(kind) -> None:
    model = talking(pl_decoder="forced_soft", **kind)
    made = model.pl.make(model, batch(), step=0)
    heard = model.pl.generator.run(model, batch().speech, batch().speech_lengths)
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
        best = expected.argmax(-1)
        assert torch.equal(answer.tokens[i, : count + 1], best)
        assert (answer.tokens[i, count + 1 :] == PADDING).all()
    hard = talking(pl_decoder="forced", **kind).pl
    assert torch.equal(hard.make(model, batch(), 0).decoder.tokens, answer.tokens)
    assert hard.make(model, batch(), 0).decoder.log_probs is None


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


def test_espnet_moves_it_and_it_stays_what_it_is() -> None:
    full = batch(0.3)._replace(usable=torch.tensor([True, False, True]), slot=4, draw=9)
    fields = dict(unlabeled=full, insertions=[full, batch()], pl_step=7)
    moved = to_device(fields, "meta")
    assert moved["pl_step"] == 7
    for before, after in zip(
        (fields["unlabeled"], *fields["insertions"]),
        (moved["unlabeled"], *moved["insertions"]),
        strict=True,
    ):
        assert type(after) is UnlabeledBatch
        assert after.utt_id == before.utt_id == ["a", "b", "c"]
        kept = [(part.weight, part.slot, part.draw) for part in (before, after)]
        assert kept[0] == kept[1]
        tensors = [part for part in after if isinstance(part, torch.Tensor)]
        assert all(tensor.device.type == "meta" for tensor in tensors)
        assert len(tensors) == 2 + (before.usable is not None)


def test_torch_hands_it_to_a_process_of_its_own() -> None:
    """What DistributedDataParallel does with the keyword arguments of the model."""
    fields = dict(unlabeled=batch(), insertions=[batch()], pl_step=7)
    _, (same,) = _to_kwargs((), fields, torch.device("meta"), False)
    assert type(same["unlabeled"]) is UnlabeledBatch and same["pl_step"] == 7
    assert same["unlabeled"].utt_id == ["a", "b", "c"]
    assert same["unlabeled"].speech.device.type == "meta"
    assert [type(part) for part in same["insertions"]] == [UnlabeledBatch]
