"""The prefix beam search, against enumeration and against a plain dictionary search."""

import math

import pytest
import torch

from espnet_softpl.ctc import PADDING
from espnet_softpl.ctc.beam_search import NBest, prefix_beam_search
from tests.conftest import all_paths, make_log_probs, path_log_prob, reference_collapse

Transcripts = dict[tuple[int, ...], float]


def log_add(*terms: float) -> float:
    best = max(terms)
    if best == -math.inf:
        return best
    return best + math.log(sum(math.exp(term - best) for term in terms))


def enumerate_transcripts(log_probs: torch.Tensor) -> Transcripts:
    """Sum the (T, V) probabilities of all alignments, by transcript."""
    sums: Transcripts = {}
    for path in all_paths(*log_probs.shape):
        transcript = reference_collapse(path)
        term = float(path_log_prob(log_probs, path))
        sums[transcript] = log_add(sums.get(transcript, -math.inf), term)
    return sums


def search_plainly(log_probs: torch.Tensor, beam_size: int, token_beam: int) -> list:
    """Search one utterance with dictionaries; best (transcript, score) first."""
    beam = {(): (0.0, -math.inf)}
    for frame in log_probs.tolist():
        ranked = sorted(range(1, len(frame)), key=lambda token: -frame[token])
        grown: dict = {}

        def give(prefix: tuple, slot: int, term: float, grown: dict = grown) -> None:
            masses = grown.setdefault(prefix, [-math.inf, -math.inf])
            masses[slot] = log_add(masses[slot], term)

        for prefix, (blank, nonblank) in beam.items():
            total = log_add(blank, nonblank)
            give(prefix, 0, total + frame[0])
            if prefix:
                give(prefix, 1, nonblank + frame[prefix[-1]])
            for token in ranked[:token_beam]:
                repeat = prefix and prefix[-1] == token
                give((*prefix, token), 1, (blank if repeat else total) + frame[token])
        best = sorted(grown.items(), key=lambda item: -log_add(*item[1]))
        beam = {prefix: tuple(masses) for prefix, masses in best[:beam_size]}
    return [(prefix, log_add(*masses)) for prefix, masses in beam.items()]


def hypotheses(result: NBest, utterance: int) -> list[tuple[tuple[int, ...], float]]:
    """Read the found (transcript, score) of an utterance, and check the padding."""
    found = []
    for row, length, score in zip(
        result.tokens[utterance].tolist(),
        result.token_lengths[utterance].tolist(),
        result.scores[utterance].tolist(),
    ):
        assert row[length:] == [PADDING] * (len(row) - length)
        if score == -math.inf:
            assert length == 0
        else:
            found.append((tuple(row[:length]), score))
    return found


def assert_same(found: list, wanted: list, tolerance: float = 1e-9) -> None:
    assert [transcript for transcript, _ in found] == [t for t, _ in wanted]
    for (_, score), (_, reference) in zip(found, wanted):
        assert score == pytest.approx(reference, abs=tolerance)


def search_all(log_probs: torch.Tensor, lengths: torch.Tensor, size: int) -> NBest:
    return prefix_beam_search(log_probs, lengths, size, size, log_probs.size(2) - 1)


def num_transcripts(num_frames: int, num_tokens: int) -> int:
    paths = all_paths(num_frames, num_tokens)
    return len({reference_collapse(path) for path in paths})


@pytest.mark.parametrize("num_frames, num_tokens", [(5, 3), (4, 4), (5, 4), (3, 2)])
def test_all_transcripts_have_their_exact_mass(num_frames, num_tokens) -> None:
    """A padded batch of all lengths, with a beam larger than what there is."""
    log_probs = make_log_probs(num_frames + 1, num_frames, num_tokens, torch.float64)
    lengths = torch.arange(num_frames, -1, -1)
    size = num_transcripts(num_frames, num_tokens) + 3
    result = search_all(log_probs, lengths, size)
    assert result.scores.dtype == torch.float64
    for utterance, length in enumerate(lengths.tolist()):
        wanted = enumerate_transcripts(log_probs[utterance, :length])
        assert () in wanted
        ranked = sorted(wanted.items(), key=lambda item: -item[1])
        assert_same(hypotheses(result, utterance), ranked)
        if length:
            total = result.scores[utterance].logsumexp(0)
            assert float(total) == pytest.approx(0.0, abs=1e-9)


