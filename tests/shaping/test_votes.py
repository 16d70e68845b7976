"""Votes of passes with dropout: counted one by one, and what takes the list."""

import collections

import pytest
import torch

from espnet_softpl import criteria, shaping
from espnet_softpl.cache.compression import Compression
from espnet_softpl.cache.packing import pack, unpack
from espnet_softpl.ctc import greedy
from espnet_softpl.ctc.confusion import confusion_network
from espnet_softpl.ctc.graph import graph_ctc
from espnet_softpl.labels.pseudo_label import Labels, PseudoLabel, best_path
from tests.conftest import make_label, make_log_probs, pick, transcript_log_probs
from tests.filters.test_base import Relabel, words

B, T, V, K = 6, 4, 3, 5
LENGTHS = torch.tensor([4, 4, 3, 3, 2, 1])


def make_passes() -> tuple[PseudoLabel, Relabel]:
    """Draw a label, and five noisy passes that agree here and there."""
    log_probs = make_log_probs(B, T, V, torch.float64)
    noisy = [
        make_label((log_probs + torch.randn_like(log_probs)).log_softmax(-1), LENGTHS)
        for _ in range(K)
    ]
    return make_label(log_probs, LENGTHS), Relabel(noisy)


def voted(passes: int = K) -> tuple[PseudoLabel, list[list[tuple[int, ...]]]]:
    """Return the label after the vote, and each utterance's votes in order."""
    label, relabel = make_passes()
    shaped = shaping.build("votes", passes=passes)(label, relabel)
    assert relabel.calls == passes
    said = [words(noisy) for noisy in relabel.labels[:passes]]
    return shaped, [[tuple(row[b]) for row in said] for b in range(B)]


@pytest.mark.parametrize("passes", [2, K])
def test_votes_one_by_one(passes) -> None:
    label, said = voted(passes)
    seen = set()
    for b, votes in enumerate(said):
        expected = collections.Counter(votes).most_common()  # Ties: the first said.
        shares = label.list_scores[b].exp()
        lengths = label.list_lengths[b]
        found = [
            (tuple(label.list_tokens[b, n, : lengths[n]].tolist()), float(shares[n]))
            for n in range(passes)
        ]
        listed, rest = found[: len(expected)], found[len(expected) :]
        assert [y for y, _ in listed] == [y for y, _ in expected]
        wanted = [count / passes for _, count in expected]
        assert [share for _, share in listed] == pytest.approx(wanted)
        assert rest == [((), 0.0)] * len(rest)  # Said again: no transcript.
        best = label.tokens[b, : label.token_lengths[b]].tolist()
        assert tuple(best) == expected[0][0]
        seen.add(len(expected))
    assert len(seen) > 1  # Some agree and some do not.


def test_nbest_ctc_is_the_mean_of_hard_ctc_over_the_passes() -> None:
    label, said = voted()
    student = make_log_probs(B, T, V, torch.float64)
    losses = criteria.build("nbest_ctc", nbest=K)(student, LENGTHS, label)
    best = criteria.build("hard_ctc")(student, LENGTHS, label)
    for b, length in enumerate(LENGTHS):
        ours = transcript_log_probs(student[b, :length])
        expected = -sum(ours[y] for y in said[b]) / K
        torch.testing.assert_close(losses[b], expected, rtol=1e-9, atol=0)
        winner = collections.Counter(said[b]).most_common(1)[0][0]
        torch.testing.assert_close(best[b], -ours[winner], rtol=1e-9, atol=0)


def test_soft_ctc_has_the_network_of_all_votes() -> None:
    """The list of five, each with a fifth, makes the same network."""
    label, said = voted()
    logits = torch.randn(B, T, V, dtype=torch.float64, requires_grad=True)
    criterion = criteria.build("soft_ctc", nbest=K)
    losses = criterion(logits.log_softmax(-1), LENGTHS, label)
    checked = 0
    for b in range(B):
        order = collections.Counter(said[b])
        votes = sorted(said[b], key=lambda y: -order[y])
        if list(order.values()).count(order[votes[0]]) > 1:
            continue  # The pivot of a tie is what was said first.
        tokens = torch.full((1, K, T), -1)
        for n, y in enumerate(votes):
            tokens[0, n, : len(y)] = torch.tensor(y, dtype=torch.long)
        lengths = torch.tensor([[len(y) for y in votes]])
        fifth = torch.full((1, K), 1 / K, dtype=torch.float64)
        network = confusion_network(tokens, lengths, fifth)
        row = logits[b : b + 1].log_softmax(-1)
        expected = graph_ctc(row, LENGTHS[b : b + 1], network)[0]
        torch.testing.assert_close(losses[b], expected, rtol=1e-9, atol=0)
        checked += len(order) > 1
    assert checked > 1
    assert torch.autograd.gradcheck(
        lambda x: criterion(x.log_softmax(-1), LENGTHS, label), (logits,)
    )


def test_the_empty_transcript_is_left_out_if_a_filter_has_left_it_out() -> None:
    label, said = voted()
    label = label._replace(excludes_empty=True)
    part = criteria.build("soft_ctc", nbest=K)
    _, lengths, weights = part.transcripts(label)
    some = torch.tensor([any(y for y in votes) for votes in said])
    assert some.any()
    assert (weights[some][lengths[some] == 0] == 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]))


def test_order_and_company_do_not_matter() -> None:
    label, relabel = make_passes()
    part, order = shaping.build("votes", passes=K), torch.tensor([3, 1, 0])
    whole = pick(part(label, relabel), order)
    few = Relabel([pick(noisy, order) for noisy in relabel.labels])
    alone = part(pick(label, order), few)
    assert torch.equal(whole.list_scores, alone.list_scores)
    assert torch.equal(whole.list_lengths, alone.list_lengths)
    assert torch.equal(whole.list_tokens, alone.list_tokens)


def test_a_cache_keeps_the_votes() -> None:
    label, _ = voted()
    path = best_path(label.log_probs, LENGTHS)
    ids = [str(b) for b in range(B)]
    labels = Labels(ids, label, path, torch.full((B,), -1), {}, 0)
    exact = Compression(top_k=None, precision="float32")
    found = unpack(pack(labels, exact), exact, "cpu").label
    for name in ("list_lengths", "list_scores", "token_lengths"):
        assert torch.equal(getattr(found, name), getattr(label, name)), name
    width = found.list_tokens.size(2)
    assert torch.equal(found.list_tokens, label.list_tokens[..., :width])


def test_passes_that_say_nothing() -> None:
    """All of one mind, and no token at all: U is 0."""
    blank = torch.full((2, 3, V), -9.0).index_fill(2, torch.tensor([0]), 0.0)
    quiet = make_label(blank.log_softmax(-1), torch.tensor([3, 2]))
    assert greedy(quiet.log_probs, quiet.lengths)[0].shape == (2, 0)
    label = shaping.build("votes", passes=3)(quiet, Relabel([quiet]))
    assert label.list_scores.exp().tolist() == [[1.0, 0.0, 0.0]] * 2
    assert label.token_lengths.tolist() == [0, 0] and label.tokens.shape == (2, 0)
