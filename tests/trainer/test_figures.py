import io

import numpy as np
import pytest

from trainer import figures
from trainer.metrics import CalibrationBins

SUBJECT = "sasrec, decoupled loss, training 2017-10-31"
EPOCHS = [
    {
        "train_loss": 4.0 - n,
        "train_confidence": 1.0,
        "train_distribution": 7.0 - 2 * n,
        "validation_loss": 4.5 - n,
        "validation_confidence": 1.5,
        "validation_distribution": 7.5 - 2 * n,
        "validation_ndcg_10": 0.02 * n,
    }
    for n in (1, 2)
]
BINS = CalibrationBins(np.array([0.1, 0.2]), np.array([0.05, 0.3]), np.array([60, 40]))
KINDS = {"item": {"rows": 1200, "mean_seed_mass": 0.5, "mean_dropped_mass": 0.125}}


def row(model, metric, value, exclude_seen=True, num_users=9):
    facts = {"model": model, "metric": metric, "value": value}
    return facts | {"exclude_seen": exclude_seen, "num_users": num_users}


ROWS = [
    row("candidate", "ndcg@10", 0.25),
    row("candidate", "ndcg@10/tail_items", 0.125, num_users=4),
    row("candidate", "ndcg@10", 0.75, exclude_seen=False),
    row("candidate", "ndcg@20", 0.5),
    row("champion", "ndcg@10", 0.0625),
]


def every_figure():
    return {
        "curves": figures.curves(EPOCHS, SUBJECT),
        "soft_target_mass": figures.soft_target_mass(KINDS, SUBJECT),
        **figures.of_evaluation(ROWS, BINS, SUBJECT, True),
    }


def texts(axes):
    return [text.get_text() for text in axes.texts if text.get_text()]


def test_evaluation_has_two_figures():
    assert set(figures.of_evaluation(ROWS, BINS, SUBJECT, True)) == {"ndcg_by_slice", "calibration"}


@pytest.mark.parametrize("name", ["curves", "soft_target_mass", "ndcg_by_slice", "calibration"])
def test_a_figure_says_which_model_and_fits_a_phone(name):
    figure, picture = every_figure()[name], io.BytesIO()
    figure.savefig(picture)
    width = int.from_bytes(picture.getvalue()[16:20], "big")
    assert width == 900
    assert figure.get_suptitle().splitlines()[1] == SUBJECT
    assert figure.axes[-1].get_xlabel()


def test_curves_show_the_loss_its_two_parts_and_ndcg():
    panels = figures.curves(EPOCHS, SUBJECT).axes
    assert [axes.get_ylabel() for axes in panels] == list(figures.PANELS)
    training, validation = panels[0].lines
    assert (list(training.get_xdata()), list(training.get_ydata())) == ([1, 2], [3.0, 2.0])
    assert list(validation.get_ydata()) == [3.5, 2.5]
    assert [texts(axes) for axes in panels] == [["training", "validation"]] * 3 + [["validation"]]


def test_curves_leave_out_what_a_run_does_not_have():
    """A loss of one part, and no validation positions."""
    epochs = [{"train_loss": 2.0, "train_confidence": 2.0, "train_distribution": 0.0}]
    panels = figures.curves([epochs[0] | {"validation_ndcg_10": 0.0}], SUBJECT).axes
    assert [axes.get_ylabel() for axes in panels] == ["loss, nats", "confidence, nats"]
    assert [texts(axes) for axes in panels] == [["training"], ["training"]]


def test_a_loss_of_0_throughout_is_a_curve_nevertheless():
    figure = figures.curves([{"train_loss": 0.0}] * 2, SUBJECT)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss, nats"]


def test_bars_by_slice_are_those_of_one_holdout_side_by_side():
    (axes,) = figures.ndcg_by_slice(ROWS, SUBJECT, exclude_seen=True).axes
    assert texts(axes) == ["0.2500 candidate", "0.0625 champion", "0.1250 candidate"]
    groups = [label.get_text() for label in axes.get_yticklabels()]
    assert groups == ["all\n9 users", "tail items\n4 users"]
    assert [bar.get_width() for bar in axes.patches] == [0.25, 0.0625, 0.125]


@pytest.mark.parametrize(
    ("exclude_seen", "among"), [(True, "items new to the user"), (False, "all items")]
)
def test_the_title_says_which_items_are_ranked(exclude_seen, among):
    figure = figures.ndcg_by_slice(ROWS, SUBJECT, exclude_seen=exclude_seen)
    assert figure.get_suptitle().startswith(f"NDCG@10 by slice, among {among}")


def test_calibration_shows_hit_rates_over_confidences_and_users_per_bin():
    figure = figures.calibration(BINS, SUBJECT)
    diagram, counts = figure.axes
    model = diagram.lines[-1]
    assert (list(model.get_xdata()), list(model.get_ydata())) == ([0.1, 0.2], [0.05, 0.3])
    (stems,) = counts.collections
    assert [segment[1].tolist() for segment in stems.get_segments()] == [[0.1, 60], [0.2, 40]]
    assert "error 0.0700" in figure.get_suptitle()


def test_soft_targets_mass_adds_up_over_seed_entries_and_cut():
    (axes,) = figures.soft_target_mass(KINDS, SUBJECT).axes
    assert texts(axes) == [
        "0.5000 kept by the seed",
        "0.3750 on other entries",
        "0.1250 cut by top_k",
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["item rows\n1,200"]
