import time

from jobs.stopwatch import Stopwatch


def test_a_lap_lasts_since_the_lap_before():
    clock = Stopwatch()
    time.sleep(0.05)
    clock.lap("first")
    clock.lap("second")
    assert list(clock.seconds) == ["first", "second"]
    assert clock.seconds["second"] < 0.05 <= clock.seconds["first"]
