"""Night figures: what a night's data look like, and how far its model is ahead, for the report.

Drawn as `trainer/figures.py` says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.figures import BLUE, GREY, ORANGE, VERMILLION, blank, unframe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEALTH_LABELS = {
    "volume": "volume,\ninteractions a day",
    "quarantine_rate": "quarantine rate,\nshare of rows",
    "freshness": "freshness,\nhours to day's end",
    "drift": "drift of items,\nJensen-Shannon, bits",
}
"""By the metrics of the health table, in the order of the panels."""


@dataclass(frozen=True)
class Watched:
    """One watched number of one day, and what was usual and allowed, where a night judged it."""

    ds: date
    value: float
    usual: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    verdict: str = ""


def health(metrics: Mapping[str, Sequence[Watched]], first: date, last: date) -> "Figure":
    """The watched numbers day by day, with the limits of each night.

    Args:
        metrics: Days by metric of the health table, oldest first.
        first: First day of the axis.
        last: Its last day, the night's.
    """
    shown = {m: metrics[m] for m in HEALTH_LABELS if metrics.get(m)}
    figure = blank("Health, day by day", f"{first} to {last}", 1.2 + 1.35 * len(shown))
    panels = list(figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0])
    for axes, (metric, days) in zip(panels, shown.items(), strict=True):
        _watched(axes, days)
        axes.set_ylabel(HEALTH_LABELS[metric], fontsize=8)
    _dates(panels[-1], first, last)
    _legend(figure, panels)
    return figure


def _watched(axes: "Axes", days: Sequence[Watched]) -> None:
    from matplotlib.dates import date2num

    dates, values = [date2num(day.ds) for day in days], [day.value for day in days]
    style: dict[str, Any] = {"color": BLUE, "marker": "o", "markersize": 2.5, "clip_on": False}
    axes.plot(dates, values, linewidth=1, label="value", **style)
    beyond = [day for day in days if day.verdict == "beyond"]
    if beyond:
        style = {"color": VERMILLION, "s": 40, "marker": "X", "zorder": 3}
        places = [date2num(day.ds) for day in beyond]
        axes.scatter(places, [day.value for day in beyond], **style, label="beyond")
    for name, colour, label in (
        ("usual", GREY, "usual"),
        ("at_least", VERMILLION, "limit"),
        ("at_most", VERMILLION, "limit"),
    ):
        found = [(date2num(day.ds), getattr(day, name)) for day in days]
        found = [(place, value) for place, value in found if value is not None]
        if found:
            starts, stops = [place - 0.5 for place, _ in found], [place + 0.5 for place, _ in found]
            style = {"color": colour, "linewidth": 2 if label == "limit" else 1.2}
            axes.hlines([value for _, value in found], starts, stops, **style, label=label)
    axes.margins(y=0.2)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1e-6))  # none of them can be negative
    unframe(axes)


def _dates(axes: "Axes", first: date, last: date) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

    locator = AutoDateLocator(minticks=2, maxticks=6, interval_multiples=False)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_xlim(date2num(first) - 1, date2num(last) + 1)


def _legend(figure: "Figure", panels: Sequence["Axes"]) -> None:
    """One for all panels: each name once."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    style: dict[str, Any] = {"ncols": len(found), "frameon": False, "fontsize": 8}
    figure.legend(found.values(), found.keys(), loc="outside lower center", **style)


def graph_shape(degrees: np.ndarray, weights: np.ndarray, subject: str) -> "Figure":
    """How many neighbours items have, and how strong edges are.

    Args:
        degrees: Edges that leave each item, 0 included. [V]
        weights: Of all edges, after the normaliser.
        subject: Such as `2017-10-31, 6,083 items`.
    """
    figure = blank("Item graph", subject, 4.2)
    upper, lower = figure.subplots(2, 1)
    most = int(degrees.max(initial=1))
    upper.hist(degrees, np.linspace(-0.5, most + 0.5, min(most + 1, 26) + 1), color=BLUE)
    upper.locator_params(axis="x", integer=True)
    upper.set_xlabel("edges that leave an item")
    upper.set_ylabel("items")
    positive = weights[weights > 0]
    if len(positive):
        low, high = np.log10(positive.min()), np.log10(positive.max())
        lower.hist(positive, np.logspace(low, high if high > low else low + 1, 40), color=BLUE)
        lower.set_xscale("log")
        _decades(lower, high - low)
    lower.set_xlabel("weight of an edge, after the normaliser")
    lower.set_ylabel("edges")
    for axes in (upper, lower):
        _thousands(axes)
    unframe(upper, lower)
    return figure


