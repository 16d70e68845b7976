"""The page in a real browser: sorting, hover, switches, audio, theme; no errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import browser
from tests.support.report_experiments import write_data, write_experiment
from tests.support.report_pages import run_report

EVIL = "<img/src=x/onerror=alert(1)>"
SCRIPT = """(async () => {
const found = {};
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
found.drawn = places.filter((place) => place.data).length;
places.forEach(draw);
const place = places.find((each) => each.dataset.figure === "validation");
const table = document.querySelector("#errors table");
const column = () => [...table.tBodies[0].rows].map((row) => row.cells[3].innerText);
const head = table.querySelectorAll("thead th")[3];
head.querySelector("button").click();
found.rising = [head.getAttribute("aria-sort"), ...column()];
head.querySelector("button").click();
found.falling = [head.getAttribute("aria-sort"), ...column()];
const curveNumber = place.data.findIndex((trace) => trace.meta.kind === "mean");
Plotly.Fx.hover(place, [{ curveNumber, pointNumber: 1 }]);
await wait(500);
found.hover = place.querySelector(".hoverlayer").textContent;
const visible = () => place.data.filter((trace) => trace.visible)
  .map(({ meta }) => `${meta.system} ${meta.kind}`);
found.first = visible();
document.getElementById("each").click();
found.each = visible();
document.querySelector("button[data-system]").click();
found.without = visible();
const back = () => getComputedStyle(document.body).backgroundColor;
const colors = () => [back(), place.layout.font.color];
found.light = colors();
theme.click();
found.dark = colors();
const buttons = [...document.querySelectorAll("button[data-system]")];
found.names = buttons.map((button) => button.innerText);
found.elements = document.querySelectorAll("main img, main b, .bar b").length;
found.heading = document.querySelector("h3").innerText;
const audio = document.querySelector("audio");
audio.preload = "metadata";
if (!audio.duration) await new Promise((done) => (audio.onloadedmetadata = done));
found.seconds = audio.duration;
return found;
})()"""
# What is wider than its place on a phone, where only tables may be scrolled.
TOO_WIDE = """(async () => {
places.forEach(draw);
const width = (place) => place.querySelector(".main-svg").clientWidth;
return [document.documentElement.scrollWidth,
        places.filter((place) => width(place) > place.clientWidth).length];
})()"""


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium is installed")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    data = tmp_path / "data"
    truths = write_data(data, [EVIL], count=5)
    settings = dict(epochs=3, pl_criterion="hard_ctc", pl_teacher="ema")
    places = []
    for seed, level in ((1, 0.1), (2, 0.9)):
        base = tmp_path / f"seed{seed}" / "warmup"
        write_experiment(base, data, truths, seed, epochs=3, level=0.5)
        evil = base.with_name("<b>hard&amp;")
        more = dict(settings, level=level, base=base)
        write_experiment(evil, data, truths, seed, **more)
        places += [base, evil]
    more = ("--audio", "--ref_text", f"test={data / 'test'}")
    run_report(*places, out=tmp_path / "out", more=more)
    file = tmp_path / "out" / "report.html"
    with browser.open_page(file) as page:
        found = page.run(SCRIPT)
        assert page.errors == []
    with browser.open_page(file, width=390, dark=True) as phone:
        assert phone.run(TOO_WIDE) == [390, 0]
        pressed = phone.run("theme.getAttribute('aria-pressed')")
        assert (pressed, phone.errors) == ("true", [])
    rates = [float(cell.split()[0]) for cell in found["rising"][1:]]
    assert found["rising"][0] == "ascending" and rates == sorted(rates)
    assert len(set(rates)) > 2
    assert found["falling"] == ["descending", *found["rising"][:0:-1]]
    assert "warmup" in found["hover"]
    system = "<b>hard&amp;"
    assert found["first"] == [
        *("warmup band", "warmup mean"),
        *(f"{system} band", f"{system} mean", f"{system} level"),
    ]
    assert found["each"] == [
        *("warmup run", "warmup run"),
        *(f"{system} run", f"{system} run", f"{system} level"),
    ]
    assert found["without"] == found["each"][2:]
    assert found["light"] == ["rgb(255, 255, 255)", "rgb(27, 31, 36)"]
    assert found["dark"] == ["rgb(13, 17, 23)", "rgb(230, 237, 243)"]
    assert found["names"] == ["warmup ×2", f"{system} ×2"] and not found["elements"]
    assert found["heading"] == EVIL
    assert found["seconds"] == pytest.approx(2.0, abs=0.01)
