"""When the garbage collector runs: in a program of a package, and where that is a library."""

import gc
import importlib
import subprocess
import sys

import dags
import jobs
import trainer

PACKAGE = "from schemas.collector import pause_at_start\npause_at_start()\n"
PROGRAM = """
import gc
from schemas.collector import at_work
if __name__ == "__main__":
    print(gc.isenabled())
    with at_work():
        print(gc.isenabled(), gc.get_freeze_count() > 0)
        before = gc.get_freeze_count()
        made = [[] for _ in range(1000)]
    print(gc.get_freeze_count() >= before + 500)
"""


def test_it_rests_while_a_program_imports_and_ends_and_works_in_between(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "package" / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "package.program"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "True"]


def test_it_works_on_where_our_packages_are_only_imported():
    for package in (dags, jobs, trainer):
        importlib.reload(package)
        assert gc.isenabled()
