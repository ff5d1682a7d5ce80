import re
import subprocess
import sys
from datetime import date
from html import unescape
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import DataError
from schemas.health import HEALTH
from schemas.names import names_of
from schemas.settings import ReportSettings, Settings
from trainer.report import main, page_of, path_of, tables_of, write
from trainer.report_data import health_days
from trainer.report_models import training
from trainer.report_users import histories_of, users
from trainer.tracking import configure

DS = date(2017, 10, 31)
SECTIONS = ["Data quality", "Item graph", "Soft targets", "Training", "Scorecard", "Slices"]
SECTIONS += ["Gate", "Recommendations", "Tables"]


@pytest.fixture(scope="module")
def html(report):
    return report.read_text()


def words_of(html):
    """The text that a reader sees, without figures."""
    body = html[html.index("<body>") :]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_the_page_has_every_section(html):
    assert re.findall(r"<h2 [^>]*>(.*?)</h2>", html) == SECTIONS


def test_the_summary_says_what_the_gate_decided_and_who_serves(html):
    assert (
        "inconclusive The evidence does not decide about version 2; the champion was version 1. "
        "Tonight's recommendations are version 1's." in words_of(html)
    )


def test_the_summary_names_what_is_out_of_the_ordinary(html):
    words = words_of(html)
    look = words[words.index("Needs a look") : words.index("Data quality")]
    assert "Volume of the day is beyond its limit." in look
    assert "The model is worse than item-kNN: −33.3 % to −20.0 %." in look
    assert "The gate says inconclusive: coverage: missing." in look


def test_gains_stand_beside_champion_and_baselines_with_intervals(html):
    words = words_of(html)
    assert "candidate 0.3000 0.3000 – 0.3000 – –" in words
    assert "champion 0.2000 0.2000 – 0.2000 +50.0 % +33.3 % to +100.0 %" in words
    assert "buy again 0.5000 0.5000 – 0.5000 −40.0 % −50.0 % to −33.3 %" in words


def test_every_rule_of_the_gate_is_there_with_its_result(html):
    words = words_of(html)
    assert "floor passed ndcg@10 is 0.3 coverage unclear missing new_users not judged" in words


def test_events_are_accounted_for_and_health_is_beside_its_limits(html):
    words = words_of(html)
    assert "17 events = 12 interactions + 2 duplicates + 3 in quarantine." in words
    assert "volume interactions beyond 12 23 15 1 4" in words
    assert "null user 2 bad weight 1" in words


def test_names_are_text_whatever_is_in_them(html):
    assert "<script" not in html
    assert "&lt;script&gt;document.title" in html
    assert "Product 6" in words_of(html)


def test_nothing_in_the_page_is_loaded_from_elsewhere(html):
    addresses = re.findall(r"""(?:src|href)=["']?([^"'> ]*)""", html.replace("&lt;img src", ""))
    assert addresses and all(a.startswith(("#", "data:")) for a in addresses)
    assert "url(" not in html and "@import" not in html


def test_every_figure_has_words_for_those_who_do_not_see_it(html):
    figures = re.findall(
        r"<figure><img src=\"data:image/svg\+xml;base64,[^\"]+\" alt=\"(.*?)\">", html
    )
    assert len(figures) == html.count("<figure>") == 7
    assert all(len(about) > 20 for about in figures)


def test_whose_actions_are_most_is_told_by_name(html):
    words = words_of(html)
    assert "most actions of an item (i9) 41" in words
    assert "users with sequences.max_history 2 most actions of a user (u00) 31" in words


def test_users_are_from_the_shortest_history_to_the_longest(night):
    chosen = histories_of(tables_of(night.root, DS)["sequences"], 3)
    assert [(user, len(items)) for user, items in chosen] == [("u14", 1), ("u07", 15), ("u00", 29)]


def test_ten_users_are_shown_with_what_they_had_and_what_they_are_recommended(html):
    words = words_of(html)
    assert html.count('<article class="person">') == 10
    assert "User u14 1 action on 1 item most often 1 × Product 1 recommended i9" in words
    assert "i9 (had before)" in words  # of the longest history


def test_op02_the_same_night_gives_the_same_bytes_and_the_closing_line_says_where(
    night, report, capsys
):
    before = report.read_bytes()
    main(night)
    assert report.read_bytes() == before
    assert [file.name for file in report.parent.iterdir()] == ["report.html"]
    assert capsys.readouterr().out == f"report 2017-10-31: {report}\n"


def test_the_nights_run_in_mlflow_has_the_page_and_its_address(night, report):
    client = configure(night.root, night.settings)
    run_id = tables_of(night.root, DS)["checkpoints"].manifest.notes["mlflow_run_id"]
    run = client.get_run(run_id)
    copy = Path(run.info.artifact_uri, "report.html")
    assert copy.read_bytes() == report.read_bytes()
    assert run.data.tags["penumbra.report"] == str(report)


