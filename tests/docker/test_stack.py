"""docker/stack.py: which containers `make up` and `make down` are about."""

import runpy
from pathlib import Path

import pytest

STACK = runpy.run_path(str(Path(__file__).parent.parent.parent / "docker" / "stack.py"))


@pytest.mark.parametrize(
    ("line", "variable", "expected"),
    [
        ("COMPOSE_PROJECT_NAME=second\n", None, "second"),
        ("COMPOSE_PROJECT_NAME='second'\n", None, "second"),
        ("COMPOSE_PROJECT_NAME=second  # mine\n", None, "second"),
        ("export COMPOSE_PROJECT_NAME=second\n", None, "second"),
        ("COMPOSE_PROJECT_NAME=\n", None, "penumbra"),
        ("COMPOSE_PROJECT_NAME=second\n", "third", "third"),
        ("OTHER=second\n", None, "penumbra"),
    ],
)
def test_the_projects_name_is_that_of_compose_itself(
    tmp_path, monkeypatch, line, variable, expected
):
    monkeypatch.delenv("COMPOSE_PROJECT_NAME", raising=False)
    if variable:
        monkeypatch.setenv("COMPOSE_PROJECT_NAME", variable)
    env_file = tmp_path / ".env"
    env_file.write_text(f"# Secrets\n{line}")
    assert STACK["project_name"](env_file) == expected
