"""Parts of the engine that a resumed run brings back."""

from __future__ import annotations

from typing import Any


class Stateful:
    """Something with a state of tensors and plain values; none unless overridden."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
