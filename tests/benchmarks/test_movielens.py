"""MovieLens: everyone's last actions, numbered without gaps."""

import pandas as pd

from benchmarks.movielens import last_actions


def ratings(*rows):
    return pd.DataFrame(rows, columns=["user_id:token", "item_id:token", "timestamp:float"])


def test_last_actions_are_in_order_of_time_and_then_of_the_table():
    table = ratings((2, 70, 5.0), (1, 50, 9.0), (2, 50, 5.0), (1, 60, 3.0), (2, 60, 1.0))
    items, offsets = last_actions(table, 2)
    assert items.tolist() == [1, 2, 3, 2]  # 60, 50; 70, 50
    assert offsets.tolist() == [0, 2, 4]


def test_who_has_one_action_is_left_out():
    items, offsets = last_actions(ratings((1, 50, 1.0), (2, 60, 1.0), (2, 70, 2.0)), 3)
    assert items.tolist() == [1, 2]
    assert offsets.tolist() == [0, 2]
