"""The label cache: labels are made once, and trained on until they are replaced."""

from espnet_softpl.cache.label_cache import (
    CACHE_DIR,
    Counts,
    LabelCache,
    label_change,
)
from espnet_softpl.cache.settings import (
    CACHES,
    CacheSettings,
    LabelChange,
    SlimIPL,
    available,
    build_settings,
)

__all__ = [
    "CACHES",
    "CACHE_DIR",
    "CacheSettings",
    "Counts",
    "LabelCache",
    "LabelChange",
    "SlimIPL",
    "available",
    "build_settings",
    "label_change",
]
