"""The label cache: labels are made once, and trained on until they are replaced."""

from espnet_softpl.cache.label_cache import CACHE_DIR, Counts, LabelCache, label_change
from espnet_softpl.cache.settings import REGISTRY, CacheSettings, LabelChange, SlimIPL

register, available, build = REGISTRY.register, REGISTRY.available, REGISTRY.build
