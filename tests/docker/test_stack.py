"""docker/stack.py: which containers `make up` and `make down` are about, and what it refuses."""

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


def refusal(env_file):
    with pytest.raises(STACK["StackError"]) as refused:
        STACK["check_settings"](env_file)
    return refused.value


@pytest.mark.parametrize(
    ("name", "kind"), [("PENUMBRA_EVENTS", "a folder"), ("PENUMBRA_SETTINGS", "a file")]
)
def test_a_path_that_is_not_there_is_refused_before_docker_makes_a_folder_of_it(
    tmp_path, monkeypatch, name, kind
):
    monkeypatch.delenv(name, raising=False)
    env_file = tmp_path / ".env"
    env_file.write_text(f"{name}={tmp_path}/mistyped  # mine\n")
    error = refusal(env_file)
    assert error.exit_code == 66
    assert str(error).startswith(f"found {name}={tmp_path}/mistyped; expected {kind}; fix: ")
    assert not (tmp_path / "mistyped").exists()
    (tmp_path / "events").mkdir()
    (tmp_path / "own.toml").touch()
    env_file.write_text(
        f"PENUMBRA_EVENTS='{tmp_path}/events'\nPENUMBRA_SETTINGS=\"{tmp_path}/own.toml\"\n"
    )
    STACK["check_settings"](env_file)
    for volume_or_unknown in ("a_volume", "./${USER}/events"):
        env_file.write_text(f"PENUMBRA_EVENTS={volume_or_unknown}\n")
        STACK["check_settings"](env_file)


def test_a_port_that_moves_takes_the_address_in_alerts_along(tmp_path, monkeypatch):
    for name in ("AIRFLOW_PORT", "AIRFLOW_URL"):
        monkeypatch.delenv(name, raising=False)
    env_file = tmp_path / ".env"
    env_file.write_text("AIRFLOW_PORT=9000\n")
    assert "fix: AIRFLOW_URL=http://127.0.0.1:9000 in .env" in str(refusal(env_file))
    for fits in (
        "AIRFLOW_PORT=9000\nAIRFLOW_URL=https://penumbra.example.com\n",
        "AIRFLOW_PORT=8080",
    ):
        env_file.write_text(fits)
        STACK["check_settings"](env_file)


def test_lines_of_some_variables_are_taken_as_they_are_written(tmp_path):
    env_file = tmp_path / ".env"
    assert STACK["lines_of"](env_file, ["A", "B"]) == []
    env_file.write_text("A=1\nAB=2\nexport B = 'x y' # z\n# A=3\n")
    assert STACK["lines_of"](env_file, ["A", "B"]) == ["A=1\n", "export B = 'x y' # z\n"]
