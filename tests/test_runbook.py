"""The runbook has an entry for every error, and says the same four things in each."""

import ast
import re
from pathlib import Path

import pytest

from schemas.errors import error_classes

PROJECT = Path(__file__).parent.parent
SECTIONS = (PROJECT / "docs" / "runbook.md").read_text().split("\n## ")[1:]
ENTRIES = dict(section.split("\n", 1) for section in SECTIONS)
ERRORS = [error.__name__ for error in error_classes()]


def classes_of_errors() -> set[str]:
    """Names of all classes in the code that derive from an error of the project."""
    packages = ("schemas", "jobs", "trainer", "dags", "demo")
    files = [file for package in packages for file in (PROJECT / package).rglob("*.py")]
    return {
        node.name
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
        and {ast.unparse(base) for base in node.bases} & {"PenumbraError", *ERRORS}
    }


def test_every_error_in_the_code_has_an_entry():
    assert classes_of_errors() == set(ERRORS)
    assert set(ERRORS) <= ENTRIES.keys()


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_says_meaning_risk_and_how_to_look_and_mend(name):
    found = re.findall(r"^- \*\*(\w[\w ]*):\*\*", ENTRIES[name], re.MULTILINE)
    assert found == ["Means", "At risk", "Look", "Mend"]
