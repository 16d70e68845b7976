"""The documentation: complete, with allowed YAML, true links, tables and claims."""

import dataclasses
import functools
import inspect
import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher
from espnet_softpl.core.registry import build_from_conf, named_confs
from espnet_softpl.labels.forms import LabelForms
from espnet_softpl.labels.pseudo_label import PseudoLabel
from espnet_softpl.monitors import guard
from espnet_softpl.monitors.diagnosis import FORMS, SIGNS
from espnet_softpl.training.schedule import Schedule, Scheduled
from tests.conftest import (
    all_paths,
    make_label,
    make_log_probs,
    path_log_prob,
    reference_collapse,
)
from tests.shaping.test_lm_posterior import make_lm
from tests.support.doc_pages import DOCS, PAGES, ROOT, blocks, name_of, read

MONITORS_PAGE = ROOT / "docs/monitors.md"
DERIVATIONS = ROOT / "docs/dev/derivations.md"
NAMED = {"criterion", "teacher", "cache", "filter", "regularizer", "shaping", "guard"}
FORM_KEYS = {"pl_decoder": "decoder", "pl_interctc": "layers"}
OTHER_KEYS = {
    "pl_schedule_conf",
    "pl_separate_head",
    "pl_max_bad_share",
    "pl_samples",
    *FORM_KEYS,
}


def table(header: str) -> list[str]:
    """Return the rows of each table of monitors.md whose first header cell this is."""
    found = re.findall(
        rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)", read(MONITORS_PAGE), re.M
    )
    return [row for rows in found for row in rows.splitlines()]


def first_cell(row: str) -> str:
    return row.split("|")[1].strip().strip("`")


def yaml_blocks() -> Iterator[Any]:
    """Yield the blocks of all pages, each with its page's name and line."""
    for page in PAGES:
        for block in blocks(page):
            if block.language == "yaml":
                yield pytest.param(block.text, id=block.name)


def parts(conf: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """Assign settings to the parts that a key names."""
    name = f"pl_{key}"
    return named_confs(name, conf.get(name, []), conf.get(f"{name}_conf", {}))


def build_block(conf: Mapping[str, Any]) -> None:
    """Build all that the `pl_*` keys of a configuration name."""
    keys = {key for key in conf if key.startswith("pl_")} - OTHER_KEYS
    assert {key.removeprefix("pl_").removesuffix("_conf") for key in keys} <= NAMED
    for key, module in (("criterion", criteria), ("regularizer", regularizers)):
        for name, settings in parts(conf, key).items():
            Scheduled(functools.partial(module.build, name), settings)
    for name, settings in parts(conf, "shaping").items():
        lm = {"lm": make_lm(5)} if "lm" in settings else {}  # In the place of a file.
        shaping.build(name, **{**settings, **lm})
    teacher.build(conf.get("pl_teacher", "ema"), **conf.get("pl_teacher_conf", {}))
    for name, settings in parts({"pl_filter": ["tokens"], **conf}, "filter").items():
        filters.build(name, **settings)
    cache.build(conf.get("pl_cache", "none"), **conf.get("pl_cache_conf", {}))
    guard.build(conf.get("pl_guard", "warn"), **conf.get("pl_guard_conf", {}))
    build_from_conf(Schedule, conf.get("pl_schedule_conf", {}), "pl_schedule_conf")
    LabelForms(**{FORM_KEYS[key]: conf[key] for key in FORM_KEYS.keys() & conf.keys()})


@pytest.fixture
def own_modules(monkeypatch) -> None:
    """The module that pages name as the reader's can be imported."""
    monkeypatch.delitem(sys.modules, "my_criteria", raising=False)
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))


@pytest.mark.parametrize("block", list(yaml_blocks()))
@pytest.mark.usefixtures("own_modules")
def test_yaml_blocks_are_allowed(block) -> None:
    build_block(yaml.safe_load(block))


@pytest.mark.parametrize(
    "conf",
    [
        {"pl_criteria": "soft_ce"},
        {"pl_criterion": "soft_ce", "pl_criterion_conf": {"temprature": 1.0}},
        {"pl_criterion_conf": {"temperature": 1.0}},
        {"pl_regularizer": ["prior_kl"], "pl_regularizer_conf": {"mean_entropy": {}}},
        {"pl_shaping": "sharpen", "pl_shaping_conf": {"temperature": 0.0}},
        {"pl_guard": "stop", "pl_guard_conf": {"limits": {"pl_blank": {}}}},
        {"pl_guard_conf": {"patience": 0}},
        {"pl_teacher_conf": {"decay": 2.0}},
        {"pl_schedule_conf": {"steps": 3}},
        {"pl_criterion": "soft_ce", "pl_decoder": "soft"},
        {"pl_criterion": "hard_ctc", "pl_interctc": True},
    ],
)
def test_a_refused_block_is_found(conf) -> None:
    with pytest.raises((AssertionError, ValueError)):
        build_block(conf)


