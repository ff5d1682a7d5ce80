"""The documents are followed here, so that they cannot rot."""

import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.interactions import INTERACTIONS
from schemas.partitions import get
from schemas.settings import load
from tests.conftest import QUICK_SPARK

PROJECT = Path(__file__).parent.parent
GUIDE = (PROJECT / "docs" / "bring-your-own-events.md").read_text()
README = (PROJECT / "README.md").read_text()
EXPERIMENTS = (PROJECT / "docs" / "experiments.md").read_text()
RESULTS = PROJECT / "benchmarks" / "results"
MUSIC = PROJECT.parent / "shared" / "data" / "music30_sessions.parquet"
DS = date(2014, 12, 31)
LITERAL_PLAYS = pa.table(
    {
        "user_id": [4, 4, 9],
        "song_id": [16, 17, 16],
        "ts": [1_419_984_000, 1_420_070_399, 1_420_000_000],
        "playtime": [274, 250, 271],
    }
)


def block(language: str, document: str = GUIDE) -> str:
    """A document's only code block of a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL)
    return found


def follow(folder: Path) -> dict[str, int]:
    """Follows steps 1 and 2 on `plays.parquet`, then runs the guide's single stage."""
    subprocess.run([sys.executable, "-c", block("python")], cwd=folder, check=True)
    (folder / "music.toml").write_text(block("toml"))
    command = [sys.executable, "-m", "jobs.interactions", "--ds", str(DS)]
    command += ["--root", "var-music", "--settings", "music.toml"]
    subprocess.run(command, cwd=folder, env=os.environ | QUICK_SPARK, check=True)
    return get(folder / "var-music", INTERACTIONS, DS).manifest.notes


def test_the_guides_settings_are_valid(tmp_path):
    (tmp_path / "music.toml").write_text(block("toml"))
    assert load(tmp_path / "music.toml", {}).events.history_days == 120


def test_what_the_experiments_say_to_begin_with_are_valid_settings(tmp_path):
    (tmp_path / "next.toml").write_text(block("toml", EXPERIMENTS))
    begin = load(tmp_path / "next.toml", {})
    assert (begin.item_graph.direction, begin.training.softness) == ("forward", "falling")


def test_the_guide_leads_from_a_file_to_interactions(tmp_path):
    pq.write_table(LITERAL_PLAYS, tmp_path / "plays.parquet")
    notes = follow(tmp_path)
    assert (notes["events"], notes["quarantine"], notes["duplicates"]) == (3, 0, 0)


@pytest.mark.skipif(not MUSIC.exists(), reason="music30_sessions.parquet is not beside the project")
def test_the_guide_leads_from_music30_to_interactions(tmp_path):
    (tmp_path / "plays.parquet").symlink_to(MUSIC)
    notes = follow(tmp_path)
    plays = pq.read_table(MUSIC, columns=["ts"])["ts"].to_numpy()
    start = 1_419_984_000
    assert notes["events"] == ((plays >= start) & (plays < start + 86_400)).sum() > 0


def test_make_help_lists_all_targets_and_a_night_wants_its_date():
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    how: dict[str, Any] = {"cwd": PROJECT, "env": alone, "capture_output": True, "text": True}
    shown = subprocess.run(["make", "help"], **how)
    assert [line.split()[1] for line in shown.stdout.splitlines()] == targets
    assert all(len(line.split()) > 3 for line in shown.stdout.splitlines())
    night = ["make", "night", "--assume-old=.venv/.archived"]
    refused = subprocess.run(night, **how)
    assert refused.stderr.startswith("found no DS; expected a date; fix: make night DS=2017-10-31")


def test_the_readme_quotes_the_benchmarks_as_their_results_have_them():
    results = [file.read_text() for file in RESULTS.glob("*.md")]
    quoted = findings(README)
    found = [row for text in results for row in findings(text)]
    assert quoted and set(quoted) <= set(found)
    misses = {row for row in found if row[-1] == "miss"}
    assert misses <= set(quoted)


def findings(document: str) -> list[tuple[str, ...]]:
    """Rows of the tables that benchmarks print, whatever the widths of their columns."""
    rows, is_inside = [], False
    for line in document.splitlines():
        cells = tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        is_head = cells[:3] == ("on", "what", "ours") or cells[:1] == ("cell",)
        is_inside = is_head or (is_inside and bool(cells))
        rows += [cells] if is_inside else []
    return [row for row in rows if row[0] not in ("on", "cell", "---")]
