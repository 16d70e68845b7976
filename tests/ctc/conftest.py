"""The two ways to compute a sum over alignments, for tests that want both."""

import pytest

from espnet_softpl.ctc import graph_kernel, kernels


@pytest.fixture(params=["kernel", "torch"])
def both_devices(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Compute the CTC of transcripts by the kernel, and as on a GPU, by torch."""
    if request.param == "torch":
        monkeypatch.setattr(kernels, "on_cpu", lambda tensor: False)
    return request.param


@pytest.fixture
def in_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernel leave all networks over."""

    def leave(frames, lengths, bins, layout, losses, occupancy) -> None:
        losses.fill(float("nan"))

    monkeypatch.setattr(graph_kernel, "forward_backward", leave)


@pytest.fixture(params=["kernel", "logs"])
def both_spaces(request: pytest.FixtureRequest) -> str:
    """Compute networks in probabilities, and in log space."""
    if request.param == "logs":
        request.getfixturevalue("in_logs")
    return request.param
