"""What ESPnet refuses of a configuration is refused before anything is written."""

from __future__ import annotations

import pytest

from espnet_softpl.commands.add_pl import dry_run
from espnet_softpl.commands.experiment import read_config
from espnet_softpl.core.errors import UserError
from tests.support.add_pl_recipe import (
    refusal_of_base,
)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(token_list=["a", "<blank>"]), "the first token must be '<blank>'"),
        (dict(token_list=None), "holds no token_list"),
        (dict(iterator_type="chunk"), "needs 'sequence'"),
        (dict(frontend="s3prl"), "the base model cannot be built here"),
        (dict(frontend_conf=dict(fs="8k")), "16000 Hz, where the model takes 8000 Hz"),
        (dict(encoder_conf=dict(ctc_trim=True)), "encoder_conf.ctc_trim"),
        (
            dict(decoder="rnn", model_conf=dict(ctc_weight=0.5)),
            "do not fit the model: ",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "_".join(value),
)
def test_a_configuration_that_cannot_be(
    here, tmp_path, capsys, changes, message
) -> None:
    assert message in refusal_of_base(capsys, tmp_path, **changes)


def test_tokens_are_counted_as_espnet_does(here) -> None:
    config = read_config(here / "exp/asr_base/config.yaml")
    count = dry_run.token_counter(config)
    assert count("a", "AB C") == 4  # The space is a token of its own.
    with pytest.raises(UserError, match="tokenizer cannot be built"):
        dry_run.token_counter({**config, "token_type": "x"})
