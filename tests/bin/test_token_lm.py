"""The command token_lm: what it writes, and what it refuses."""

from pathlib import Path

import pytest

from espnet_softpl.bin import token_lm


def test_the_command_writes_a_bigram_or_refuses(tmp_path: Path, capsys) -> None:
    (tmp_path / "text").write_text("u1 A B\n")
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\nA\nB\n<space>\n<sos/eos>\n")
    words = ["--text", str(tmp_path / "text"), "--out", str(tmp_path / "lm.arpa")]
    words += ["--token_list", str(tmp_path / "tokens.txt")]
    assert token_lm.main(words) == 0
    assert "4 bigrams" in capsys.readouterr().out
    for more, message in (
        (["--text", str(tmp_path / "no")], "does not exist"),
        (["--token_list", str(tmp_path / "no")], "does not exist"),
        (["--token_type", "bpe"], "--bpemodel"),
        (["--out", str(tmp_path / "text" / "lm.arpa")], "cannot be written"),
    ):
        with pytest.raises(SystemExit) as ended:
            token_lm.main([*words, *more])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