def test_a_double_letter_needs_a_blank() -> None:
    """Mass by hand: P(a) = aa, -a, a-; P(aa) needs three frames."""
    half = torch.tensor([0.25, 0.75]).log().expand(1, 3, 2)
    result = search_all(half, torch.tensor([3]), 3)
    found = dict(hypotheses(result, 0))
    assert math.exp(found[(1, 1)]) == pytest.approx(0.75 * 0.25 * 0.75)
    assert math.exp(found[()]) == pytest.approx(0.25**3)
    assert math.exp(found[(1,)]) == pytest.approx(1 - 0.75**2 * 0.25 - 0.25**3)
    two = search_all(half, torch.tensor([2]), 3)
    assert (1, 1) not in dict(hypotheses(two, 0))


def test_ties_lose_no_hypothesis() -> None:
    """A flat teacher: many equal scores, each transcript once."""
    flat = torch.full((1, 4, 3), 1 / 3, dtype=torch.float64).log()
    wanted = enumerate_transcripts(flat[0])
    result = search_all(flat, torch.tensor([4]), len(wanted) + 1)
    found = hypotheses(result, 0)
    assert len(found) == len(wanted) == len(dict(found))
    for transcript, score in found:
        assert score == pytest.approx(wanted[transcript], abs=1e-12)
    assert result.scores[0, :-1].diff().max() <= 0
    few = search_all(flat, torch.tensor([4]), 2)
    assert len(dict(hypotheses(few, 0))) == 2


@pytest.mark.parametrize("confidence", [8.0, math.inf])
def test_a_teacher_of_blanks_yields_the_empty_transcript_first(confidence) -> None:
    logits = torch.zeros(2, 5, 4)
    logits[..., 1:] -= confidence
    result = search_all(logits.log_softmax(-1), torch.tensor([5, 3]), 4)
    assert result.token_lengths[:, 0].tolist() == [0, 0]
    if confidence == math.inf:
        assert result.scores[:, 0].tolist() == [0.0, 0.0]
        assert result.scores[:, 1:].eq(-math.inf).all()
        assert result.tokens.shape == (2, 4, 0)
    else:
        assert {t for t, _ in hypotheses(result, 0)[1:]} == {(1,), (2,), (3,)}


def test_impossible_tokens_leave_only_what_is_possible() -> None:
    """Prefixes that lose all mass and come up again count once."""
    log_probs = make_log_probs(3, 5, 4, torch.float64)
    gone = torch.tensor([[1, 0, 2, 3, 0], [0, 1, 1, 2, 0], [3, 3, 0, 0, 1]])
    log_probs.scatter_(2, gone.unsqueeze(-1), -math.inf)
    log_probs[2, 2, :3] = -math.inf
    result = search_all(log_probs, torch.tensor([5, 5, 5]), 130)
    for utterance in range(3):
        wanted = enumerate_transcripts(log_probs[utterance]).items()
        possible = [item for item in wanted if item[1] > -math.inf]
        ranked = sorted(possible, key=lambda item: -item[1])
        assert_same(hypotheses(result, utterance), ranked)


def test_one_frame_and_one_token() -> None:
    log_probs = make_log_probs(2, 1, 4)
    result = prefix_beam_search(log_probs, torch.tensor([1, 1]), 4, 4)
    order = log_probs[:, 0].sort(-1, descending=True)
    assert torch.equal(result.scores, order.values)
    for utterance in range(2):
        wanted = [(t,) if t else () for t in order.indices[utterance].tolist()]
        assert [t for t, _ in hypotheses(result, utterance)] == wanted
    only_blank = prefix_beam_search(torch.zeros(1, 3, 1), torch.tensor([3]), 2, 2)
    assert only_blank.scores.tolist() == [[0.0, -math.inf]]


def test_no_frames_is_the_empty_transcript() -> None:
    result = prefix_beam_search(torch.zeros(2, 0, 4), torch.tensor([0, 0]), 2, 3)
    assert result.scores.tolist() == [[0.0, -math.inf]] * 2
    assert result.tokens.shape == (2, 2, 0)


SIZES = [(1, 1), (2, 1), (3, 2), (4, 3), (8, 2), (8, 4)]


@pytest.mark.parametrize("beam_size, token_beam", SIZES)
def test_a_small_beam_agrees_with_a_plain_search(beam_size, token_beam) -> None:
    """Prefixes leave the beam, come back, and merge with others by another way."""
    log_probs = make_log_probs(12, 30, 5, torch.float64)
    lengths = torch.randint(20, 31, (12,))
    result = prefix_beam_search(log_probs, lengths, beam_size, beam_size, token_beam)
    for utterance, length in enumerate(lengths.tolist()):
        wanted = search_plainly(log_probs[utterance, :length], beam_size, token_beam)
        assert_same(hypotheses(result, utterance), wanted)


