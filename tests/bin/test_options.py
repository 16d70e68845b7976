"""The command `options`: prints a page, or refuses."""

from __future__ import annotations

import pytest

from espnet_softpl.bin import options


def test_pages_are_printed(capsys) -> None:
    options.main([])
    assert "pl_criterion" in capsys.readouterr().out
    options.main(["pl_criterion", "soft_ctc"])
    assert "nbest=4: " in capsys.readouterr().out


def test_an_unknown_key_ends_with_status_2(capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        options.main(["pl_criteron"])
    assert "Did you mean 'pl_criterion'?" in capsys.readouterr().err