def test_the_table_of_limits_is_that_of_the_code() -> None:
    names = [field.name for field in dataclasses.fields(guard.Limits)]
    wanted = []
    for name, limits in guard.DEFAULT_LIMITS.items():
        values = dataclasses.astuple(limits)
        cells = ["" if value is None else f" {value:g}" for value in values]
        wanted.append(f"| `{name}` |" + " |".join(cells))
    rows = table("monitor")
    assert [row.split(" |")[: len(names) + 1] for row in rows] == [
        row.split(" |") for row in wanted
    ]
    assert f"| monitor | {' | '.join(names)} |" in read(MONITORS_PAGE)


def test_the_table_of_monitors_names_the_forms_of_the_code() -> None:
    rows = table("monitor")
    assert tuple(first_cell(row) for row in rows) == guard.MONITORS
    sides = {
        (first_cell(row), side): cell.strip()
        for row in rows
        for side, cell in zip(("low", "high"), row.split("|")[7:9])
    }
    titles = {sign: FORMS[form].title for sign, form in SIGNS.items()}
    assert {sign: title for sign, title in sides.items() if title} == titles


def test_the_settings_of_the_guard_are_the_defaults_of_the_code() -> None:
    (block,) = re.findall(r"```yaml\n(pl_guard: .*?)```", read(MONITORS_PAGE), re.S)
    parameters = inspect.signature(guard.Guard).parameters
    documented = yaml.safe_load(block)["pl_guard_conf"]
    assert {"action", *documented} == set(parameters)
    for name in set(documented) - {"limits", "on_alarm"}:
        assert documented[name] == parameters[name].default, name


def without_blocks(page: Path) -> str:
    return re.sub(r"^\s*```.*?^\s*```$", "", read(page), flags=re.S | re.M)


@functools.cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", without_blocks(page), re.M):
        text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        names = (f"{slug}-{n}" if n else slug for n in itertools.count())
        found.add(next(name for name in names if name not in found))
    return found


def broken_links(page: Path) -> list[str]:
    """List the links of a page to files or anchors that are not there."""
    targets = re.findall(r"""(?:\]\(|src="|href=")([^)\s"]+)""", without_blocks(page))
    broken = []
    for target in targets:
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists():
            broken.append(target)
        elif anchor and (path.suffix != ".md" or anchor not in anchors(path)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page) -> None:
    assert not broken_links(page)


def test_the_link_test_sees_links(tmp_path) -> None:
    assert PAGES[0].exists() and MONITORS_PAGE in DOCS
    assert "](report.md)" in read(MONITORS_PAGE)
    (tmp_path / "b.md").write_text("# Two (words): `code`, x\n```sh\n# none\n```\n")
    links = ["a.md#one", "#one", "#two", "b.md", "b.md#two-words-code-x", "b.md#none"]
    page = tmp_path / "a.md"
    page.write_text("# One\n" + " ".join(f"[x]({link})" for link in (*links, "c.md")))
    assert broken_links(page) == ["#two", "b.md#none", "c.md"]


# Derivations, 2 (b): frame-level soft labels of a teacher that is the student.


def soft_gradient(logits: torch.Tensor, **conf: float) -> torch.Tensor:
    """Compute the gradient of soft_ce at shared distributions, (T, V) -> (T, V)."""
    logits = logits.detach().requires_grad_(True)
    log_probs = logits.log_softmax(-1).unsqueeze(0)
    lengths = torch.tensor([logits.size(0)])
    label = make_label(log_probs.detach(), lengths)
    loss = criteria.build("soft_ce", **conf)(log_probs, lengths, label)
    return torch.autograd.grad(loss.sum(), logits)[0]


