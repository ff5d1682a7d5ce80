from pathlib import Path

import pytest

from jobs import java
from jobs.java import find_java_home
from schemas.errors import PenumbraError


@pytest.fixture
def only_java(monkeypatch, tmp_path):
    """Makes a home with a program that answers as a Java would; nothing else is found."""

    def only_java(version: str, modules: str) -> Path:
        program = tmp_path / "home" / "bin" / "java"
        program.parent.mkdir(parents=True)
        program.write_text(
            "#!/bin/sh\n"
            f'if [ "$1" = -version ]; then echo \'openjdk version "{version}"\' >&2\n'
            f"else echo '{modules}'; fi\n"
        )
        program.chmod(0o755)
        monkeypatch.setattr(java, "_candidates", lambda: iter([tmp_path / "home"]))
        return tmp_path / "home"

    find_java_home.cache_clear()
    yield only_java
    find_java_home.cache_clear()


@pytest.mark.parametrize("version", ["17.0.15", "21.0.2"])
def test_a_supported_java_with_all_modules_is_taken(only_java, version):
    home = only_java(version, "jdk.incubator.vector@17")
    assert find_java_home() == home


@pytest.mark.parametrize(
    ("version", "modules", "problem"),
    [
        ("11.0.2", "jdk.incubator.vector@11", "version 11"),
        ("17.0.15", "java.base@17", r"lacks jdk\.incubator\.vector"),
    ],
)
def test_an_unusable_java_is_named_with_what_to_install(only_java, version, modules, problem):
    only_java(version, modules)
    with pytest.raises(PenumbraError, match=rf"{problem}.*install a full OpenJDK 17") as caught:
        find_java_home()
    assert caught.value.exit_code == 69


def test_the_program_prints_the_home_of_a_usable_java(capsys):
    find_java_home.cache_clear()
    assert java.main([]) == 0
    assert (Path(capsys.readouterr().out.strip()) / "bin" / "java").is_file()
