import json

import numpy as np
import pytest

from schemas.errors import DataError, UsageError
from schemas.scorecards import SCORECARDS
from schemas.settings import GateSettings
from trainer.compare import compare, main
from trainer.evidence import paired_interval
from trainer.registry import Registry
from trainer.sheets import sheets_of

A, B = [0.2, 0.4, 0.9], [0.1, 0.5, 0.4]
SETTINGS = GateSettings()
CANDIDATE, CHAMPION = "2017-10-31:candidate", "2017-10-31:champion"


def card(model, metric, values, exclude_seen=True, value=None):
    """One row; catalogue-wide where a value is given instead of users' values."""
    return {
        "model": model,
        "model_digest": "",
        "exclude_seen": exclude_seen,
        "metric": metric,
        "value": float(np.mean(values)) if value is None else value,
        "num_users": len(values) or 3,
        "holdout_digest": "holdout",
        "user_values": values,
    }


@pytest.fixture
def compared(registry, publish_rows):
    """Publishes literal scorecards of the night and compares candidate and champion."""

    def compared(*cards, metrics=()):
        publish_rows(SCORECARDS, sorted(cards, key=lambda c: (c["model"], c["exclude_seen"])))
        a, b = (sheets_of(name, registry)[0] for name in (CANDIDATE, CHAMPION))
        return compare(a, b, SETTINGS, metrics)

    return compared


def test_a_metric_is_compared_by_means_and_a_paired_interval(compared):
    (line,) = compared(card("candidate", "ndcg@10", A), card("champion", "ndcg@10", B))
    assert (line.a, line.b, line.num_users) == (0.5, pytest.approx(1 / 3), 3)
    assert line.difference == pytest.approx(1 / 6)
    assert line.relative_difference == pytest.approx(0.5)
    assert line.interval == pytest.approx(paired_interval(np.array(A), np.array(B), SETTINGS))


def test_equal_models_differ_by_nothing(compared):
    (line,) = compared(card("candidate", "ndcg@10", A), card("champion", "ndcg@10", A))
    assert (line.difference, line.relative_difference, line.interval) == (0, 0, (0, 0))


def test_against_zero_the_interval_is_of_the_plain_difference(compared):
    zeros = [0.0, 0.0, 0.0]
    (line,) = compared(card("candidate", "mrr@5", [0.5] * 3), card("champion", "mrr@5", zeros))
    assert (line.difference, line.relative_difference) == (0.5, None)
    assert line.interval == (0.5, 0.5)


def test_a_catalogue_wide_metric_has_no_interval(compared):
    cards = (card(m, "gini@10", [], value=v) for m, v in (("candidate", 0.6), ("champion", 0.8)))
    (line,) = compared(*cards)
    assert (line.relative_difference, line.interval) == (pytest.approx(-0.25), None)


def test_a_negative_lift_that_falls_has_fallen(compared):
    cards = (card(m, "lift", [], value=v) for m, v in (("candidate", -0.6), ("champion", -0.4)))
    assert compared(*cards)[0].relative_difference == pytest.approx(-0.5)


def test_both_holdouts_are_shown_whole_metrics_first_and_k_as_a_number(compared):
    names = ("ndcg@10", "ndcg@10/new_users", "ndcg@5")
    keys = [(seen, name) for seen in (False, True) for name in names]
    cards = [card(m, n, A, seen) for m in ("candidate", "champion") for seen, n in keys]
    assert [(line.exclude_seen, line.metric) for line in compared(*cards)] == [
        (seen, name) for seen in (False, True) for name in ("ndcg@5", "ndcg@10", names[1])
    ]


def test_what_only_one_model_has_is_left_out(compared):
    cards = [card("candidate", "calibration_error", [], value=0.1)]
    cards += [card(model, "ndcg@10", A) for model in ("candidate", "champion")]
    assert [line.metric for line in compared(*cards)] == ["ndcg@10"]


