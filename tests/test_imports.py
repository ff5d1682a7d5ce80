"""Who may import whom: the arrows between the packages, read from the source with `ast`."""

import ast
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
OWN = {"schemas", "jobs", "trainer", "dags", "demo"}
ALLOWED_OWN = {
    "schemas": {"schemas"},
    "jobs": {"jobs", "schemas"},
    "trainer": {"trainer", "schemas"},
    "dags": {"dags", "schemas"},
    "demo": {"demo", "schemas"},
}
NUMBERS = {"numpy", "scipy", "pandas", "pyarrow"}
ALLOWED_OTHERS = {
    "schemas": {"croniter", "pyarrow", "pydantic"},
    "jobs": {"numpy", "numba", "llvmlite", "pyarrow", "pyspark", "py4j"},
    "trainer": NUMBERS
    | {
        "torch",
        "mlflow",
        "matplotlib",
        "safetensors",
        "rich",
        "tqdm",
        "sklearn",
        "packaging",
        "jinja2",
    },
    "dags": {"airflow"},
    "demo": {"pyarrow", "rich"},
}
FILES = sorted(file for package in OWN for file in (PROJECT / package).rglob("*.py"))


def imported(source: str) -> set[str]:
    """Top-level names of all modules a source imports, wherever in the file it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PROJECT)))
def test_a_module_imports_only_what_its_package_may(file):
    package = file.relative_to(PROJECT).parts[0]
    names = imported(file.read_text()) - set(sys.stdlib_module_names)
    assert names & OWN <= ALLOWED_OWN[package]
    assert names - OWN <= ALLOWED_OTHERS[package]


def test_no_module_uses_relative_imports():
    relative = [
        f"{file}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_an_import_inside_a_function_counts_too():
    assert imported("def f():\n    from torch.nn import functional") == {"torch"}
