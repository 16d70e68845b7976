"""How durations are shown."""


def clock(seconds: float) -> str:
    """Return a duration, at least 0, as `H:MM:SS`."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