def test_only_the_metrics_that_are_asked_for_are_compared(compared):
    cards = [card(m, n, A) for m in ("candidate", "champion") for n in ("mrr@10", "ndcg@10")]
    assert [line.metric for line in compared(*cards, metrics=["mrr@10"])] == ["mrr@10"]
    with pytest.raises(UsageError, match="metrics map@3; expected mrr@10, ndcg@10"):
        compared(*cards, metrics=["map@3"])
    with pytest.raises(UsageError, match="found metrics recal@10; expected mrr@10, ndcg@10"):
        compared(*cards, metrics=["mrr@10", "recal@10"])


def test_slices_of_other_definitions_are_not_compared(tmp_path, registry, publish_rows, capsys):
    cards = [card("candidate", n, A) for n in ("ndcg@10", "ndcg@10/tail_items")]
    sheets = []
    for head_share in (0.8, 0.6):
        publish_rows(SCORECARDS, cards, slices={"head_share": head_share})
        sheets.append(sheets_of(CANDIDATE, registry)[0])
    assert [line.metric for line in compare(*sheets, SETTINGS)] == ["ndcg@10"]
    assert len(compare(sheets[0], sheets[0], SETTINGS)) == 2
    with pytest.raises(UsageError, match="metrics ndcg@10/tail_items; expected ndcg@10"):
        compare(*sheets, SETTINGS, ["ndcg@10/tail_items"])


def test_other_users_are_an_error(compared):
    with pytest.raises(DataError, match="found ndcg@10 of 3 users and of 2; expected the same us"):
        compared(card("candidate", "ndcg@10", A), card("champion", "ndcg@10", B[:2]))


def arguments(tmp_path, *names):
    return [*names, "--root", str(tmp_path)]


@pytest.fixture
def night(publish_rows):
    cards = [card("candidate", "ndcg@10", A, seen) for seen in (False, True)]
    cards += [card("champion", "ndcg@10", B, seen) for seen in (False, True)]
    return publish_rows(SCORECARDS, cards)


def test_the_tables_show_both_models(tmp_path, night, capsys):
    assert main(arguments(tmp_path, CANDIDATE, CHAMPION)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"A  {CANDIDATE}", f"B  {CHAMPION}"]
    (low, high) = paired_interval(np.array(A), np.array(B), SETTINGS)
    expected = ["ndcg@10", "3", "0.5000", "0.3333", "+0.1667", "+50.0%"]
    expected += [f"{low:+.1%}", "to", f"{high:+.1%}"]
    assert [line.split() for line in lines if "ndcg" in line] == [expected, expected]


def test_json_has_every_figure(tmp_path, night, capsys):
    assert main([*arguments(tmp_path, CANDIDATE, CHAMPION), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["a"], found["b"], found["confidence"]) == (CANDIDATE, CHAMPION, 0.95)
    first = found["metrics"][0]
    assert (first["metric"], first["exclude_seen"], first["num_users"]) == ("ndcg@10", False, 3)
    assert first["difference"] == pytest.approx(1 / 6)
    assert len(first["interval"]) == 2


def test_an_error_is_one_line_and_its_exit_code(tmp_path, night, capsys):
    assert main(arguments(tmp_path, CANDIDATE, "2017-10-31:buy_again")) == 66
    error = capsys.readouterr().err
    assert error.startswith("trainer.compare: MissingInputError: found no scorecards of 2017-10-31")
    assert error.count("\n") == 1


def test_a_wrong_command_line_is_a_usage_error(tmp_path, capsys):
    assert main(arguments(tmp_path, CANDIDATE)) == 64
    assert "the following arguments are required: B" in capsys.readouterr().err


def test_scorecards_need_no_registry(tmp_path, night, monkeypatch):
    monkeypatch.setattr(Registry, "client", None)
    assert main(arguments(tmp_path, CANDIDATE, CHAMPION)) == 0
