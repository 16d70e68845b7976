"""The two ways to compute: by the compiled kernels, and by the torch code."""

import pytest

from espnet_softpl.ctc import kernels


@pytest.fixture(params=["kernel", "torch"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(kernels, "usable", lambda log_probs: False)
    return request.param
