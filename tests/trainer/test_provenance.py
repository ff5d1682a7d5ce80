import subprocess

import pytest

from schemas.audit import file_sha256
from trainer import provenance


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in (provenance.COMMIT_VARIABLE, provenance.DAG_RUN_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "code.py").write_text("")
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    return tmp_path


def head(folder):
    command = ["git", "-C", folder, "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_op23_the_commit_is_the_repositorys(repository):
    assert provenance.of_process(repository) == {"commit": head(repository)}


def test_op23_code_that_is_in_no_commit_says_so(repository):
    (repository / "code.py").write_text("changed")
    assert provenance.of_process(repository) == {"commit": f"{head(repository)}-dirty"}


def test_op23_a_tag_does_not_hide_the_commit(repository):
    subprocess.run(["git", "-C", repository, "tag", "-am", "v1", "v1"], check=False)
    subprocess.run(["git", "-C", repository, "tag", "v2"], check=True)
    assert provenance.of_process(repository)["commit"] == head(repository)


def test_op23_an_image_without_a_repository_names_commit_and_dag_run(tmp_path, monkeypatch):
    assert provenance.of_process(tmp_path) == {}
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "abc")
    monkeypatch.setenv(provenance.DAG_RUN_VARIABLE, "scheduled__2017-10-31")
    known = provenance.of_process(tmp_path)
    assert known == {"commit": "abc", "dag_run_id": "scheduled__2017-10-31"}


def test_op23_the_lock_file_is_known_by_its_digest(tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text("torch==2\n")
    assert provenance.of_process(tmp_path) == {"lock_sha256": file_sha256(lock)}