def test_a_night_stopped_by_its_health_says_so_and_what_is_missing(empty_night, publish_table):
    root, row = empty_night.root, {"metric": "volume", "value": 1.0, "usual": 9.0, "at_least": 4.0}
    more = {"at_most": 20.0, "verdict": "beyond", "num_days": 4}
    publish_table(root, HEALTH, [row | more])
    main(empty_night)
    words = words_of(path_of(root, DS).read_text())
    assert "stopped by its health No model was decided on; what served before serves on." in words
    assert "Volume of the day is beyond its limit." in words
    assert "Not published: interactions, quarantine, items, sequences," in words
    assert "There is no scorecards of the night to read, so nothing to show." in words


def test_the_stage_starts_without_torch_which_would_take_it_a_second():
    program = "import sys, trainer.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_night_that_published_nothing_has_no_page(empty_night, capsys):
    main(empty_night)
    assert "nothing was published, so there is no report" in capsys.readouterr().out
    assert not (empty_night.root / "reports").exists()


def test_a_damaged_table_leaves_a_page_that_says_what_is_wrong(night, capsys):
    part = tables_of(night.root, DS)["item_graph"].files[0]
    whole = part.read_bytes()
    part.write_bytes(whole[:-9])
    try:
        assert "item_graph" not in tables_of(night.root, DS)
        main(night)
        words = words_of(path_of(night.root, DS).read_text())
    finally:
        part.write_bytes(whole)
    assert "item_graph is damaged: found " in words and part.name in words
    assert "Not published" not in words


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        ({"promotions"}, "unknown The ledger is damaged, so"),
        ({"items"}, "not finished No model was decided on"),
    ],
)
def test_a_damaged_table_makes_the_headline_say_nothing_untrue(night, damaged, said):
    """The day was beyond its limit, and accepted: neither is it what stopped this night."""
    tables = {
        t: p for t, p in tables_of(night.root, DS).items() if t not in damaged | {"promotions"}
    }
    damage = dict.fromkeys(damaged, "found 2 bytes")
    page = page_of(night.root, DS, tables, night.settings, None, damage)
    assert f"{page.summary.state.text} {page.summary.sentence}".startswith(said)
    assert all(f"{table} is damaged: found 2 bytes." in page.summary.attention for table in damaged)


def test_tables_that_are_not_there_are_named_and_the_others_are_shown(night):
    absent = ("item_graph", "soft_targets", "scorecards", "promotions", "recommendations")
    tables = {t: p for t, p in tables_of(night.root, DS).items() if t not in absent}
    page = page_of(night.root, DS, tables, night.settings, None)
    assert [section.title for section in page.sections] == SECTIONS
    words = [words for section in page.sections for words in section.words]
    assert all(any(f"no {table} of the night" in w for w in words) for table in absent)
    assert page.summary.attention[-1] == f"Not published: {', '.join(absent)}."
    assert page.summary.state.text == "not finished"


def test_without_a_run_in_mlflow_the_page_says_that_there_are_no_curves(night):
    section = training(DS, tables_of(night.root, DS), None)
    no_curves = "There are no training curves: the night's run in MLflow is not there."
    assert (section.words, section.pictures) == ([no_curves], [])


def test_without_names_items_are_shown_by_their_ids(night):
    settings = Settings(report=ReportSettings(names="nowhere.parquet", num_users=1))
    section = users(night.root, tables_of(night.root, DS), settings)
    assert section.words[-1] == "Items are shown by their ids: there is no nowhere.parquet."
    (person,) = section.people
    assert person.history == ["1 × i1"]
    assert [name for name, _ in person.recommended] == ["i9", "i8", "i7"]


def test_a_file_of_names_that_has_none_is_an_error_that_says_what_it_has(night, tmp_path):
    pq.write_table(pa.table({"item_id": [1], "title": ["x"]}), tmp_path / "names.parquet")
    with pytest.raises(DataError, match=r"columns item_id, title .* expected item_id and name"):
        names_of(tmp_path / "names.parquet", {"1"})
    (tmp_path / "names.parquet").write_text("item_id,name")
    with pytest.raises(DataError, match="expected a Parquet file"):
        names_of(tmp_path / "names.parquet", {"1"})


def test_numeric_ids_have_names_too_and_an_empty_name_is_none(tmp_path):
    names = pa.table({"name": ["Milk", None, "Tea"], "item_id": [1, 2, 3]})
    pq.write_table(names, tmp_path / "names.parquet")
    assert names_of(tmp_path / "names.parquet", {"1", "2"}) == {"1": "Milk"}


def test_an_older_page_is_replaced_whole(tmp_path):
    write(tmp_path / "a" / "report.html", "old", "1")
    write(tmp_path / "a" / "report.html", "new", "2")
    assert [f.read_text() for f in (tmp_path / "a").iterdir()] == ["new"]


def test_a_day_without_health_is_plotted_from_its_interactions(night):
    days = health_days(night.root, DS, 28)
    assert [(day.value, day.verdict) for day in days["volume"]][-2:] == [(21, ""), (12, "beyond")]
    assert days["quarantine_rate"][0].value == pytest.approx(3 / 28)
    assert [day.ds for day in days["drift"]] == [DS]
    assert len(health_days(night.root, DS, 2)["volume"]) == 2
