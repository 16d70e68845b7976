"""Steps of tiny models, on the CPU and on a device that is pretended.

    python -m tests.support.device_steps

prints a line of JSON for each case: its name, and what is wrong, if anything is. It
wants a process of its own: torch prepares its backward pass for the devices that are
there when the first one begins.
"""

from __future__ import annotations

import functools
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
from espnet2.torch_utils.device_funcs import to_device
from torch.utils._pytree import tree_map

from espnet_softpl import criteria, filters, regularizers, shaping
from espnet_softpl.core.modules import read_values
from espnet_softpl.ctc import kernels
from espnet_softpl.training.model import SoftPLModel
from espnet_softpl.training.schedule import Scheduled
from tests.cache.test_label_cache import cached_model
from tests.shaping.test_lm_posterior import make_lm
from tests.support import pretend_device
from tests.support.espnet_runs import TOKENS
from tests.support.models import FORM_IDS, FORMS, RNN, talking
from tests.training.test_model import labeled_batch, unlabeled_batch

Build = Callable[[], SoftPLModel]
# What a part is given beside its defaults.
CONF = {
    "blank": {"prior_scale": 0.7},
    "confidence": {"max_error": 0.3, "window": 60},
    "consistency": {"labeled_weight": 0.2},
    "dropout_agreement": {"max_distance": 0.6},
    "hard_ctc": {"prior_scale": 0.5},
    "occupancy_ce": {"nbest": 3, "network": True},
    "rate": {"min_ratio": 0.8},
    "soft_ce": {"blank": "symmetric", "window": 1},
}
WITH_LM = [("lm_posterior", {}), ("lm_posterior", {"topk": 3}), ("rescore", {})]


def follow(criterion: str, **changes: Any) -> Build:
    """Say how to build a model with a teacher that is half a step behind."""
    changes = {"who": "ema", "pl_teacher_conf": {"decay": 0.5}, **changes}
    return lambda: talking(criterion, **changes)


def with_filter(name: str) -> Build:
    """Say how to build a model whose labels a filter sees."""

    def build() -> SoftPLModel:
        model = follow("soft_ctc")()
        model.pl.filters = [(name, filters.build(name, **CONF.get(name, {})))]
        model.pl.labeled_tokens_per_sample = 1e-4
        return model

    return build


def with_lm(name: str, conf: dict[str, Any]) -> Build:
    """Say how to build a model whose labels a language model shapes."""

    def build() -> SoftPLModel:
        model = follow("soft_ctc")()
        part = functools.partial(shaping.build, name)
        model.pl.shaping = [Scheduled(part, {"lm": make_lm(len(TOKENS)), **conf})]
        return model

    return build


def list_cases() -> dict[str, Build]:
    """Name what there is, with a way to build it."""
    cases: dict[str, Build] = {}
    for name in criteria.available():
        conf = {"pl_criterion_conf": CONF.get(name, {})}
        cases[f"criterion {name}"] = follow(name, **conf)
    for name in shaping.available():
        if name != "lm_posterior":
            conf = {"pl_shaping_conf": {name: CONF.get(name, {})}}
            cases[f"shaping {name}"] = follow("soft_ctc", pl_shaping=[name], **conf)
    for name, conf in WITH_LM:
        cases[f"shaping {name} with a language model, {conf}"] = with_lm(name, conf)
    for name in regularizers.available():
        cases[f"regularizer {name}"] = follow("soft_ce", pl_regularizer=[name])
    cases |= {f"filter {name}": with_filter(name) for name in filters.available()}
    for name, conf in {
        "student": {},
        "ema": {"decay": 0.5, "buffers": "average"},
        "frozen": {},
        "delayed": {"steps": 2},
    }.items():
        part = {"who": name, "pl_teacher_conf": conf}
        cases[f"teacher {name}"] = follow("soft_ce", **part)
    for name, form in zip(FORM_IDS, FORMS):
        if form.get("decoder") != RNN["decoder"]:  # Its cell is one operation there.
            cases[f"form {name}"] = follow("hard_ctc", **form)
    for precision in ("float16", "uint8"):
        conf = {"size": 2, "probability": 0.5, "precision": precision}
        build = dict(criterion="soft_ctc", pl_cache_conf=conf)
        cases[f"cache {precision}"] = lambda build=build: cached_model(**build)
    conf = {"reference_steps": 1, "window": 1}
    cases["guard"] = follow("soft_ce", pl_guard="warn", pl_guard_conf=conf)
    cases["separate head"] = follow("soft_ce", pl_separate_head=True)
    return cases


def at_home(state: Any) -> Any:
    """Return a state as a file would: on the CPU, and with memory of its own."""

    def read(value: Any) -> Any:
        return value.detach().cpu().clone() if torch.is_tensor(value) else value

    return tree_map(read, state)


def take_steps(build: Build, elsewhere: bool) -> list[dict[str, float]]:
    """Train a little, resume, and go on; return the statistics of each mini-batch."""

    def there(value: Any) -> Any:
        return to_device(value, pretend_device.device()) if elsewhere else value

    def start() -> SoftPLModel:
        model = build().train()
        return pretend_device.move(model) if elsewhere else model

    def learn(fields: dict[str, Any]) -> None:
        if "unlabeled" in fields and model.pl.cache is not None:
            at = fields["unlabeled"]._replace(slot=0, draw=len(seen))
            fields = {**fields, "unlabeled": at}
        loss, stats, weight = model(**there({**fields, "pl_step": len(seen)}))
        loss.backward()
        seen.append(read_values({**stats, "weight": weight}))

    seen: list[dict[str, float]] = []
    torch.manual_seed(5)
    model = start()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        learn(labeled_batch())
        learn(unlabeled_batch())
        optimizer.step()
        optimizer.zero_grad()
        model.pl.generator.teacher.update(model)
    weights, state = at_home((model.state_dict(), model.pl.state_dict(model)))
    if model.pl.cache is None:
        model = start()
        model.load_state_dict(there(weights))
        model.pl.load_state_dict(state, model)
    # An unlabeled mini-batch first, when all that is known comes from a file.
    learn(unlabeled_batch())
    learn(labeled_batch())
    model.pl.generator.teacher.update(model)
    learn(unlabeled_batch())
    return seen


def find_fault(build: Build) -> str:
    """Compare the steps of both devices; return what is wrong, empty if nothing is."""
    wanted = take_steps(build, elsewhere=False)
    try:
        found = take_steps(build, elsewhere=True)
    except (RuntimeError, TypeError):
        return traceback.format_exc()
    # As text: NaN is equal to NaN, and all else to the last bit.
    pairs = zip(map(repr, wanted), map(repr, found))
    return "\n".join(f"{here}\n{there}" for here, there in pairs if here != there)


def main(names: list[str]) -> None:
    """Print what is wrong with each case, or with those whose name has one of these."""
    pretend_device.device()
    torch.set_num_threads(1)
    kernels.on_cpu = lambda tensor: False  # What is for a GPU, on both.
    for case, how in list_cases().items():
        if not names or any(name in case for name in names):
            print(json.dumps([case, find_fault(how)]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
