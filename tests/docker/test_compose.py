"""docker-compose.yml and its image keep what docs/deployment.md promises; see `make smoke` too."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parent.parent.parent
TEXT = (PROJECT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
DOCKERFILE = (PROJECT / "docker" / "Dockerfile").read_text()
PUBLISHED = {"airflow-api-server", "mlflow", "spark-master"}
AIRFLOW = {f"airflow-{part}" for part in ("api-server", "scheduler", "dag-processor", "triggerer")}
SECRET = re.compile(r"PASSWORD$|SECRET|FERNET|_KEY$|CONN$|STORE_URI$")
each_service = pytest.mark.parametrize("name", SERVICES)


def make_secrets(file, *more):
    command = [sys.executable, PROJECT / "docker" / "make_secrets.py", file]
    return subprocess.run([*command, *more], capture_output=True, text=True, check=True).stdout


def secrets_in(file):
    pairs = (line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
    return {name: value for name, value in pairs if SECRET.search(name)}


def test_op24_the_services_are_those_of_the_deployment_guide():
    workers = {"spark-worker-1", "spark-worker-2"}
    others = {"postgres", "airflow-setup"}
    assert set(SERVICES) == PUBLISHED | AIRFLOW | workers | others


def test_the_deployment_guide_tells_every_services_limit():
    guide = (PROJECT / "docs" / "deployment.md").read_text()
    told = re.findall(r"^\| `([a-z0-9-]+)` \| .* \| ([\d.]+) ([GM])iB \|$", guide, re.MULTILINE)
    limits = {name: float(size) * (1024 if unit == "G" else 1) for name, size, unit in told}
    found = {name: service["mem_limit"] for name, service in SERVICES.items()}
    in_mebibytes = {
        n: int(size[:-1]) * (1024 if size[-1] == "g" else 1) for n, size in found.items()
    }
    assert limits == {n: size for n, size in in_mebibytes.items() if n != "airflow-setup"}


def test_the_deployment_guides_table_has_the_memory_that_its_output_shows():
    guide = (PROJECT / "docs" / "deployment.md").read_text()
    told = re.findall(r"^\| `([a-z0-9-]+)` \| .* \| ([\d.]+) GiB \| .*\|$", guide, re.MULTILINE)
    shown = re.findall(r"^ +\d+:\d\d +([a-z0-9-]+) +([\d.]+) GiB at most$", guide, re.MULTILINE)
    assert told and sorted(told) == sorted(shown)


def test_op24_only_three_ports_are_published_and_only_on_loopback():
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(ports) == PUBLISHED
    for (port,) in ports.values():
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z]+_PORT:-\d+\}:\d+", port)


@each_service
def test_every_service_has_limits_a_restart_policy_and_the_private_network(name):
    service = SERVICES[name]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"]) and 0 < service["cpus"] <= 2
    expected = "on-failure:3" if name == "airflow-setup" else "unless-stopped"
    assert service["restart"] == expected
    assert service["networks"] == ["penumbra"] == list(COMPOSE["networks"])
    assert not {"network_mode", "privileged", "user", "cap_add"} & set(service)


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"airflow-setup"}))
def test_a_health_check_asks_a_route_under_a_services_own_name(name):
    kind, program, *arguments = SERVICES[name]["healthcheck"]["test"]
    assert kind == "CMD"
    if name == "postgres":
        assert (program, arguments[0]) == ("pg_isready", "--host=postgres")
        return
    assert (program, arguments[0]) == ("python", "docker/health.py")
    host, path = re.fullmatch(r"http://([\w-]+):\d+(/.+)", arguments[1]).groups()
    has_no_server = name in ("airflow-dag-processor", "airflow-triggerer")
    assert host == ("airflow-api-server" if has_no_server else name)
    assert not has_no_server or arguments[2].startswith(
        name.removeprefix("airflow-").replace("-", "_")
    )
    assert name != "mlflow" or path.startswith("/api/2.0/mlflow/")


def test_mlflow_serves_the_host_that_its_clients_and_its_health_check_name():
    allowed = re.search(r"--allowed-hosts (\S+)", SERVICES["mlflow"]["command"])[1].split(",")
    assert "mlflow:5000" in allowed and "*" not in allowed
    uri = SERVICES["airflow-scheduler"]["environment"]["PENUMBRA_REGISTRY__TRACKING_URI"]
    assert uri == "http://mlflow:5000"


@each_service
def test_op24_no_secret_has_a_default(name):
    for variable, value in SERVICES[name].get("environment", {}).items():
        if SECRET.search(variable):
            assert re.search(r"\$\{[A-Z_]+:\?run make secrets\}", value), variable
    asked = set(re.findall(r"\$\{([A-Z_]+):", TEXT))
    assert {name for name in asked if SECRET.search(name)} == set(
        re.findall(r"\$\{([A-Z_]+):\?run make secrets\}", TEXT)
    )


def test_who_reads_and_writes_tables_sees_them_at_the_same_path():
    users = AIRFLOW | {"spark-worker-1", "spark-worker-2"}
    assert all("tables:/data" in SERVICES[name]["volumes"] for name in users)
    environment = SERVICES["airflow-scheduler"]["environment"]
    assert environment["PENUMBRA_ROOT"] == "/data"
    assert {"tables", "artifacts", "database"} <= set(COMPOSE["volumes"])


def test_the_image_is_one_non_root_without_curl_on_a_base_of_ones_choice():
    own = {name for name in SERVICES if name != "postgres"}
    assert {SERVICES[name]["image"] for name in own} == {"penumbra:${PENUMBRA_TAG:-local}"}
    assert "ARG PYTHON_IMAGE=python:3.11-slim" in DOCKERFILE
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE) == ["penumbra"]
    assert "-r /build/requirements.lock" in DOCKERFILE
    instructions = re.sub(r"^#.*$", "", DOCKERFILE, flags=re.MULTILINE) + str(SERVICES)
    assert not re.search(r"\b(curl|wget)\b", instructions)


def test_files_use_what_old_compose_and_the_old_builder_know_too():
    assert not {"name", "include", "version"} & set(COMPOSE)
    assert "--mount" not in DOCKERFILE and "# syntax" not in DOCKERFILE and "<<" not in DOCKERFILE


def test_everything_the_image_copies_is_in_its_build_context():
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    for source in " ".join(copied).split():
        assert list(PROJECT.glob(source)), source
        assert {f"!{source}", f"!{source.split('/')[0]}/"} & set(ignored), source


def test_op24_secrets_are_random_private_and_kept(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    make_secrets(first)
    make_secrets(second)
    one, other = secrets_in(first), secrets_in(second)
    assert set(one) == set(other) == set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    assert len({*one.values(), *other.values()}) == 2 * len(one)
    assert min(map(len, one.values())) >= 32
    assert first.stat().st_mode & 0o777 == 0o600
    before = first.read_bytes()
    assert "has every secret already" in make_secrets(first)
    assert first.read_bytes() == before


def test_a_secret_that_a_file_lacks_is_added_to_those_it_has(tmp_path):
    file = tmp_path / "env"
    file.write_text("AIRFLOW_PORT=9000\nPOSTGRES_PASSWORD=chosen")
    file.chmod(0o644)
    make_secrets(file)
    assert file.read_text().startswith("AIRFLOW_PORT=9000\nPOSTGRES_PASSWORD=chosen\n")
    # Else `docker compose` would look for containers under the name of the folder.
    assert file.read_text().count("\nCOMPOSE_PROJECT_NAME=penumbra\n") == 1
    assert secrets_in(file)["POSTGRES_PASSWORD"] == "chosen"
    assert len(secrets_in(file)) == len(set(re.findall(r"\$\{([A-Z_]+):\?", TEXT)))
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "line", ["COMPOSE_PROJECT_NAME=second", "export COMPOSE_PROJECT_NAME = 'x'"]
)
def test_the_name_of_the_containers_is_kept_however_it_is_written(tmp_path, line):
    file = tmp_path / "env"
    file.write_text(f"{line}\n")
    make_secrets(file)
    assert file.read_text().count("COMPOSE_PROJECT_NAME") == 1


def test_git_ignores_secrets_and_wheels():
    paths = [".env", "docker/wheels/torch.whl"]
    found = subprocess.run(
        ["git", "check-ignore", *paths], cwd=PROJECT, capture_output=True, text=True
    )
    if found.returncode == 128:
        pytest.skip("not a git repository")
    assert found.stdout.split() == paths


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="there is no docker-compose here")
def test_op24_compose_accepts_the_file_with_secrets_and_refuses_it_without(tmp_path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER", "COMPOSE"))}

    def config(env_file):
        command = ["docker-compose", "--env-file", str(env_file), "-f", "docker-compose.yml"]
        return subprocess.run(
            [*command, "config"], cwd=PROJECT, env=kept, capture_output=True, text=True
        )

    make_secrets(tmp_path / "env")
    accepted = config(tmp_path / "env")
    assert accepted.returncode == 0, accepted.stderr
    assert set(yaml.safe_load(accepted.stdout)["services"]) == set(SERVICES)
    (tmp_path / "none").touch()
    refused = config(tmp_path / "none")
    assert refused.returncode != 0 and "run make secrets" in refused.stderr
