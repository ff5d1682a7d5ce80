from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from jobs.drift import drift_of, jensen_shannon
from schemas.interactions import INTERACTIONS

DS = date(2017, 10, 31)
NOON = datetime(2017, 10, 31, 12, tzinfo=UTC)


@pytest.fixture
def day(publish_rows):
    """A published day of interactions on some items, one user each."""

    def day(number: int, items: str):
        ds = DS + timedelta(days=number)
        at = {"event_time": NOON + timedelta(days=number), "event_type": "", "weight": 1.0}
        rows = [{"user_id": str(n), "item_id": item} | at for n, item in enumerate(items)]
        return publish_rows(INTERACTIONS, rows, ds)

    return day


@pytest.mark.parametrize(
    ("left", "right", "divergence"),
    [
        ([2, 2, 0], [1, 1, 0], 0.0),
        ([1, 0, 0], [0, 3, 1], 1.0),
        # By hand: ½·log2(1 / ¾) + ½·(½·log2(½ / ¾) + ½·log2(½ / ¼)).
        ([1, 0, 0], [1, 1, 0], 0.311278),
    ],
)
def test_the_divergence_is_that_of_the_formula(left, right, divergence):
    found = jensen_shannon(np.array(left, float), np.array(right, float))
    assert found == pytest.approx(divergence, abs=1e-6)


def test_equal_days_do_not_drift(day):
    assert drift_of([day(-2, "abab"), day(-1, "ab"), day(0, "ba")]) == (0.0, [0.0, 0.0])


def test_the_night_is_compared_with_all_days_and_each_of_them_with_the_others(day):
    night, earlier = drift_of([day(-3, "aabb"), day(-2, "ab"), day(-1, "c"), day(0, "d")])
    assert night == 1.0
    of_c = jensen_shannon(np.array([0, 0, 1.0]), np.array([3, 3, 0.0]))
    of_ab = jensen_shannon(np.array([1.0, 1, 0]), np.array([2, 2, 1.0]))
    assert earlier[1:] == pytest.approx([of_ab, of_c])


def test_a_day_alone_is_compared_with_nothing(day):
    assert drift_of([day(0, "ab")]) == (None, [])


def test_one_earlier_day_says_nothing_about_what_is_usual(day):
    assert drift_of([day(-1, "a"), day(0, "b")]) == (1.0, [])
