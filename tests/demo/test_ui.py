import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from signal import SIGHUP, SIGINT, SIGTERM

import pytest

from demo import ui
from demo.airflow_home import environment
from demo.ui import Server, choose_password

PATIENT = "import time; print('up', flush=True); time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + PATIENT


def started(program: str, tmp_path) -> Server:
    command = [sys.executable, "-c", program]
    server = Server("toy", command, dict(os.environ), tmp_path / "toy.log")
    wait_until_up(server)
    return server


def wait_until_up(server: Server) -> None:
    deadline = time.monotonic() + 60
    while "up" not in server.log.read_text():
        assert time.monotonic() < deadline and not server.has_ended(), server.log.read_text()
        time.sleep(0.02)


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


def test_who_asks_twice_leaves_no_server_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(ui, "STOP_SECONDS", 1.0)
    server = started(DEAF, tmp_path)
    handlers = {number: signal.getsignal(number) for number in (SIGINT, SIGTERM, SIGHUP)}
    again = threading.Timer(0.3, os.kill, (os.getpid(), SIGINT))
    try:
        again.start()
        ui._stop([server])
    except KeyboardInterrupt:
        pytest.fail("the second Ctrl-C was heard")
    finally:
        again.join()
        server.stop(time.monotonic())
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert server.process.returncode == -signal.SIGKILL


def test_the_password_is_its_owners_and_stays(tmp_path):
    file = tmp_path / "passwords.json"
    choose_password(file)
    assert file.stat().st_mode & 0o777 == 0o600
    chosen = file.read_text()
    assert len(json.loads(chosen)["admin"]) >= 16
    choose_password(file)
    assert file.read_text() == chosen


TOLD_TO_END = """
import os, signal, sys
from schemas.process import interrupt_when_told_to_end
if sys.argv[2] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
interrupt_when_told_to_end()
try:
    os.kill(os.getpid(), int(sys.argv[1]))
    print("survived")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("number", "how", "said"),
    [
        (signal.SIGTERM, "", "interrupted"),
        (signal.SIGHUP, "", "interrupted"),
        (signal.SIGHUP, "nohup", "survived"),
    ],
)
def test_a_closed_terminal_ends_what_it_started_as_ctrl_c_does(number, how, said):
    command = [sys.executable, "-c", TOLD_TO_END, str(int(number)), how]
    assert subprocess.run(command, capture_output=True, text=True).stdout.split() == [said]


HEALTHY = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("up", flush=True)
for _ in range(int(sys.argv[2])):
    server.handle_request()
"""


def test_addresses_and_the_passwords_place_are_printed_once_both_answer(tmp_path, capsys):
    servers, addresses = [], {}
    for name, num_answers in (("Airflow api-server", 1), ("MLflow", 2)):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        command = [sys.executable, "-c", HEALTHY, str(port), str(num_answers)]
        servers.append(Server(name, command, dict(os.environ), tmp_path / f"{name}.log"))
        addresses[name] = f"http://127.0.0.1:{port}/health"
    try:
        for server in servers:
            wait_until_up(server)
        # Airflow's ends by itself after its answer, which is what ends the wait.
        assert ui._serve(servers, addresses, tmp_path) == 1
    finally:
        for server in servers:
            server.stop(time.monotonic())
    said = capsys.readouterr().out
    for name, address in addresses.items():
        assert f"{name.split()[0]:<8} {address.removesuffix('/health')}   log: " in said
    assert f"user admin, password in {tmp_path / 'airflow' / 'passwords.json'}" in said
    assert "Ctrl-C stops everything." in said
    assert f"Airflow api-server ended; see {servers[0].log}" in said


def test_airflows_parts_reach_each_other_past_a_proxy(tmp_path, monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    for theirs, expected in (("intranet", "127.0.0.1,localhost,intranet"), ("*", "*")):
        monkeypatch.setenv("NO_PROXY", theirs)
        found = environment(tmp_path / "var", tmp_path / "pipeline.toml")
        assert found["NO_PROXY"] == found["no_proxy"] == expected
