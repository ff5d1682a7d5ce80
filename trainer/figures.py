"""Figures: what a night's model looks like, for its run's page in MLflow and for the report.

Pure functions from numbers to pictures; matplotlib's global state is neither read nor changed.
Colours are those of Okabe & Ito (2008), which colour-blind people tell apart, and every line and
bar carries its name. A picture is as wide as a phone, and its title says of which model and night.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from trainer.metrics import CalibrationBins

WIDTH, DPI = 4.5, 200
"""Inches, and pixels per inch: a phone shows ten points of print at nearly their size."""

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, GREY = "#CC79A7", "#777777"

COLOURS = {
    "training": BLUE,
    "validation": VERMILLION,
    "candidate": BLUE,
    "champion": VERMILLION,
    "popularity": GREY,
    "item_knn": GREEN,
    "buy_again": PURPLE,
    "kept by the seed": BLUE,
    "on other entries": ORANGE,
    "cut by top_k": GREY,
}
"""By the name that stands beside the line or bar."""

PANELS = {
    "loss, nats": {"training": "train_loss", "validation": "validation_loss"},
    "confidence, nats": {"training": "train_confidence", "validation": "validation_confidence"},
    "distribution, nats": {
        "training": "train_distribution",
        "validation": "validation_distribution",
    },
    "NDCG@10, 0 to 1": {"validation": "validation_ndcg_10"},
}
"""What the curves show: label of the axis, then the metrics by the name of their line."""


def of_evaluation(
    rows: Iterable[Mapping[str, Any]],
    bins: "CalibrationBins | None",
    subject: str,
    exclude_seen: bool,
) -> dict[str, "Figure"]:
    """A model's figures on one holdout by name; see `ndcg_by_slice` and `calibration`.

    A model whose scores are no probabilities has no `bins`, and no figure of them.
    """
    found = {"ndcg_by_slice": ndcg_by_slice(rows, subject, exclude_seen=exclude_seen)}
    return found | ({"calibration": calibration(bins, subject)} if bins else {})


def curves(epochs: Sequence[Mapping[str, float]], subject: str) -> "Figure":
    """Loss, its two parts and validation NDCG@10, epoch by epoch.

    Args:
        epochs: Metrics of every epoch from the first, named as in MLflow. What is 0 throughout,
            such as a part that the loss does not have, gets no panel, unless all is.
        subject: As `TrackedRun.subject` says it.
    """
    panels = {
        label: lines
        for label, lines in PANELS.items()
        if any(epoch.get(metric) for epoch in epochs for metric in lines.values())
    } or dict([*PANELS.items()][:1])
    figure = blank("Training curves", subject, 0.9 + 1.5 * len(panels))
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, lines) in zip(rows, panels.items(), strict=True):
        axes.set_ylabel(label)
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        found = {
            name: {n: epoch[metric] for n, epoch in enumerate(epochs, start=1) if metric in epoch}
            for name, metric in lines.items()
        }
        _lines(axes, {name: points for name, points in found.items() if points})
    rows[-1].set_xlabel("epoch")
    rows[-1].set_xlim(0.7, len(epochs) + 0.3)
    return figure


def ndcg_by_slice(
    rows: Iterable[Mapping[str, Any]], subject: str, *, exclude_seen: bool
) -> "Figure":
    """Mean NDCG@10 of every model, over all users and by slice.

    Args:
        rows: Of scorecards.
        subject: As `TrackedRun.subject` says it.
        exclude_seen: Of which holdout.
    """
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        metric, _, part = row["metric"].partition("/")
        if metric == "ndcg@10" and row["exclude_seen"] == exclude_seen:
            group = f"{part.replace('_', ' ') or 'all'}\n{row['num_users']:,} users"
            groups.setdefault(group, {})[row["model"]] = row["value"]
    among = "items new to the user" if exclude_seen else "all items"
    figure = blank(f"NDCG@10 by slice, among {among}", subject, _height(groups))
    _bars(figure, groups, "NDCG@10, mean over users, 0 to 1")
    return figure


def calibration(bins: "CalibrationBins", subject: str) -> "Figure":
    """Reliability diagram: how often a first recommendation is right, by how sure the model is.

    Args:
        bins: Of first recommendations.
        subject: As `TrackedRun.subject` says it.
    """
    heading = f"Calibration: error {bins.error:.4f} of the first item's confidence"
    figure = blank(heading, subject, 5.0)
    diagram, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    limit = max(bins.confidences.max(), bins.hit_rates.max())
    diagram.plot([0, limit], [0, limit], color=GREY, linestyle="--")
    diagram.annotate("as sure as right", (limit, 0.6 * limit), ha="right", color=GREY)
    diagram.plot(bins.confidences, bins.hit_rates, color=BLUE, marker="o", markersize=4)
    diagram.annotate(
        "model", (bins.confidences[-1], bins.hit_rates[-1]), (5, 0), **_BESIDE, color=BLUE
    )
    diagram.set_ylabel("share that is right, 0 to 1")
    counts.vlines(bins.confidences, 0, bins.counts, color=BLUE, linewidth=2)
    counts.set_ylim(bottom=0)
    unframe(diagram, counts)
    counts.set_ylabel("users")
    counts.set_xlabel(f"mean confidence of each of {len(bins.counts)} bins, 0 to 1")
    return figure


def soft_target_mass(kinds: Mapping[str, Mapping[str, Any]], subject: str) -> "Figure":
    """Where the mass of soft targets lies: on the seed, on other items, or cut.

    Args:
        kinds: By kind of seed, the notes that the soft_targets manifest keeps on its rows.
        subject: As `TrackedRun.subject` says it.
    """
    groups = {}
    for kind, notes in kinds.items():
        seed, dropped = notes["mean_seed_mass"], notes["mean_dropped_mass"]
        shares = (seed, max(0.0, 1 - seed - dropped), dropped)
        names = ("kept by the seed", "on other entries", "cut by top_k")
        groups[f"{kind} rows\n{notes['rows']:,}"] = dict(zip(names, shares, strict=True))
    figure = blank("Mass of soft targets", subject, _height(groups))
    _bars(figure, groups, "share of a row's mass, mean over rows, 0 to 1")
    return figure


_BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 9}


def blank(heading: str, subject: str, height: float) -> "Figure":
    """A figure as wide as a phone, `height` inches high, with its title."""
    from matplotlib.figure import Figure  # takes a second, and most nights' stages draw nothing

    figure = Figure((WIDTH, height), DPI, layout="constrained")
    figure.suptitle(f"{heading}\n{subject}", fontsize=10)
    return figure


def unframe(*panels: "Axes") -> None:
    """Leaves out the frame above and to the right, where labels are."""
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)


def _lines(axes: "Axes", lines: Mapping[str, Mapping[int, float]]) -> None:
    """Draws lines, each with its name at its end: the upper one's above, the lower one's below."""
    last = {name: list(points.values())[-1] for name, points in lines.items()}
    for name, points in lines.items():
        colour, is_upper = COLOURS[name], last[name] == max(last.values())
        axes.plot(list(points), list(points.values()), color=colour, marker="o", markersize=3)
        style = _BESIDE | {"va": "bottom" if is_upper else "top", "color": colour}
        axes.annotate(name, (max(points), last[name]), (5, 0), **style)
    axes.margins(y=0.15)
    unframe(axes)


def _height(groups: Mapping[str, Mapping[str, float]]) -> float:
    """Inches that labelled bars need: a line of print each."""
    return 1.3 + 0.17 * sum(len(bars) + 1 for bars in groups.values())


def _bars(figure: "Figure", groups: Mapping[str, Mapping[str, float]], unit: str) -> None:
    """Draws groups of bars from top to bottom, each with its value and name at its end."""
    axes, top, middles = figure.add_subplot(), 0, []
    for bars in groups.values():
        places = [top + place for place in range(len(bars))]
        drawn = axes.barh(places, list(bars.values()), color=[COLOURS[name] for name in bars])
        labels = [f"{value:.4f} {name}" for name, value in bars.items()]
        axes.bar_label(drawn, labels, padding=3, fontsize=8)
        middles.append(top + (len(bars) - 1) / 2)
        top += len(bars) + 1
    axes.set_yticks(middles, list(groups))
    axes.invert_yaxis()
    axes.margins(x=0.65)  # for the labels
    unframe(axes)
    axes.set_xlabel(unit)
