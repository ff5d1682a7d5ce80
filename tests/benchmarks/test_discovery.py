"""How the discovery benchmark puts nights and seeds together, on literal values of two users."""

from datetime import date

import numpy as np
import pytest

from benchmarks import discovery

NIGHTS = [date(2017, 10, 17), date(2017, 10, 31)]
VALUES = {"candidate": {17: [0.2, 0.6], 18: [0.4, 0.4]}, "popularity": [0.1, 0.1]}
ITEM_KNN = [0.2, 0.3]


@pytest.fixture
def found(monkeypatch, tmp_path):
    """Two nights with two seeds of one variant; every night is alike."""
    seed, ran = [0], []

    def run_stage(module, ds, root, changes):
        seed[0] = int(changes.get("TRAINING__SEED", 0))
        ran.append((module, ds, seed[0]))

    def user_values(root, ds, model):
        values = ITEM_KNN if model == "item_knn" else VALUES[model]
        values = values[seed[0]] if model == "candidate" else values
        return {metric: np.array(values) for metric in discovery.METRICS}

    monkeypatch.setattr(discovery, "load_events", lambda *arguments: None)
    monkeypatch.setattr(discovery, "run_stage", run_stage)
    monkeypatch.setattr(discovery, "user_values", user_values)
    monkeypatch.setattr(discovery, "users_of", lambda root, ds: np.array(["u", "v"]))
    collected = discovery.collect(tmp_path, NIGHTS, [17, 18], ["demo"])
    assert len(ran) == len(set(ran)) == 2 * (3 + 2 * 4)
    return collected


def test_a_users_seeds_are_one_value_a_night(found):
    for metric in discovery.METRICS:
        assert [list(values) for values in found["demo"][metric]] == [pytest.approx([0.3, 0.5])] * 2
        assert [list(values) for values in found["item_knn"][metric]] == [ITEM_KNN] * 2


def test_the_standard_error_is_of_users_not_of_seeds(found):
    row = [list(column.cells) for column in discovery.table(found).columns]
    models = row[0]
    # Gains of 0.1 and 0.2 over a mean of 0.25: 60 %, and a deviation of 20 % over √2 users, as
    # nothing new is learned of them on the second night.
    assert row[3][models.index("demo")] == "+60.0 ± 14.1 %"
    assert row[1][models.index("demo")] == "0.4000"
