"""The experiments of `tests.commands`, for the commands that read them."""

from tests.commands.conftest import base_model, copied, data, run

__all__ = ["base_model", "copied", "data", "run"]
