import io
import json
import shutil
import time
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from demo.report import digests, show_night, show_reports, show_user
from schemas.health import HEALTH
from schemas.interactions import INTERACTIONS
from schemas.items import ITEMS
from schemas.promotions import PROMOTIONS
from schemas.publishing import draft, new_token, publish
from schemas.recommendations import RECOMMENDATIONS
from schemas.scorecards import SCORECARDS
from schemas.sequences import SEQUENCES

DS = date(2017, 10, 31)
NOON = datetime(2017, 10, 31, 12, tzinfo=UTC)
NOTES = {
    "events": 9,
    "quarantine": 4,
    "duplicates": 3,
    "reasons": {"null_user": 3, "bad_weight": 1},
}
PLUM, PEAR = (
    {"item_index": n, "item_id": i, "support": 1, "first_seen": NOON, "last_seen": NOON}
    for n, i in ((1, "11"), (2, "22"))
)
VOLUME = {
    "metric": "volume",
    "value": 3616.0,
    "usual": 3690.0,
    "at_least": 1845.0,
    "at_most": 7380.0,
    "verdict": "within",
    "num_days": 4,
}
DRIFT = VOLUME | {"metric": "drift", "value": None, "usual": None, "verdict": "not_judged"}
DECISION = {
    "decided_at": NOON,
    "candidate_version": 2,
    "candidate_digest": "c",
    "champion_version": 1,
    "outcome": "hold",
    "verdict": "hold",
    "mode": "enforce",
    "reason": "floor: 0.0012 is below 0.005",
    "rules": json.dumps(
        [
            {"rule": "floor", "result": "failed", "about": "ndcg@10 is 0.0012"},
            {"rule": "new_users", "result": "not judged", "about": "3 users"},
        ]
    ),
    "holdout_digest": "h",
    "scorecards_digest": "s",
}


def action(item: str) -> dict:
    at = {"user_id": "7", "item_id": item, "event_time": NOON, "event_type": ""}
    return at | {"weight": 1.0}


def history(user_id: str, items: list[int]) -> dict:
    return {
        "user_id": user_id,
        "item_indices": items,
        "event_times": [NOON] * len(items),
        "num_train": len(items),
        "num_validation": 0,
        "num_holdout": 0,
    }


def card(model: str, exclude_seen: bool, metric: str, value: float) -> dict:
    return {
        "model": model,
        "model_digest": "",
        "exclude_seen": exclude_seen,
        "metric": metric,
        "value": value,
        "num_users": 1135 if exclude_seen else 1220,
        "holdout_digest": "h",
        "user_values": [value],
    }


@pytest.fixture
def root(tmp_path, publish_rows):
    """A night of literal tables."""
    run = draft(tmp_path, INTERACTIONS, DS, new_token())
    run.write(pa.Table.from_pylist([action("11"), action("22")], schema=INTERACTIONS.schema))
    run.notes |= NOTES
    publish(run, DS)
    publish_rows(HEALTH, [DRIFT, VOLUME])
    publish_rows(ITEMS, [PLUM, PEAR])
    publish_rows(SEQUENCES, [history("7", [1, 2, 2, 1, 2]), history("8", [1])])
    cards = [card("candidate", True, "ndcg@10", 0.0012), card("popularity", False, "ndcg@10", 0.13)]
    publish_rows(SCORECARDS, cards)
    publish_rows(PROMOTIONS, [DECISION])
    advice = {"user_id": "7", "rank": 1, "item_id": "11", "score": 0.5, "model_version": 1}
    publish_rows(RECOMMENDATIONS, [advice, advice | {"rank": 2, "item_id": "99"}])
    (tmp_path / "catalogue").mkdir()
    names = pa.table({"item_id": ["11", "22"], "name": ["Plums", "Pears"]})
    pq.write_table(names, tmp_path / "catalogue" / "products.parquet")
    return tmp_path


def screen_of(show, root, *more) -> str:
    screen = io.StringIO()
    show(root, DS, *more, Console(file=screen, width=160))
    return screen.getvalue()


def test_every_row_of_the_day_is_accounted_for(root):
    assert (
        "9 events = 2 interactions + 3 duplicates + 4 in quarantine (3 null_user, 1 bad_weight)"
        in screen_of(show_night, root)
    )


def test_health_is_shown_beside_what_is_usual_and_what_was_not_judged_says_so(root):
    line = "Health: drift – not judged, volume 3,616 (usually 3,690)"
    assert line in screen_of(show_night, root)