def test_the_best_tokens_are_those_of_each_frame() -> None:
    """None stands for as many tokens as prefixes, or all there are."""
    log_probs = make_log_probs(3, 12, 9, torch.float64)
    lengths = torch.tensor([12, 7, 10])
    for beam_size, token_beam in [(3, 3), (20, 8)]:
        default = prefix_beam_search(log_probs, lengths, 3, beam_size)
        given = prefix_beam_search(log_probs, lengths, 3, beam_size, token_beam)
        assert all(map(torch.equal, default, given))
    more = prefix_beam_search(log_probs, lengths, 3, 20, 100)
    assert all(map(torch.equal, default, more))
    fewer = prefix_beam_search(log_probs, lengths, 3, 20, 1)
    assert (fewer.scores <= default.scores).all()
    assert (fewer.scores < default.scores).any()


def test_scores_are_the_ctc_likelihood_of_a_wide_search() -> None:
    log_probs = make_log_probs(4, 6, 4, torch.float64)
    lengths = torch.tensor([6, 5, 6, 4])
    result = prefix_beam_search(log_probs, lengths, 3, 600, 3)
    for rank in range(3):
        loss = torch.nn.functional.ctc_loss(
            log_probs.transpose(0, 1),
            result.tokens[:, rank].clamp(min=0),
            lengths,
            result.token_lengths[:, rank],
            reduction="none",
        )
        torch.testing.assert_close(result.scores[:, rank], -loss)


def test_confident_teachers_keep_improbable_hypotheses() -> None:
    """Two thousand nats below the best is still a hypothesis, not nothing."""
    logits = torch.zeros(1, 4, 3)
    logits[..., 2] = 2000.0
    result = search_all(logits.log_softmax(-1), torch.tensor([4]), 4)
    assert result.scores[0].isfinite().all()
    assert hypotheses(result, 0)[0] == ((2,), 0.0)


def same_bits(one: NBest, other: NBest) -> bool:
    """Compare results whose transcripts may be padded to different widths."""
    width = max(one.tokens.size(2), other.tokens.size(2))
    wide = [
        torch.nn.functional.pad(x, (0, width - x.size(2)), value=PADDING)
        for x in (one.tokens, other.tokens)
    ]
    return all(map(torch.equal, (wide[0], *one[1:]), (wide[1], *other[1:])))


def at(result: NBest, rows: list[int] | torch.Tensor) -> NBest:
    return NBest(*(field[rows] for field in result))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("flat", [False, True])
def test_an_utterance_is_searched_alone_bit_for_bit(dtype, flat) -> None:
    """Neither padding, whatever it holds, nor company, nor order changes a thing."""
    log_probs = make_log_probs(7, 40, 6, dtype)
    if flat:  # Nearly every score is tied.
        log_probs = torch.zeros_like(log_probs).log_softmax(-1)
    lengths = torch.tensor([40, 33, 1, 17, 0, 26, 39])
    together = prefix_beam_search(log_probs, lengths, 3, 5, 3)
    for row, length in enumerate(lengths.tolist()):
        frames = log_probs[row : row + 1, :length]
        alone = prefix_beam_search(frames, lengths[row : row + 1], 3, 5, 3)
        assert same_bits(alone, at(together, [row]))
    order = torch.randperm(7)
    shuffled = prefix_beam_search(log_probs[order], lengths[order], 3, 5, 3)
    assert same_bits(shuffled, at(together, order))
    for filling in (math.nan, math.inf, -math.inf, 0.0):
        padded = torch.nn.functional.pad(log_probs, (0, 0, 0, 9), value=filling)
        for row, length in enumerate(lengths.tolist()):
            padded[row, length:] = filling
        assert same_bits(prefix_beam_search(padded, lengths, 3, 5, 3), together)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_searched_in_float32(dtype) -> None:
    log_probs = make_log_probs(2, 20, 5).to(dtype)
    lengths = torch.tensor([20, 13])
    result = prefix_beam_search(log_probs, lengths, 3, 6)
    assert result.scores.dtype == torch.float32
    assert same_bits(result, prefix_beam_search(log_probs.float(), lengths, 3, 6))


def test_no_gradient_and_no_trace_in_the_input() -> None:
    log_probs = make_log_probs(2, 9, 5).requires_grad_()
    before = log_probs.detach().clone()
    result = prefix_beam_search(log_probs, torch.tensor([9, 4]), 2, 4, 4)
    assert not result.scores.requires_grad
    assert torch.equal(log_probs.detach(), before)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((0, 4, None), "nbest must be an integer >= 1"),
        ((5, 4, None), "beam_size must be an integer >= 5"),
        ((1, 4, 0), "token_beam must be an integer >= 1"),
    ],
)
def test_sizes_without_a_search_are_refused(sizes, message) -> None:
    with pytest.raises(ValueError, match=message):
        prefix_beam_search(torch.zeros(1, 2, 3), torch.tensor([2]), *sizes)
