"""The settings of a cache: their names, ranges, and a user's own."""

from __future__ import annotations

import dataclasses

import pytest

from espnet_softpl import cache
from espnet_softpl.cache.plan import CachePlan


@pytest.mark.parametrize(
    "name, conf, message",
    [
        ("slimpl", {}, "unknown cache 'slimpl'. Did you mean 'slimipl'"),
        ("slimipl", {"size": 0}, "size, .* must be an integer >= 1"),
        ("slimipl", {"size": "most"}, "size, unless it is 'all', must be an integer"),
        ("slimipl", {"probability": 1.5}, r"probability must be a number in \[0, 1\]"),
        ("slimipl", {"lag": 3}, "unknown key 'lag'"),
        ("slimipl", {"precision": "int4"}, "precision"),
        ("slimipl", {"top_k": 0}, "top_k"),
        ("slimipl", {"memory_limit_mb": -1}, "memory_limit_mb"),
        ("label_change", {"lag": 0}, "lag must be an integer >= 1"),
    ],
)
def test_bad_settings_are_refused(name, conf, message) -> None:
    with pytest.raises(ValueError, match=message):
        cache.build(name, **conf)


def test_all_is_as_many_slots_as_mini_batches() -> None:
    settings = cache.build("slimipl", size="all", in_place=True)
    assert settings.plan(num_batches=17, seed=3).size == 17


@dataclasses.dataclass(frozen=True)
class Twice(cache.CacheSettings):
    """A user's own rule: each label is replaced with a probability of a half."""

    def plan(self, num_batches: int, seed: int) -> CachePlan:
        return CachePlan(self.slots(num_batches), seed, 0.5)


def test_a_users_own_cache_by_dotted_path(tmp_path) -> None:
    settings = cache.build(f"{__name__}:Twice", size=3)
    plan = settings.plan(num_batches=9, seed=1)
    assert (plan.size, plan.probability) == (3, 0.5)
    labels = cache.LabelCache(settings, True, tmp_path / "rank0")
    assert not labels.decides and not labels.measures_change
    with pytest.raises(ValueError, match="pl_cache: .*is not a subclass of"):
        cache.build(f"{__name__}:CachePlan")


def test_none_is_no_cache() -> None:
    assert cache.build("none") is None and cache.build(None) is None
    assert cache.available() == ("label_change", "slimipl")
