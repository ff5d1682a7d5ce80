"""Command line: what the arguments of all our programs have in common."""

import argparse
from datetime import date
from pathlib import Path
from typing import NoReturn

from schemas.errors import UsageError


def existing_root(path: Path) -> Path:
    """The root of all tables for a command that only looks at what is there, absolute.

    Raises:
        UsageError: There is no such folder.
    """
    if not path.is_dir():
        found, expected = f"no folder {path.absolute()}", "the root of a night's tables"
        raise UsageError(found, expected, "--root, or run a night first")
    return path.resolve()


class Parser(argparse.ArgumentParser):
    """A parser whose errors are those of this project."""

    def error(self, message: str) -> NoReturn:
        """Raises a UsageError."""
        raise UsageError(message, "the arguments of --help", "the command line")


def parse_date(name: str, text: str) -> date:
    """A date of a command line, where it is called `name`.

    Raises:
        UsageError: It is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        found = f"{name} {text}"
        raise UsageError(found, "a date such as 2017-10-31", "the command line") from error
