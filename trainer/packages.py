"""Packages: the part of this environment that a model's requirements name, for a clean process."""

from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from schemas.errors import RegistryError


def link(lines: list[str], folder: Path) -> None:
    """Fills a folder with links to the installed packages that requirements name, and no others.

    What those depend on belongs to them. A folder that several packages share, as `google` is,
    is linked whole.

    Raises:
        RegistryError: A requirement is not exact, or is not what is installed here.
    """
    requirements = [Requirement(line) for line in lines]
    for requirement in requirements:
        installed = _installed(requirement.name).version
        if str(requirement.specifier) != f"=={installed}":
            raise _refused(
                f"requirement {requirement}, installed {installed}", "the same version of both"
            )
    folder.mkdir()
    for package in _with_dependencies(requirements):
        for line in (package.read_text("RECORD") or "").splitlines():
            top = line.split(",")[0].split("/")[0]
            target, link = Path(str(package.locate_file(top))), folder / top
            if top not in ("..", "__pycache__") and target.exists() and not link.exists():
                link.symlink_to(target)


def _with_dependencies(requirements: list[Requirement]) -> Iterator[Distribution]:
    waiting, done = list(requirements), set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in done:
            continue
        done.add(key)
        package = _installed(requirement.name)
        yield package
        for dependency in map(Requirement, package.requires or []):
            extras = requirement.extras or {""}
            if not dependency.marker or any(
                dependency.marker.evaluate({"extra": e}) for e in extras
            ):
                waiting.append(dependency)


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        raise _refused(f"requirement {name}, not installed", "what requirements name") from error


def _refused(found: str, expected: str) -> RegistryError:
    fix = "serve and train from one requirements.lock: make clean install, then re-run the night"
    return RegistryError(found, expected, fix)
