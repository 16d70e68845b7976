"""The label cache: labels are made once, and trained on until they are replaced."""

from espnet_softpl.cache.label_cache import (
    CACHE_DIR,
    Counts,
    LabelCache,
    label_change,
)
from espnet_softpl.cache.settings import (
    REGISTRY,
    CacheSettings,
    LabelChange,
    SlimIPL,
    available,
    build,
    register,
)

__all__ = [
    "CACHE_DIR",
    "REGISTRY",
    "CacheSettings",
    "Counts",
    "LabelCache",
    "LabelChange",
    "SlimIPL",
    "available",
    "build",
    "label_change",
    "register",
]
