"""Java: finds the Java 17 or 21 that Spark needs, or installs one.

`python -m jobs.java` prints its home; `--install` gets one first where there is none: with apt
as root, else as a download into the user's cache through the package `cjdk`.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from schemas.errors import MissingProgramError, PenumbraError

SUPPORTED = (17, 21)
USER_JAVA = Path.home() / ".cache" / "penumbra" / "java"
ADVICE = (
    "install a full OpenJDK 17 (such as apt-get install openjdk-17-jdk-headless), or set JAVA_HOME"
)


@cache
def find_java_home() -> Path:
    """The home of a supported Java that has the module Spark needs.

    Raises:
        MissingProgramError: There is none; says what was looked at and what to install.
    """
    seen = []
    for home in _candidates():
        problem = _problem(home)
        if problem is None:
            return home
        seen.append(f"{home} ({problem})")
    found = "no usable Java" + (": " + ", ".join(seen) if seen else "")
    raise MissingProgramError(found, "Java 17 or 21 with the module jdk.incubator.vector", ADVICE)


def _candidates() -> Iterator[Path]:
    if os.environ.get("JAVA_HOME"):
        yield Path(os.environ["JAVA_HOME"])
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path).resolve().parent.parent
    yield from sorted(Path("/usr/lib/jvm").glob("*"))
    yield from sorted(USER_JAVA.glob("*"))


def _problem(home: Path) -> str | None:
    java = home / "bin" / "java"
    if not java.is_file():
        return "no bin/java"
    version = subprocess.run([java, "-version"], capture_output=True, text=True)
    match = re.search(r'version "(\d+)', version.stderr)
    if match is None or int(match[1]) not in SUPPORTED:
        return f"version {match[1] if match else 'unknown'}"
    modules = subprocess.run([java, "--list-modules"], capture_output=True, text=True)
    return None if "jdk.incubator.vector" in modules.stdout else "lacks jdk.incubator.vector"


def install() -> None:
    """Installs a Java 17: with apt where root, else through `cjdk` into the user's cache."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        packages = ["--no-install-recommends", "openjdk-17-jdk-headless"]
        subprocess.run(["apt-get", "install", "-y", "-qq", *packages], env=environment, check=True)
        return
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "cjdk"], check=True)
    home = subprocess.run(
        [sys.executable, "-m", "cjdk", "--jdk", "temurin:17", "java-home"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    USER_JAVA.mkdir(parents=True, exist_ok=True)
    link = USER_JAVA / "17"
    link.unlink(missing_ok=True)
    link.symlink_to(home)


def main(arguments: list[str]) -> int:
    """Prints the home of a usable Java, installing one first where asked and needed."""
    try:
        try:
            print(find_java_home())
        except MissingProgramError:
            if "--install" not in arguments:
                raise
            install()
            print(find_java_home())
    except subprocess.CalledProcessError as error:
        print(f"jobs.java: could not install Java ({error}); {ADVICE}", file=sys.stderr)
        return 69
    except PenumbraError as error:
        print(f"jobs.java: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
