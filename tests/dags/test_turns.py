"""Whose turn it is, from the file and what Airflow is said to know."""

import multiprocessing
import time

import pytest

from dags import turns


@pytest.fixture
def take(tmp_path):
    """Asks for a turn, with the runs that are active and the older one among them."""

    def take(run, active=(), older=None):
        def state_of(name):
            return turns.ACTIVE if name in active else ""

        return turns.take(tmp_path / "turns" / "dag", run, state_of, lambda: older)

    return take


def test_op16_the_first_run_to_ask_has_the_turn_and_keeps_it(take):
    assert take("a") is None
    assert take("b", active="ab") == "a"
    assert take("a", active="ab") is None


def test_a_turn_is_over_when_its_run_is_no_longer_active(take):
    take("a")
    assert take("b", active="b") is None
    assert take("a", active="ab") == "b"


def test_an_older_run_goes_first(take):
    take("a")
    assert take("c", active="bc", older="b") == "b"
    assert take("b", active="bc") is None


def test_whose_turn_it_is_waits_for_no_older_run(take):
    take("c")
    assert take("c", active="bc", older="b") is None


def _ask(file, run, taken):
    def older():
        time.sleep(0.5)  # long enough for the others to ask, too

    if turns.take(file, run, lambda _: turns.ACTIVE, older) is None:
        taken.put(run)


def test_of_many_that_ask_at_once_one_gets_the_turn(tmp_path):
    context = multiprocessing.get_context("spawn")
    taken = context.SimpleQueue()
    asking = [context.Process(target=_ask, args=(tmp_path / "dag", str(n), taken)) for n in "abcd"]
    for process in asking:
        process.start()
    for process in asking:
        process.join()
        assert process.exitcode == 0
    taken.get()
    assert taken.empty()