def _decades(axes: "Axes", num_decades: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    subs = (1.0, 2.0, 5.0) if num_decades < 2.5 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _thousands(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def convergence(
    iterations: Sequence[Mapping[str, Any]], tolerance: float, subject: str
) -> "Figure":
    """How label propagation came to rest: its residual, iteration by iteration.

    Args:
        iterations: The notes that the soft_targets manifest keeps on them.
        tolerance: Of the settings.
        subject: Such as `2017-10-31, 10 iterations`.
    """
    figure = blank("Convergence of label propagation", subject, 2.6)
    axes = figure.add_subplot()
    residuals = [max(one["residual"], 1e-16) for one in iterations]
    numbers = range(1, len(residuals) + 1)
    axes.plot(numbers, residuals, color=BLUE, marker="o", markersize=3)
    axes.axhline(tolerance, color=VERMILLION, linewidth=1.2, linestyle="--")
    beside: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "color": VERMILLION}
    axes.annotate(f"tolerance {tolerance:g}", (1, tolerance), (0, 3), **beside)
    axes.set_yscale("log")
    axes.set_xlabel("iteration")
    axes.set_ylabel("largest change\nof a row, L1")
    axes.locator_params(axis="x", integer=True)
    unframe(axes)
    return figure


@dataclass(frozen=True)
class Comparison:
    """The candidate's relative gain over one model on one holdout."""

    name: str
    value: float
    interval: tuple[float, float]


def gains(
    holdouts: Mapping[str, Sequence[Comparison]], metric: str, margin: float, subject: str
) -> "Figure":
    """The candidate's gain over each rival with its interval.

    Args:
        holdouts: Comparisons by what is ranked; the first is the one that the gate looks at.
        metric: Such as `NDCG@10`.
        margin: Share that the gate allows the interval to reach below the champion.
        subject: Such as `2017-10-31, 95 % intervals`.
    """
    height = 1.0 + sum(0.55 + 0.4 * len(rivals) for rivals in holdouts.values())
    figure = blank(f"Gain in {metric} over other models", subject, height)
    ratios = [len(rivals) + 0.6 for rivals in holdouts.values()]
    panels = figure.subplots(len(holdouts), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for number, (axes, (heading, rivals)) in enumerate(zip(panels, holdouts.items(), strict=True)):
        for place, one in enumerate(rivals):
            is_ahead, is_behind = one.interval[0] > 0, one.interval[1] < 0
            colour = BLUE if is_ahead else ORANGE if is_behind else GREY
            ends = [[100 * end] for end in one.interval]
            axes.hlines(place, *ends, color=colour, linewidth=2.5)
            axes.plot([100 * one.value], [place], "o", color=colour, markersize=6)
            if number == 0 and one.name.startswith("champion"):
                axes.plot([-100 * margin] * 2, [place - 0.35, place + 0.35], color=VERMILLION)
                note: dict[str, Any] = {"fontsize": 7, "color": VERMILLION, "ha": "right"}
                axes.text(-100 * margin, place - 0.38, "gate's limit ", va="bottom", **note)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(rivals)), [one.name for one in rivals])
        axes.set_ylim(len(rivals) - 0.4, -0.6)
        axes.set_title(heading, fontsize=9, loc="left")
        axes.margins(x=0.08)
        unframe(axes)
    panels[-1].set_xlabel("relative gain, % of the other's mean")
    return figure
