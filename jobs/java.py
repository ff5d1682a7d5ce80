"""Java: finds the Java 17 or 21 that Spark needs, or installs one.

`python -m jobs.java` prints its home; `--install` gets one first where there is none: with apt
as root, else as a download into the user's cache through the package `cjdk`.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from schemas.collector import at_work
from schemas.errors import MissingProgramError, PenumbraError, may_pass

SUPPORTED = (17, 21)
NO_MEMORY = "Error occurred during initialization of VM"
"""What Java says where the machine has too little left for it."""
USER_JAVA = Path.home() / ".cache" / "penumbra" / "java"
CJDK = "cjdk==0.5.0"
"""Downloads a Java into the user's cache; installed for that only."""
EXPECTED = "Java 17 or 21 with the module jdk.incubator.vector"
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
    raise MissingProgramError(found, EXPECTED, ADVICE)


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
    try:
        done = subprocess.run([java, "--list-modules"], capture_output=True, text=True)
    except OSError as error:
        if may_pass(error):
            raise
        return f"cannot be run: {error.strerror}"
    modules = done.stdout
    if NO_MEMORY in modules + done.stderr:  # which may pass
        raise OSError(f"{java} does not start: {' '.join((modules + done.stderr).split())}")
    match = re.search(r"^java\.base@(\d+)", modules, re.MULTILINE)
    if match is None:
        return "no list of modules, as before Java 9"
    if int(match[1]) not in SUPPORTED:
        return f"version {match[1]}"
    return None if "jdk.incubator.vector" in modules else "lacks jdk.incubator.vector"


def install() -> None:
    """Installs a supported Java: with apt where root, else through `cjdk` into the user's cache.

    Raises:
        MissingProgramError: It did not work; says which program failed, and its error.
    """
    if os.geteuid() == 0 and shutil.which("apt-get"):
        _install_with_apt()
    else:
        _install_with_cjdk()


def _install_with_apt() -> None:
    # No check: a repository that has nothing to do with Java may be the one that fails.
    subprocess.run(["apt-get", "update", "-qq"], capture_output=True)
    for version in SUPPORTED:  # a distribution may carry one only
        package = f"openjdk-{version}-jdk-headless"
        try:
            _output("apt-get", "install", "-y", "-qq", "--no-install-recommends", package)
        except MissingProgramError:
            if version == SUPPORTED[-1]:
                raise
        else:
            return


def _install_with_cjdk() -> None:
    # In a folder of its own: the environment stays as locked, and may belong to someone else.
    with TemporaryDirectory() as folder:
        _output(sys.executable, "-m", "pip", "install", "-q", "--target", folder, CJDK)
        command = ("-m", "cjdk", "--no-progress", "--jdk", "temurin:17", "java-home")
        home = _output(sys.executable, *command, PYTHONPATH=folder)
    USER_JAVA.mkdir(parents=True, exist_ok=True)
    link = USER_JAVA / "17"
    link.unlink(missing_ok=True)
    link.symlink_to(home.strip())


def _output(*command: str, **environment: str) -> str:
    """What a program prints; the first error it names if it fails."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"} | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout
    lines = done.stderr.split("\n")
    errors = [line for line in lines if re.match(r"E: |(cjdk: )?error: ", line, re.IGNORECASE)]
    found = f"{shlex.join(command)} ended with {done.returncode} ({(errors or lines)[0]})"
    raise MissingProgramError(f"no usable Java, and {found}", EXPECTED, ADVICE)


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
    except PenumbraError as error:
        print(f"jobs.java: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    with at_work():
        sys.exit(main(sys.argv[1:]))
