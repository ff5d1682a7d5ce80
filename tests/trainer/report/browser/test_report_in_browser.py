"""The report in a real browser: it opens without an error and looks like something."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

WIDTHS = {"phone": 390, "desktop": 1200}
SCREENS = [("phone", False), ("phone", True), ("desktop", False)]
COMPLAINTS = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
FIGURES = """
    Array.from(document.querySelectorAll('figure img'), img => {
        const box = img.getBoundingClientRect();
        return {x: box.x, y: box.y + scrollY, width: box.width, height: box.height,
                loaded: img.complete && img.naturalWidth > 0};
    })
"""
TOO_WIDE = """
    Array.from(document.querySelectorAll('body *')).filter(e =>
        !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 0.5
    ).map(e => e.outerHTML.slice(0, 80))
"""


def pixels(png):
    """[height, width] of green, 0 to 1."""
    return imread(io.BytesIO(png), format="png")[:, :, 1]


def ink(picture, paper):
    """Share of the pixels that are far from the paper's."""
    return float((np.abs(picture - paper) > 0.2).mean())


@pytest.mark.parametrize("screen", WIDTHS)
def test_it_opens_without_an_error_and_asks_the_network_for_nothing(tab, report, screen):
    tab.open(report, WIDTHS[screen])
    asked = [event["request"]["url"] for event in tab.events("Network.requestWillBeSent")]
    assert asked[0] == report.as_uri()
    assert all(url.startswith("data:") for url in asked[1:])
    assert tab.events(*COMPLAINTS) == []
    assert tab.evaluate("document.title") == "Night 2017-10-31"


@pytest.mark.parametrize("screen", WIDTHS)
def test_nothing_is_wider_than_the_screen(tab, report, screen):
    tab.open(report, WIDTHS[screen])
    assert tab.evaluate("document.documentElement.scrollWidth") <= WIDTHS[screen]
    assert tab.evaluate(TOO_WIDE) == []


@pytest.mark.parametrize(
    ("screen", "dark"), [("phone", False), ("phone", True), ("desktop", False)]
)
def test_one_sees_every_figure_and_the_summary(tab, report, screen, dark):
    tab.open(report, WIDTHS[screen], dark=dark)
    figures = tab.evaluate(FIGURES)
    assert len(figures) == 7
    whole = pixels(tab.screenshot())
    paper = whole[2, 2]
    assert (paper < 0.2) == dark
    for box in figures:
        assert box.pop("loaded")
        x, y, width, height = (round(box[name]) for name in ("x", "y", "width", "height"))
        assert 300 < width <= WIDTHS[screen]
        assert 0.01 < ink(whole[y : y + height, x : x + width], paper) < 0.5
    assert 0.01 < ink(whole[:400], paper) < 0.5


def test_a_page_that_complains_or_loads_something_would_be_noticed(tab, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<script>console.error('ouch')</script><img src='http://127.0.0.1:9/x.png'>")
    tab.open(page, 390)
    assert tab.events(*COMPLAINTS) != []
    asked = [event["request"]["url"] for event in tab.events("Network.requestWillBeSent")]
    assert "http://127.0.0.1:9/x.png" in asked
