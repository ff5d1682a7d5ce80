"""Page: sections of words, figures and tables as one HTML file that needs nothing else.

Figures are inside it as SVG, the template has no script, and its content policy lets a browser
load nothing from anywhere. All text is escaped: names of items come from outside. The same page
gives the same bytes.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = "page.html.j2"
Kind = Literal["good", "bad", "unclear", "quiet"]
NONE = "–"
"""Stands where there is no number."""


@dataclass(frozen=True)
class Mark:
    """Text with a meaning that colour repeats, but does not carry alone."""

    text: str
    kind: Kind


Cell = str | Mark


@dataclass(frozen=True)
class Table:
    """Rows of cells; `words` columns from the left are text, the others numbers."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int = 1
    is_wordy: bool = False
    """Whether the last column is sentences."""


@dataclass(frozen=True)
class Picture:
    """A figure as a data URI, and what it shows for those who do not see it."""

    source: str
    about: str


@dataclass(frozen=True)
class Person:
    """A user, what it did and what it is recommended, best first."""

    name: str
    about: str
    history: Sequence[str]
    recommended: Sequence[tuple[str, str]]
    """Name of an item and a remark."""


@dataclass(frozen=True)
class Section:
    """A heading and what is below it, in this order."""

    title: str
    words: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    people: Sequence[Person] = ()

    @property
    def anchor(self) -> str:
        """Its address within the page."""
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class Tile:
    """One number of the summary, with what it is and what it is of."""

    label: str
    value: str
    about: str
    kind: Kind = "quiet"


@dataclass(frozen=True)
class Summary:
    """What one reads first."""

    state: Mark
    sentence: str
    tiles: Sequence[Tile]
    note: str
    attention: Sequence[str]


@dataclass(frozen=True)
class Page:
    """A whole page."""

    title: str
    subtitle: str
    summary: Summary
    sections: Sequence[Section]


def render(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(page=page)


def picture(figure: "Figure", about: str) -> Picture:
    """A figure as SVG, letters as outlines: it looks the same wherever it is opened."""
    from matplotlib import rc_context

    svg = io.BytesIO()
    # Else ids are random and the date of the drawing is in the file.
    with rc_context({"svg.hashsalt": "penumbra", "svg.fonttype": "path"}):
        nothing = {"Date": None, "Creator": None}
        figure.savefig(svg, format="svg", transparent=True, metadata=nothing)
    encoded = base64.b64encode(svg.getvalue()).decode()
    return Picture(f"data:image/svg+xml;base64,{encoded}", about)


def number(value: float | None, digits: int = 3) -> str:
    """Such as `3,616`, `0.0324`, `0.00110`: whole numbers whole, others in significant digits."""
    if value is None:
        return NONE
    if value == int(value) and abs(value) < 1e15:
        return signed(f"{int(value):,}")
    if abs(value) >= 10**digits:
        return signed(f"{value:,.0f}")
    return signed(f"{value:.{digits}g}")


def counted(amount: int, noun: str) -> str:
    """Such as `1 item` and `1,200 items`."""
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")


def change(value: float) -> str:
    """A share as a signed percentage: `+1.7 %`."""
    return signed(f"{value:+.1%}").replace("%", " %")


def share(value: float, digits: int = 1) -> str:
    """A share as a percentage: `17.4 %`."""
    return f"{value:.{digits}%}".replace("%", " %")


def signed(text: str) -> str:
    """With a minus sign where a hyphen stands for it."""
    return text.replace("-", "−")