def settle(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Descend with teacher = student all the way, and return the distributions."""
    for _ in range(100):
        logits = logits - 5.0 * soft_gradient(logits, temperature=temperature)
    return logits.softmax(-1)


def test_a_shared_distribution_is_a_fixed_point_of_soft_ce() -> None:
    any_logits = make_log_probs(1, 3, 4, torch.float64)[0]
    constant = any_logits[:1].expand(5, -1)
    for logits in (any_logits, constant):
        for conf in ({}, {"temperature": 0.5, "student_temperature": 0.5}):
            assert soft_gradient(logits, **conf).abs().max() < 1e-12
        for temperature in (0.5, 2.0):
            gradient = soft_gradient(logits, temperature=temperature)
            assert (gradient.abs().amax(-1) > 1e-3).all()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_with_a_temperature_the_fixed_points_are_uniform(temperature) -> None:
    support = [
        subset for subset in itertools.product([0.0, -1e3], repeat=3) if any(subset)
    ]
    logits = torch.tensor([(0.0, 0.0, 0.0), *support[:-1]], dtype=torch.float64)
    assert soft_gradient(logits, temperature=temperature).abs().max() < 1e-12


@pytest.mark.slow
def test_where_frames_settle_at_a_temperature() -> None:
    logits = torch.tensor([[1.0, 0.9, -1.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    sharp = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    flat = torch.full_like(sharp, 1 / 3)
    for temperature, expected in ((0.5, sharp), (1.0, logits.softmax(-1)), (2.0, flat)):
        settled = settle(logits, temperature)
        torch.testing.assert_close(settled, expected, rtol=0.0, atol=0.01)


# Derivations, 2 (c): transcripts.

SIZES = (4, 3)


def by_transcript(log_probs: torch.Tensor) -> dict[tuple, dict[tuple, torch.Tensor]]:
    """Sort the paths of (T, V) log-posteriors, with log P(path), by transcript."""
    found: dict[tuple, dict[tuple, torch.Tensor]] = {}
    for path in all_paths(*log_probs.shape):
        score = path_log_prob(log_probs, path)
        found.setdefault(reference_collapse(path), {})[path] = score
    return found


def occupancy(
    log_probs: torch.Tensor, scores: dict[tuple, torch.Tensor]
) -> torch.Tensor:
    """Compute gamma, (T, V), from the paths of one transcript."""
    gamma = torch.zeros_like(log_probs)
    for path, share in zip(scores, torch.stack(list(scores.values())).softmax(0)):
        gamma[range(len(path)), path] += share
    return gamma


def hard_gradient(logits: torch.Tensor, transcript: tuple) -> torch.Tensor:
    """Compute the gradient of hard_ctc on one transcript, (B, T, V) -> (B, T, V)."""
    logits = logits.detach().requires_grad_(True)
    batch, num_frames, _ = logits.shape
    losses = criteria.hard_ctc(
        logits.log_softmax(-1),
        torch.full((batch,), num_frames),
        torch.tensor([transcript] * batch, dtype=torch.long).view(batch, -1),
        torch.full((batch,), len(transcript)),
    )
    return torch.autograd.grad(losses.sum(), logits)[0]


def test_expected_occupancies_are_the_posteriors() -> None:
    """E_{y ~ P_S} gamma_S(y) = p_S, so that the expected gradient of CTC is 0."""
    log_probs = make_log_probs(1, *SIZES, torch.float64)[0]
    occupancies = torch.zeros_like(log_probs)
    gradients = torch.zeros_like(log_probs)
    for transcript, scores in by_transcript(log_probs).items():
        prob = torch.stack(list(scores.values())).logsumexp(0).exp()
        gamma = occupancy(log_probs, scores)
        gradient = hard_gradient(log_probs.unsqueeze(0), transcript)[0]
        torch.testing.assert_close(gradient, log_probs.exp() - gamma)
        assert gradient.abs().max() > 1e-3
        occupancies += prob * gamma
        gradients += prob * gradient
    torch.testing.assert_close(occupancies, log_probs.exp())
    torch.testing.assert_close(gradients, torch.zeros_like(gradients))


def divergence(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> torch.Tensor:
    """Compute KL(theirs || ours) of lists of log-probabilities."""
    return sum(b.exp() * (b - a) for a, b in zip(ours, theirs))


def test_the_slack_of_data_processing_is_about_alignments() -> None:
    student, theirs = make_log_probs(2, *SIZES, torch.float64)
    frames = (theirs.exp() * (theirs - student)).sum()
    mine, other = by_transcript(student), by_transcript(theirs)
    totals = [
        {
            y: torch.stack(list(scores.values())).logsumexp(0)
            for y, scores in both.items()
        }
        for both in (mine, other)
    ]
    transcripts = divergence(*(list(total.values()) for total in totals))
    slack = sum(
        totals[1][y].exp()
        * divergence(
            [mine[y][path] - totals[0][y] for path in mine[y]],
            [other[y][path] - totals[1][y] for path in mine[y]],
        )
        for y in mine
    )
    assert slack > 0.1
    torch.testing.assert_close(frames, transcripts + slack)


def constants(most: float) -> torch.Tensor:
    """List constant log-posteriors over 3 tokens on a grid, (B, 3), zeros included."""
    grid = [(a, b, 20 - a - b) for a in range(21) for b in range(21 - a)]
    probs = torch.tensor(grid, dtype=torch.float64) / 20
    return probs[probs.amax(1) <= most].log().clamp(min=-1e3)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5])
def test_no_constant_but_a_one_hot_is_a_fixed_point_of_hard_ctc(num_frames) -> None:
    logits = constants(most=0.9).unsqueeze(1).expand(-1, num_frames, -1)
    for transcript in {reference_collapse(path) for path in all_paths(num_frames, 3)}:
        gradient = hard_gradient(logits, transcript)
        assert gradient.abs().amax((1, 2)).min() > 1e-3, transcript
    for transcript in ((), (1,)):
        certain = torch.full((1, num_frames, 3), -1e3, dtype=torch.float64)
        certain[..., sum(transcript)] = 0.0
        assert hard_gradient(certain, transcript).abs().max() < 1e-12


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 6])
def test_the_calculation_at_a_constant_distribution(num_frames) -> None:
    alpha, beta = 0.6, 0.3
    probs = torch.tensor([beta, alpha, 1 - alpha - beta], dtype=torch.float64)
    gradient = hard_gradient(probs.log().expand(1, num_frames, 3), (1,))[0]
    gamma = alpha - gradient[:, 1]
    assert gamma[0].item() == pytest.approx(gamma[-1].item())
    if num_frames == 1:
        assert gamma.item() == pytest.approx(1.0)
    elif num_frames == 2:
        assert gamma[0].item() == pytest.approx((alpha + beta) / (alpha + 2 * beta))
    else:
        terms = [alpha**k * beta ** (num_frames - k) for k in range(2, num_frames)]
        total = sum(
            (num_frames - k + 1) * alpha**k * beta ** (num_frames - k)
            for k in range(1, num_frames + 1)
        )
        difference = (gamma[1] - gamma[0]).item()
        assert difference == pytest.approx(sum(terms) / total)
    blank = hard_gradient(probs.log().expand(1, num_frames, 3), ())[0, :, 0]
    assert (blank < 0).all()


def test_the_figures_of_the_example() -> None:
    probs = torch.tensor([0.2, 0.8, 1e-9], dtype=torch.float64)
    gradient = hard_gradient(probs.log().expand(1, 3, 3), (1,))[0]
    gamma = ", ".join(f"{value:.2f}" for value in (0.8 - gradient[:, 1]).tolist())
    text = " ".join(read(DERIVATIONS).split())
    assert f"At α = 0.8, β = 0.2, T = 3 the occupancies are {gamma}:" in text


def gradient_of(name: str, student: torch.Tensor, label: PseudoLabel, **conf: Any):
    logits = student.clone().requires_grad_(True)
    loss = criteria.build(name, **conf)(logits.log_softmax(-1), label.lengths, label)
    return torch.autograd.grad(loss.sum(), logits)[0]


@pytest.mark.parametrize("nbest, other", [(1, "hard_ctc"), (3, "nbest_ctc")])
def test_occupancies_of_a_shared_model_have_the_gradient_of_ctc(nbest, other) -> None:
    shared, apart = make_log_probs(2, *SIZES, torch.float64).split(1)
    label = make_label(shared, torch.tensor([SIZES[0]]))
    conf = {} if other == "hard_ctc" else {"nbest": nbest}
    for student, same in ((shared, True), (apart, False)):
        one = gradient_of("occupancy_ce", student, label, nbest=nbest)
        two = gradient_of(other, student, label, **conf)
        assert torch.allclose(one, two, atol=1e-6) == same


def test_consistency_with_the_teacher_has_the_gradient_of_soft_ce() -> None:
    student, clean = make_log_probs(2, *SIZES, torch.float64).split(1)
    label = make_label(clean, torch.tensor([SIZES[0]]))
    one = gradient_of("consistency", student, label)
    torch.testing.assert_close(one, gradient_of("soft_ce", student, label))
    assert one.abs().max() > 1e-3


def test_ctc_of_frames_without_weight_counts_alignments() -> None:
    """The value is then below 0, and the gradient 0."""
    student = make_log_probs(1, 3, 3, torch.float64)
    label = make_label(student, torch.tensor([3]))._replace(
        tokens=torch.tensor([[1]]),
        token_lengths=torch.tensor([1]),
        frame_weight=torch.zeros(1, 3, dtype=torch.float64),
    )
    loss = criteria.build("hard_ctc")(student, label.lengths, label)
    torch.testing.assert_close(loss.exp(), torch.tensor([1 / 6], dtype=torch.float64))
    assert gradient_of("hard_ctc", student, label).abs().max() < 1e-12
