"""How a command ends with an error that its user can mend."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from espnet_softpl.core import errors


def test_many_names_are_shown_by_a_few() -> None:
    assert errors.name_some([]) == ""
    assert errors.name_some({"c", "b", "a"}) == "a, b, c"
    assert errors.name_some("edcba") == "a, b, c and 2 more"
    assert errors.name_some("ba", most=1) == "a and 1 more"


def test_a_refusal_is_one_line_and_a_status(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/train.py"])
    for status in (2, 3):
        with pytest.raises(SystemExit) as end:
            errors.refuse(errors.UserError("pl_x: wrong"), status)
        assert end.value.code == status
        assert capsys.readouterr().err == "train.py: error: pl_x: wrong\n"


def test_a_collapse_is_not_the_users_to_mend() -> None:
    assert issubclass(errors.UserError, ValueError)
    assert not issubclass(errors.CollapseError, ValueError)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_without_a_traceback(number, capsys) -> None:
    cleaned = []

    @errors.ends_quietly
    def command() -> None:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        command()
    assert end.value.code == 128 + number and cleaned == [True]
    assert "Traceback" not in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_an_error_holds_is_let_go() -> None:
    class Held:
        gone = False

        def __del__(self) -> None:
            Held.gone = True

    def fail() -> None:
        held = Held()  # noqa: F841
        raise OSError("first")

    try:
        try:
            fail()
        except OSError as error:
            raise RuntimeError("second") from error
    except RuntimeError as error:
        assert not Held.gone
        errors.release(error)
        assert Held.gone


def test_a_full_disk_is_no_mistake() -> None:
    assert errors.status_of(OSError(errno.ENOSPC, "No space left on device")) == 4
    assert errors.status_of(RuntimeError("[enforce fail] unexpected pos 64")) == 4
    assert errors.status_of(FileNotFoundError(errno.ENOENT, "x")) == 2
    assert errors.status_of(errors.UserError("x")) == 2


def test_what_others_raise_becomes_a_refusal_and_ours_stays() -> None:
    with pytest.raises(errors.UserError, match=r"^no model: KeyError: 'x'\. Look$"):
        with errors.refusing("no model", ". Look"):
            raise KeyError("x")
    with pytest.raises(errors.UserError, match="^ours$"):
        with errors.refusing("no model"):
            raise errors.UserError("ours")
    with pytest.raises(KeyboardInterrupt), errors.refusing("no model"):
        raise KeyboardInterrupt
