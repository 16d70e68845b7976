"""Rescored lists: against all transcripts one by one, and what takes them."""

import pytest
import torch

from espnet_softpl import criteria, shaping
from espnet_softpl.cache.compression import Compression
from espnet_softpl.cache.packing import pack, unpack
from espnet_softpl.ctc.loss import ctc_nll
from espnet_softpl.labels.pseudo_label import Labels, best_path
from espnet_softpl.shaping.rescore import lm_scores
from tests.conftest import make_label, make_log_probs, transcript_log_probs
from tests.shaping.test_lm_posterior import make_lm, weight

LENGTHS = torch.tensor([4, 2])
LM = make_lm(3)


def listed(**conf):
    """Label two utterances, with lists that hold every transcript."""
    label = make_label(make_log_probs(2, 4, 3, torch.float64), LENGTHS)
    conf = {"nbest": 40, "lm": LM, "lm_scale": 0.7, "bonus": 0.4, **conf}
    return shaping.build("rescore", **conf)(label)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_weights_are_those_of_all_transcripts_by_enumeration(temperature) -> None:
    label = listed(temperature=temperature)
    for b, length in enumerate(LENGTHS):
        scores = {
            y: (float(score) + weight(y, LM, 0.7, 0.0, 0.4)) / temperature
            for y, score in transcript_log_probs(label.log_probs[b, :length]).items()
        }
        total = torch.tensor(list(scores.values()), dtype=torch.float64).logsumexp(0)
        shares = label.list_scores[b].softmax(0)
        found = {}
        for n, share in enumerate(shares.tolist()):
            if share > 0:
                size = int(label.list_lengths[b, n])
                found[tuple(label.list_tokens[b, n, :size].tolist())] = share
        expected = {y: float((s - total).exp()) for y, s in scores.items()}
        assert found == pytest.approx(expected, rel=1e-10)
        best = max(expected, key=expected.get)
        size = int(label.token_lengths[b])
        assert tuple(label.tokens[b, :size].tolist()) == best == next(iter(found))


def test_lm_scores_token_by_token() -> None:
    tokens = torch.tensor([[[1, 2, 2], [2, -1, -1], [-1, -1, -1]]])
    scores = lm_scores(tokens, torch.tensor([[3, 1, 0]]), LM)
    expected = [weight(y, LM, 1.0, 0.0, 0.0) for y in ((1, 2, 2), (2,), ())]
    assert scores[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_criteria_take_the_list_and_hard_ctc_its_best() -> None:
    label = listed(temperature=2.0)
    student = make_log_probs(2, 4, 3, torch.float64)
    weights = label.list_scores[:, :3].softmax(1)
    several = label.list_tokens[:, :3], label.list_lengths[:, :3]
    losses = ctc_nll(student, LENGTHS, *several)
    nbest = criteria.build("nbest_ctc", nbest=3)(student, LENGTHS, label)
    torch.testing.assert_close(nbest, (weights * losses).sum(1), rtol=1e-10, atol=0)
    hard = criteria.build("hard_ctc")(student, LENGTHS, label)
    torch.testing.assert_close(hard, losses[:, 0], rtol=1e-10, atol=0)
    for name in ("nbest_ctc", "soft_ctc"):
        one = criteria.build(name, nbest=1)(student, LENGTHS, label)
        torch.testing.assert_close(one, hard, rtol=1e-10, atol=0)
    # A list of all transcripts is more than the criterion wants: it takes the first.
    soft = criteria.build("soft_ctc", nbest=3)(student, LENGTHS, label)
    alone = make_label(label.log_probs, LENGTHS)._replace(
        list_tokens=several[0],
        list_lengths=several[1],
        list_scores=label.list_scores[:, :3],
    )
    same = criteria.build("soft_ctc", nbest=9)(student, LENGTHS, alone)
    torch.testing.assert_close(soft, same, rtol=1e-12, atol=0)


def test_the_empty_transcript_is_left_out_of_it_too() -> None:
    label = listed()._replace(excludes_empty=True)
    part = criteria.build("nbest_ctc", nbest=40)
    _, token_lengths, weights = part.transcripts(label)
    assert (weights[token_lengths == 0] == 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2, dtype=torch.float64))


def test_a_cache_keeps_the_list() -> None:
    label = listed()
    path = best_path(label.log_probs, LENGTHS)
    labels = Labels(["a", "b"], label, path, torch.tensor([-1, -1]), {}, 0)
    exact = Compression(top_k=None, precision="float32")
    for keep in (True, False):
        found = unpack(pack(labels, exact, keep), exact, "cpu").label
        for name in ("list_lengths", "list_scores", "tokens"):
            assert torch.equal(getattr(found, name), getattr(label, name)), name
        width = found.list_tokens.size(2)
        assert torch.equal(found.list_tokens, label.list_tokens[..., :width])


def test_a_changed_posterior_drops_the_list() -> None:
    label = shaping.build("blank", bias=-1.0)(listed())
    assert label.list_scores is None and label.list_tokens is None
