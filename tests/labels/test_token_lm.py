"""ARPA files as tables of tokens, and those that are refused."""

import math

import pytest
import torch

from espnet_softpl.core.errors import UserError
from espnet_softpl.labels.token_lm import FLOOR, read_lm

ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-99\t<s>\t-0.5
-1.0\ta\t-0.25
-0.5\tb
-2.0\tX\t-1
-0.75\t</s>

\\2-grams:
-0.125\t<s> a
-0.2\ta b
-0.3\tb </s>

\\end\\
"""
TOKENS = ["<blank>", "<unk>", "a", "b", "c", "<sos/eos>"]


def test_a_table_by_hand(tmp_path, caplog) -> None:
    (tmp_path / "lm.arpa").write_text(ARPA)
    lm = read_lm(tmp_path / "lm.arpa", TOKENS)
    base10 = lm.log_probs / math.log(10.0)
    assert base10[0, 2:4].tolist() == pytest.approx([-0.125, -1.0])
    assert base10[2, 2:4].tolist() == pytest.approx([-1.25, -0.2])
    assert base10[3, 2:4].tolist() == pytest.approx([-1.0, -0.5])
    ends = lm.ends / math.log(10.0)
    assert ends[[0, 2, 3]].tolist() == pytest.approx([-1.25, -1.0, -0.3])
    assert lm.unigram[2] == pytest.approx(-math.log(10.0))
    assert lm.unigram[4] == pytest.approx(FLOOR)
    assert "lacks tokens: c" in caplog.text
    assert torch.isfinite(lm.log_probs).all()


def test_unknown_tokens_have_the_share_of_unk(tmp_path) -> None:
    (tmp_path / "lm.arpa").write_text(ARPA.replace("X", "<unk>"))
    lm = read_lm(tmp_path / "lm.arpa", TOKENS)
    assert lm.unigram[4] == pytest.approx(-2.0 * math.log(10.0))


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "cannot be read"),
        ("words", "is no ARPA file"),
        (ARPA.replace("-1.0\ta", "one\ta"), "line 7 is no 1-gram"),
        (ARPA.replace("\\end\\", "\\3-grams:\n-1 a b a"), "is of order 3; give"),
        (ARPA.replace("\ta\t", "\tq\t").replace("\tb", "\tr"), "lacks 3 of 5 tokens"),
    ],
)
def test_what_is_no_bigram_of_the_tokens_is_refused(tmp_path, text, message) -> None:
    if text is not None:
        (tmp_path / "lm.arpa").write_text(text)
    with pytest.raises(UserError, match=message):
        read_lm(tmp_path / "lm.arpa", TOKENS)
