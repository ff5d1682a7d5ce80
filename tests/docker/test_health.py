"""The health check against a real server."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

PROGRAM = Path(__file__).parent.parent.parent / "docker" / "health.py"
ANSWERS = {
    "/good": (200, b'{"scheduler": {"status": "healthy"}}'),
    "/refused": (403, b"Invalid Host header"),
    "/page": (200, b"<html></html>"),
}


@pytest.fixture(scope="module")
def address():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = ANSWERS[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Keeps requests out of the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask(*arguments, **variables):
    command = [sys.executable, PROGRAM, *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("expected", [[], ["scheduler.status=healthy"]])
def test_a_service_that_answers_as_expected_is_healthy(address, expected):
    ended = ask(f"{address}/good", *expected)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_proxy_that_docker_gave_the_container_is_not_asked(address):
    assert (
        ask(f"{address}/good", http_proxy="http://127.0.0.1:1", no_proxy="", NO_PROXY="").returncode
        == 0
    )


@pytest.mark.parametrize(
    ("path", "expected", "said"),
    [
        ("/refused", [], "403"),
        ("/good", ["scheduler.status=ill"], "found scheduler.status = healthy, expected ill"),
        ("/good", ["triggerer.status=healthy"], "found triggerer.status = None"),
        ("/page", ["scheduler.status=healthy"], "no JSON"),
    ],
)
def test_a_service_that_answers_otherwise_is_not(address, path, expected, said):
    ended = ask(f"{address}{path}", *expected)
    assert ended.returncode == 1
    assert said in ended.stderr and "Traceback" not in ended.stderr


def test_a_service_that_does_not_answer_is_not():
    ended = ask("http://127.0.0.1:1/")
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
