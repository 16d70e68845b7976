"""The bigram that is counted, by hand, and its file."""

import math

import pytest

from espnet_softpl.commands.token_lm import count, witten_bell, write_arpa
from espnet_softpl.core.errors import UserError
from espnet_softpl.labels.token_lm import read_lm


def test_witten_bell_by_hand() -> None:
    """Counts of "a b", "a a": a is followed by b, a, the end; c is never seen."""
    single, backoff, double = witten_bell([["a", "b"], ["a", "a"]], ["a", "b", "c"])
    # Singles: a 3, b 1, the end 2, three kinds of four words.
    assert single == pytest.approx(
        {"a": 3.75 / 9, "b": 1.75 / 9, "c": 0.75 / 9, "</s>": 2.75 / 9}
    )
    assert backoff == pytest.approx({"<s>": 1 / 3, "a": 3 / 6, "b": 1 / 2})
    assert double["a", "b"] == pytest.approx((1 + 3 * 1.75 / 9) / 6)
    assert double["<s>", "a"] == pytest.approx((2 + 3.75 / 9) / 3)


def test_every_distribution_of_the_file_sums_to_1(tmp_path) -> None:
    tokens = ["<blank>", "<unk>", "a", "b", "c", "<sos/eos>"]
    bigram = witten_bell([["a", "b"], ["b", "c", "c"], ["a"]], ["a", "b", "c"])
    write_arpa(bigram, tmp_path / "lm.arpa")
    lm = read_lm(tmp_path / "lm.arpa", tokens)
    sums = lm.log_probs[:, 2:5].exp().sum(1) + lm.ends.exp()
    assert sums[[0, 2, 3, 4]].tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    assert lm.unigram[2:5].exp().sum() + bigram[0]["</s>"] == pytest.approx(
        1.0, abs=1e-5
    )
    assert lm.log_probs[2, 3] == pytest.approx(math.log(bigram[2]["a", "b"]), abs=1e-5)
    unseen = bigram[1]["a"] * bigram[0]["c"]
    assert lm.log_probs[2, 4] == pytest.approx(math.log(unseen), abs=1e-5)


def test_transcripts_are_counted_by_token(tmp_path) -> None:
    (tmp_path / "text").write_text("u1 AB A\nu2\nu3 AX\n")
    tokens = ["<blank>", "<unk>", "A", "B", "<space>", "<sos/eos>"]
    (tmp_path / "tokens.txt").write_text("\n".join(tokens) + "\n")
    out = tmp_path / "lm.arpa"
    words = tmp_path / "text", tmp_path / "tokens.txt", "char", None, out
    assert "of 5 tokens in 2 transcripts" in count(*words)
    text = out.read_text()
    assert "\tB <space>\n" in text and "\tA <unk>\n" in text
    with pytest.raises(UserError, match="bpe"):
        count(*words[:2], "bpe", None, out)
    (tmp_path / "text").write_text("u1 XY\n")
    with pytest.raises(UserError, match="has no token of"):
        count(*words)
