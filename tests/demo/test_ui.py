import os
import signal
import sys
import time

from demo.ui import Server

PATIENT = "import time; print('up', flush=True); time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + PATIENT


def started(program: str, tmp_path) -> Server:
    command = [sys.executable, "-c", program]
    server = Server("toy", command, dict(os.environ), tmp_path / "toy.log")
    deadline = time.monotonic() + 60
    while "up" not in server.log.read_text():
        assert time.monotonic() < deadline and not server.has_ended(), server.log.read_text()
        time.sleep(0.02)
    return server


def test_a_server_ends_when_it_is_asked_to(tmp_path):
    server = started(PATIENT, tmp_path)
    assert not server.has_ended()
    server.ask_to_end()
    server.stop(time.monotonic() + 10)
    assert server.process.returncode == -signal.SIGTERM


def test_a_server_that_does_not_listen_is_killed(tmp_path):
    server = started(DEAF, tmp_path)
    server.ask_to_end()
    server.stop(time.monotonic() + 0.2)
    assert server.has_ended()
    assert server.process.returncode == -signal.SIGKILL
