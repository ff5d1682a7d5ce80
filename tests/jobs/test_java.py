import errno
import subprocess
from pathlib import Path

import pytest

from jobs import java
from jobs.java import find_java_home
from schemas.errors import PenumbraError


def modules(version: str) -> str:
    """What a Java of a version lists, all modules that Spark needs among it."""
    return rf"java.base@{version}\njdk.incubator.vector@{version}\n"


@pytest.fixture
def only_java(monkeypatch, tmp_path):
    """Makes a home with a program that answers as a Java would; nothing else is found."""

    def only_java(modules: str) -> Path:
        program = tmp_path / "home" / "bin" / "java"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\nprintf '{modules}'\n")
        program.chmod(0o755)
        monkeypatch.setattr(java, "_candidates", lambda: iter([tmp_path / "home"]))
        return tmp_path / "home"

    find_java_home.cache_clear()
    yield only_java
    find_java_home.cache_clear()


@pytest.mark.parametrize("version", ["17.0.15", "21"])
def test_a_supported_java_with_all_modules_is_taken(only_java, version):
    home = only_java(modules(version))
    assert find_java_home() == home


@pytest.mark.parametrize(
    ("modules", "problem"),
    [
        ("Unrecognized option: --list-modules", "no list of modules, as before Java 9"),
        (modules("11.0.2"), "version 11"),
        (r"java.base@17.0.15\n", r"lacks jdk\.incubator\.vector"),
    ],
)
def test_an_unusable_java_is_named_with_what_to_install(only_java, modules, problem):
    only_java(modules)
    with pytest.raises(PenumbraError, match=rf"{problem}.*install a full OpenJDK 17") as caught:
        find_java_home()
    assert caught.value.exit_code == 69


def test_a_java_that_finds_no_memory_may_find_it_later(only_java):
    only_java(r"Error occurred during initialization of VM\nCould not reserve enough space\n")
    with pytest.raises(OSError, match="Could not reserve enough space"):
        find_java_home()


def test_op17_a_host_that_can_start_no_process_may_start_one_later(only_java, monkeypatch):
    only_java(modules("17.0.15"))

    def no_process(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "run", no_process)
    with pytest.raises(BlockingIOError):
        find_java_home()


def test_a_java_that_does_not_run_here_is_named(only_java):
    home = only_java(modules("17.0.15"))
    (home / "bin" / "java").write_bytes(b"\x7fELF of another processor")
    with pytest.raises(PenumbraError, match="cannot be run: Exec format error"):
        find_java_home()


@pytest.fixture
def without_java(monkeypatch, tmp_path):
    """No Java is found but in the user's cache, and `answer` is what each program does."""
    monkeypatch.setattr(java, "USER_JAVA", tmp_path / "cache")
    find_java_home.cache_clear()
    run, commands = subprocess.run, []

    def without_java(answer, *, is_root):
        def answered(command, **options):
            if str(command[0]).endswith("/bin/java"):
                return run(command, **options)
            commands.append(command)
            return subprocess.CompletedProcess(command, *answer(command))

        in_cache = (tmp_path / "cache").glob
        monkeypatch.setattr(java, "_candidates", lambda: iter(list(in_cache("*"))))
        monkeypatch.setattr(java.os, "geteuid", lambda: 0 if is_root else 1000)
        monkeypatch.setattr(java.shutil, "which", lambda program: program)
        monkeypatch.setattr(java.subprocess, "run", answered)
        return commands

    yield without_java
    find_java_home.cache_clear()


def test_a_user_gets_java_through_cjdk_and_a_link_to_it(without_java, only_java, capsys, tmp_path):
    home = only_java(modules("17.0.15"))
    without_java(lambda _: (0, f"{home}\n", ""), is_root=False)
    assert java.main(["--install"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'cache' / '17'}\n"
    assert (tmp_path / "cache" / "17").resolve() == home


def test_root_gets_the_java_that_its_distribution_carries(without_java):
    def answer(command):
        is_absent = "openjdk-17-jdk-headless" in command
        return (100, "", "E: Unable to locate package") if is_absent else (0, "", "")

    commands = without_java(answer, is_root=True)
    java.install()
    assert [command[-1] for command in commands] == [
        "-qq",
        "openjdk-17-jdk-headless",
        "openjdk-21-jdk-headless",
    ]


@pytest.mark.parametrize("is_root", [True, False])
def test_an_installation_that_fails_is_one_line_with_its_first_error(
    without_java, capsys, tmp_path, is_root
):
    without_java(lambda _: (100, "", "W: odd\nERROR: no host\nE: none\n"), is_root=is_root)
    assert java.main(["--install"]) == 69
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "ended with 100 (ERROR: no host); expected Java 17 or 21" in line
    assert not (tmp_path / "cache").exists()


def test_the_program_prints_the_home_of_a_usable_java(capsys):
    find_java_home.cache_clear()
    assert java.main([]) == 0
    assert (Path(capsys.readouterr().out.strip()) / "bin" / "java").is_file()