def test_models_stand_beside_the_baselines_and_what_was_not_scored_is_a_dash(root):
    lines = screen_of(show_night, root).splitlines()
    (candidate,) = (line for line in lines if "candidate" in line)
    (popularity,) = (line for line in lines if "popularity" in line)
    assert candidate.replace("│", " ").split() == ["candidate", "–", "0.0012", "–", "–"]
    assert popularity.replace("│", " ").split() == ["popularity", "–", "–", "–", "0.1300"]
    assert any("1,135 users" in line and "1,220 users" in line for line in lines)


def test_the_gates_decision_stands_there_with_its_reason_and_the_champion(root):
    screen = screen_of(show_night, root)
    assert "Gate: hold version 2 (champion was version 1)" in screen
    assert "  failed      floor: ndcg@10 is 0.0012\n" in screen
    assert "  not judged  new_users: 3 users\n" in screen
    assert "because floor: 0.0012 is below 0.005" in screen
    assert "Champion: version 1" in screen


def test_a_night_that_was_held_before_anything_served_is_shown_as_far_as_it_went(root):
    shutil.rmtree(root / "tables" / "recommendations")
    screen = screen_of(show_night, root)
    assert "Gate: hold version 2" in screen and "0.0012" in screen
    assert "Champion" not in screen
    screen = io.StringIO()
    show_night(root, DS, Console(file=screen), since=time.time_ns())
    assert screen.getvalue() == ""  # nothing of before a night that failed is shown as its result


def test_a_dry_run_of_the_gate_says_so(root, publish_rows):
    publish_rows(PROMOTIONS, [DECISION | {"mode": "dry_run", "verdict": "promote"}])
    assert "Gate (dry run): hold version 2" in screen_of(show_night, root)


def test_a_user_is_shown_by_product_names_most_often_first(root):
    lines = screen_of(show_user, root, "catalogue/products.parquet").splitlines()
    assert "User 7 on 2017-10-31: 5 actions" in lines[1]
    (first,) = (line for line in lines if "3 × Pears" in line)
    (second,) = (line for line in lines if "2 × Plums" in line)
    assert "1. Plums (seen before)" in first
    assert "2. 99" in second
    assert lines.index(first) < lines.index(second)


def test_without_names_a_user_is_shown_by_ids(root):
    for no_file in ("", "absent.parquet"):
        assert "3 × 22" in screen_of(show_user, root, no_file)


def test_the_nights_pages_are_named_where_there_are_some(root, monkeypatch):
    monkeypatch.chdir(root)
    (root / "reports" / "ds=2017-10-31").mkdir(parents=True)
    (root / "reports" / "ds=2017-10-31" / "report.html").touch()
    screen = io.StringIO()
    show_reports(root, [date(2017, 10, 30), DS], Console(file=screen, width=160))
    assert screen.getvalue().split("\n") == [
        "",
        "Report of 2017-10-31: reports/ds=2017-10-31/report.html",
        "",
    ]


def test_digests_tell_whether_anything_was_published_anew(root, publish_rows):
    before = digests(root, [DS])
    assert len(before) == 7
    publish_rows(ITEMS, [PLUM, PEAR])
    assert digests(root, [DS]) == before
    publish_rows(ITEMS, [PLUM])
    assert digests(root, [DS]) != before


def test_what_awaits_a_person_says_so(root, publish_rows):
    publish_rows(PROMOTIONS, [DECISION | {"outcome": "awaiting"}])
    screen = screen_of(show_night, root)
    assert "Gate: awaiting version 2 (champion was" in screen
    assert "awaiting approval: a person answers in Airflow, under Required Actions" in screen


def test_what_looks_like_markup_in_names_and_reasons_is_shown_as_it_is(root, publish_rows):
    names = pa.table({"item_id": ["11", "22"], "name": ["Plums [/b]", "Adapter [usb-c]"]})
    pq.write_table(names, root / "catalogue" / "products.parquet")
    screen = screen_of(show_user, root, "catalogue/products.parquet")
    assert "Plums [/b]" in screen and "3 × Adapter [usb-c]" in screen
    publish_rows(PROMOTIONS, [DECISION | {"reason": "held by me: [/see ticket]"}])
    assert "because held by me: [/see ticket]" in screen_of(show_night, root)


def test_a_damaged_table_is_as_good_as_none_before_its_night_runs_again(root):
    before = digests(root, [DS])
    next(root.glob("tables/items/v1/ds=*/run=*/part-*.parquet")).unlink()
    assert before.keys() - digests(root, [DS]).keys() == {("items", "2017-10-31")}
