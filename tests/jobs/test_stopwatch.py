from types import SimpleNamespace

from jobs import stopwatch
from jobs.stopwatch import Stopwatch


def test_a_lap_lasts_since_the_lap_before(monkeypatch):
    readings = iter([10.0, 12.5, 12.6004])
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(monotonic=lambda: next(readings)))
    clock = Stopwatch()
    clock.lap("first")
    clock.lap("second")
    assert clock.seconds == {"first": 2.5, "second": 0.1}
