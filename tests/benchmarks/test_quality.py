"""The quality benchmark on generated walks through twelve items, and its rules on literal data."""

import importlib
import json
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import quality_method, quality_scores, quality_search, quality_targets
from benchmarks.quality import main
from benchmarks.quality_cells import Cell, Gain, read_cells
from benchmarks.quality_data import DATA_SETS, DAY, DataSet, ordered_events
from benchmarks.quality_method import compare_settings
from benchmarks.quality_report import SUPERSEDED, _tally, build, with_recorded
from benchmarks.quality_roots import prepare, without_holdout
from benchmarks.quality_scores import Score, read_score, score
from benchmarks.quality_search import Trial, best_trials, read_trials, search, try_once
from benchmarks.quality_space import LOSSES, OWN, SHARED, next_changes, openings
from benchmarks.quality_targets import compare_targets
from benchmarks.report import Finding, surroundings
from schemas.command import Night
from schemas.errors import DataError, UsageError
from schemas.partitions import get
from schemas.publishing import new_token
from schemas.sequences import SEQUENCES
from schemas.settings import load
from trainer.backbones import BACKBONES

NUM_USERS, NUM_ITEMS = 60, 12
SETTINGS = {
    "events": {"history_days": 2},
    "split": {"protocol": "leave_one_out"},
    "items": {"min_support": 1},
    "training": {"targets": "all", "max_length": 5, "epochs": 2, "num_threads": 1},
    "evaluation": {"exclude_seen": False},
}
SEEDS = [1, 2]
BOTH_WAYS = "direction symmetric"


def walks(source, downloads):
    """Every user goes through the items in order, 6 to 10 of them."""
    return ordered_events(
        {f"u{u}": [f"i{(u + t) % NUM_ITEMS}" for t in range(6 + u % 5)] for u in range(NUM_USERS)}
    )


WALKS = DataSet("walks", DAY, walks, SETTINGS)


def run_here(module, ds, root, changes, settings_file):
    """Runs a stage in this process, which has a Spark session."""
    stage = importlib.import_module(module)
    settings = load(settings_file, {f"PENUMBRA_{key}": value for key, value in changes.items()})
    inputs = stage.STAGE.inputs(root, ds, settings)
    stage.main(Night(root, ds, settings, inputs, "", new_token(), 0.0))


def run_nothing(module, *arguments):
    raise AssertionError(f"{module} ran again")


@pytest.fixture(scope="module")
def root(spark, tmp_path_factory):
    """Prepared, searched with one trial of each loss and scored with two seeds."""
    root = tmp_path_factory.mktemp("quality")
    prepare(WALKS, root, root, run_here)
    search(WALKS, root, "mlp", LOSSES, 1, seed=7, run=run_nothing)
    score(WALKS, root, "mlp", LOSSES, SEEDS, run=run_nothing)
    return root


@pytest.fixture
def cell(root, monkeypatch):
    monkeypatch.setitem(DATA_SETS, "walks", WALKS)
    ((found,), refused) = read_cells(root)
    assert refused == []
    return found


def test_a_cell_whose_scoring_was_cut_short_is_left_out(root, tmp_path, monkeypatch):
    monkeypatch.setitem(DATA_SETS, "walks", WALKS)
    copy = shutil.copytree(root / "walks", tmp_path / "walks", symlinks=True)
    (file,) = copy.glob("scores/*soft_targets_alone*")
    file.unlink()
    cells, (reason,) = read_cells(tmp_path)
    assert cells == []
    assert reason.startswith("walks, mlp: found no score of the soft targets alone; expected")


def test_nothing_of_the_holdout_is_where_a_search_looks(root):
    night, sealed = (get(root / "walks" / f, SEQUENCES, DAY).read() for f in ("night", "sealed"))
    assert set(night["num_holdout"].to_pylist()) == {1}
    assert set(sealed["num_holdout"].to_pylist()) == {0}
    kept = [items[:-1] for items in night["item_indices"].to_pylist()]
    assert sealed["item_indices"].to_pylist() == kept
    times = [of_user[:-1] for of_user in night["event_times"].to_pylist()]
    assert sealed["event_times"].to_pylist() == times


def test_a_search_finds_the_same_where_the_holdout_is_gone(root, tmp_path):
    copy = shutil.copytree(root / "walks", tmp_path / "walks", symlinks=True)
    shutil.rmtree(copy / "night" / "tables" / "sequences")
    (copy / "trials.jsonl").unlink()
    search(WALKS, tmp_path, "mlp", LOSSES, 1, seed=7, run=run_nothing)
    found, before = (read_trials(home) for home in (copy, root / "walks"))
    assert [replace(t, seconds=0) for t in found] == [replace(t, seconds=0) for t in before]


def test_targets_that_look_ahead_know_the_next_step_of_a_walk(root, tmp_path, monkeypatch):
    choices = {"item_graph.direction": ("forward", "symmetric"), "item_graph.window": (1,)}
    choices |= {"soft_targets.top_k": (2,)}
    monkeypatch.setattr(quality_targets, "SOFT_TARGETS", choices)
    shutil.copytree(root / "walks", tmp_path / "walks", symlinks=True)
    table = compare_targets(WALKS, tmp_path, run_here)
    assert (tmp_path / "walks" / "targets.md").read_text() == table
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    forward, symmetric = ({row[0]: row for row in rows}[name] for name in ("(nothing)", BOTH_WAYS))
    assert float(forward[1]) > float(symmetric[1]) > 0
    assert float(forward[-1]) > float(symmetric[-1]) > 0


def test_actions_after_the_border_leave_with_their_times():
    rows = [
        {
            "user_id": name,
            "item_indices": items,
            "event_times": [datetime(2024, 1, 1 + n, tzinfo=UTC) for n in range(len(items))],
            "num_train": len(items) - held,
            "num_validation": 0,
            "num_holdout": held,
        }
        for name, items, held in (("ann", [1, 2, 3], 2), ("bob", [4, 5], 0))
    ]
    cut = without_holdout(pa.Table.from_pylist(rows, schema=SEQUENCES.schema))
    assert cut["item_indices"].to_pylist() == [[1], [4, 5]]
    assert [len(times) for times in cut["event_times"].to_pylist()] == [1, 2]


def test_recorded_trials_and_scores_are_not_made_again(root, monkeypatch):
    monkeypatch.setattr(quality_search, "train", run_nothing)
    before = (root / "walks" / "trials.jsonl").read_bytes()
    search(WALKS, root, "mlp", LOSSES, 1, seed=7, run=run_nothing)
    score(WALKS, root, "mlp", LOSSES, SEEDS, run=run_nothing)
    assert (root / "walks" / "trials.jsonl").read_bytes() == before


def test_the_model_that_a_search_trained_is_the_one_that_is_scored(root, tmp_path, monkeypatch):
    copy = shutil.copytree(root / "walks", tmp_path / "walks", symlinks=True)
    with monkeypatch.context() as patch:
        patch.setattr(quality_scores, "train", run_nothing)
        score(WALKS, tmp_path, "mlp", LOSSES, [7], run=run_nothing)
    files = list((copy / "scores").glob("mlp-*-7.npz"))
    kept = {file.name: read_score(file) for file in files}
    shutil.rmtree(copy / "models")
    for file in files:
        file.unlink()
    score(WALKS, tmp_path, "mlp", LOSSES, [7], run=run_nothing)
    assert len(kept) == len(LOSSES)
    for file in files:
        again, before = read_score(file), kept[file.name]
        assert again.facts | {"seconds": 0} == before.facts | {"seconds": 0}
        for name, values in before.values.items():
            np.testing.assert_array_equal(again.values[name], values)


def test_a_baseline_is_scored_by_itself_where_the_method_was_not_tried(root, tmp_path, capsys):
    copy = shutil.copytree(root / "walks", tmp_path / "walks", symlinks=True)
    shutil.rmtree(copy / "scores")
    lines = (copy / "trials.jsonl").read_text().splitlines()
    baseline = [line for line in lines if json.loads(line)["loss"] == "cross_entropy"]
    (copy / "trials.jsonl").write_text("".join(f"{line}\n" for line in baseline))
    score(WALKS, tmp_path, "mlp", ["cross_entropy"], [7], run=run_nothing)
    assert "walks mlp cross_entropy seed 7: holdout" in capsys.readouterr().out
    assert len(list((copy / "scores").iterdir())) == 1


def test_a_trial_of_another_space_is_refused(root, tmp_path):
    copy = shutil.copytree(root / "walks", tmp_path / "walks", symlinks=True)
    lines = (copy / "trials.jsonl").read_text()
    (copy / "trials.jsonl").write_text(lines.replace('"training.dropout"', '"training.old"'))
    with pytest.raises(UsageError, match="another trial 0 of mlp with cross_entropy"):
        search(WALKS, tmp_path, "mlp", LOSSES, 1, seed=7, run=run_nothing)


def test_a_training_that_explodes_is_a_trial_with_nothing(root, tmp_path, monkeypatch):
    def explode(*arguments):
        raise DataError("a loss of nan", "a number", "a lower rate")

    copy = shutil.copytree(root / "walks", tmp_path / "walks", symlinks=True)
    monkeypatch.setattr(quality_search, "train", explode)
    search(WALKS, tmp_path, "mlp", ["cross_entropy"], 1, seed=8, run=run_nothing)
    last = read_trials(copy)[-1]
    assert (last.seed, last.validation_ndcg_10) == (8, 0.0)
    assert "a loss of nan" in last.error


def test_an_interrupted_trial_is_not_resumed_with_other_settings(root, monkeypatch):
    used = []

    def be_interrupted(train_in, ds, settings, resume):
        used.append(resume)
        raise KeyboardInterrupt

    monkeypatch.setattr(quality_search, "train", be_interrupted)
    for dropout in (0.1, 0.2, 0.1):
        with pytest.raises(KeyboardInterrupt):
            key, changes = ("mlp", "cross_entropy", 9, 0), {"training.dropout": dropout}
            try_once(WALKS, root, key, changes, run_nothing)
    assert used[0] == used[2] != used[1]


def test_a_setting_that_is_overridden_makes_another_trial(root, monkeypatch):
    settings = WALKS.load_settings(root)
    plain = quality_search.equal_settings(WALKS, root, settings)
    monkeypatch.setenv("PENUMBRA_TRAINING__NUM_THREADS", "1")
    assert quality_search.equal_settings(WALKS, root, settings) == plain
    monkeypatch.setenv("PENUMBRA_TRAINING__WEIGHT_DECAY", "0.5")
    monkeypatch.setenv("PENUMBRA_ITEM_GRAPH__WINDOW", "3")
    overridden = {"item_graph.window": 3, "training.weight_decay": 0.5}
    found = quality_search.equal_settings(WALKS, root, settings)
    assert found == plain | {"overridden": overridden}
    with pytest.raises(UsageError, match="another trial 0 of mlp"):
        search(WALKS, root, "mlp", LOSSES, 1, seed=7, run=run_nothing)
    with pytest.raises(UsageError, match="other overridden of walks than its trials"):
        score(WALKS, root, "mlp", LOSSES, [8], run=run_nothing)


def test_settings_of_the_file_that_were_changed_since_the_first_trial_are_named(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "copy")
    file = WALKS.settings_file(copy)
    file.write_text(file.read_text().replace("[training]", "[training]\nclip_norm = 3.5"))
    for again in (partial(search, num_trials=1, seed=7), partial(score, seeds=[8])):
        with pytest.raises(UsageError, match=r"training.clip_norm = 3.5 instead of \d"):
            again(WALKS, copy, "mlp", LOSSES, run=run_nothing)


def test_no_new_round_begins_when_the_time_is_over(root):
    search(WALKS, root, "mlp", LOSSES, 2, seed=7, hours=0.0, run=run_nothing)
    assert len(read_trials(root / "walks")) == len(LOSSES)


def test_the_report_has_the_numbers_of_the_files(root, cell, capsys):
    assert main(["report", "--root", str(root), "--to", str(root / "results")]) == 0
    report = json.loads((root / "results" / "quality.json").read_text())
    *of_losses, of_targets = report["runs"]
    assert of_targets["loss"] == "soft_targets_alone"
    assert of_targets["means"]["ndcg@10"] == 1  # the next step of a walk is certain
    for run in of_losses:
        pattern = f"mlp-{run['loss']}-*.npz"
        scores = [read_score(file) for file in (root / "walks" / "scores").glob(pattern)]
        assert len(scores) == len(SEEDS)
        mean = np.mean([one.values["all/ndcg@10"] for one in scores], dtype=np.float64)
        assert run["means"]["ndcg@10"] == pytest.approx(mean, abs=1e-9)
        (tried,) = [t for t in read_trials(root / "walks") if t.loss == run["loss"]]
        assert run["trials"] == [asdict(tried)]
        assert f"| {run['loss']} | {mean:.4f} |" in (root / "results" / "quality.md").read_text()
    assert "provisional: 2 seeds, 1 trial" in report["findings"][0]["what"]
    text = (root / "results" / "quality.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| walks, mlp | 0")]
    means = [f"{run['means']['ndcg@10']:.4f}" for run in report["runs"]]
    gains = [f"{report['findings'][n]['value']:+.1f}%" for n in (0, 1)]
    cells = row.strip("| ").split(" | ")
    assert (cells[1:5], cells[7:]) == (means, ["2", "1"])
    assert [cell.split(" ")[0] for cell in cells[5:7]] == gains
    gains = [one for one in report["findings"] if one["on"] != "all"]
    compared = [one["what"].split(":")[0] for one in gains]
    assert [what.split(", ", 1)[1] for what in compared] == [
        "ndcg@10",
        "recall@10",
        "ndcg@10 of items new to the user",
        "recall@10 of items new to the user",
        "ndcg@10 of items new to the user",
        "recall@10 of items new to the user",
    ]
    assert [what.split(",")[0] for what in compared[4:]] == [
        "decoupled against soft_targets_alone"
    ] * 2


def test_a_report_keeps_the_cells_that_only_an_earlier_one_has(root, cell, tmp_path):
    arguments = ["report", "--root", str(root), "--to", str(tmp_path)]
    assert main(arguments) == 0
    file = tmp_path / "quality.json"
    alone = json.loads(file.read_text())
    file.write_text(file.read_text().replace('"walks, mlp"', '"beauty, sasrec"'))
    assert main(arguments) == 0
    both = json.loads(file.read_text())
    names = ("walks, mlp", "beauty, sasrec")
    for part in ("findings", "runs"):
        new, old = ([row for row in both[part] if row["on"] == name] for name in names)
        assert new == [row for row in alone[part] if row["on"] == "walks, mlp"]
        assert [row | {"on": "walks, mlp"} for row in old] == new
    assert both["findings"][0]["on"] == "beauty, sasrec"
    tallies = [
        next(one["ours"] for one in found["findings"] if one["on"] == "all")
        for found in (alone, both)
    ]
    assert [tally[1:] for tally in tallies] == [" of 1", " of 2"]
    assert main(arguments) == 0
    assert json.loads(file.read_text()) == both


def test_what_an_earlier_report_has_already_keeps_its_date(root, cell, tmp_path):
    arguments = ["report", "--root", str(root), "--to", str(tmp_path)]
    assert main(arguments) == 0
    file = tmp_path / "quality.json"
    first = json.loads(file.read_text())
    first["runs"][0]["date"] = first["runs"][1]["date"] = "2024-02-29"
    first["runs"][1]["num_trials"] = 0
    file.write_text(json.dumps(first))
    assert main(arguments) == 0
    dates = [run["date"] for run in json.loads(file.read_text())["runs"]]
    assert dates[0] == "2024-02-29" and "2024-02-29" not in dates[1:]


def test_the_tally_tells_wins_of_enough_seeds_from_provisional_ones():
    def finding(what, value):
        return Finding("beauty, sasrec", f"decoupled against {what}", "0.2", "0.1", value, "%")

    wins, sure_wins, gain, sure_gain = _tally(
        [
            finding("label_smoothing, ndcg@10: win (+1.0% to +2.0%, provisional: 1 seed)", 3.0),
            finding("cross_entropy, ndcg@10: win (+1.0% to +2.0%)", 20.0),
            finding("cross_entropy, ndcg@10: loss (-2.0% to -1.0%)", -8.0),
            finding("cross_entropy, recall@10: win (+1.0% to +2.0%)", 100.0),
        ]
    )
    assert (wins.ours, wins.other) == ("2 of 3", "1 lost")
    assert (sure_wins.ours, sure_wins.other, sure_wins.is_reached) == ("1 of 2", "1 lost", False)
    assert (gain.value, gain.is_reached) == (5.0, None)
    assert (sure_gain.value, sure_gain.is_reached) == (6.0, None)


def test_what_is_recorded_of_a_cell_at_work_says_so_and_does_not_count(root, cell, tmp_path):
    arguments = ["report", "--root", str(root), "--to", str(tmp_path)]
    assert main(arguments) == 0
    file = tmp_path / "quality.json"
    file.write_text(file.read_text().replace('"walks, mlp"', '"beauty, sasrec"'))
    found = build([cell], surroundings("report", ()))
    for _ in range(2):  # said once, however often it is reported
        merged = with_recorded(found, tmp_path, ["beauty, sasrec"])
        merged.write(tmp_path)
    gains = [one for one in merged.findings if one.on == "beauty, sasrec"]
    assert [one.what.count(SUPERSEDED) for one in gains] == [1] * len(gains)
    (wins, *_) = [one for one in merged.findings if one.on == "all"]
    assert wins.ours.endswith(" of 1")
    rows = merged.cell_rows()
    assert [row[0] for row in rows] == ["beauty, sasrec", "walks, mlp"]
    assert rows[0][5].endswith(", superseded") and "superseded" not in rows[1][5]


def test_a_gain_over_the_other_baseline_says_over_which(cell):
    report = build([cell], {"date": "2024-02-29"})
    other = {"cross_entropy": "label_smoothing", "label_smoothing": "cross_entropy"}
    (run,) = [run for run in report.runs if run["loss"] == other[cell.opponent("ndcg@10")]]
    assert ", over" not in report.cell_rows()[0][5]
    run["means"]["ndcg@10"] = 1.0
    opponent = cell.opponent("ndcg@10").replace("_", " ")
    assert report.cell_rows()[0][5].endswith(f", over {opponent}")


def test_a_cell_with_unequal_budgets_is_left_out(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(DATA_SETS, "walks", WALKS)
    copy = shutil.copytree(root / "walks", tmp_path / "walks", symlinks=True)
    search(WALKS, tmp_path, "mlp", ["cross_entropy"], 2, seed=7, run=run_nothing)
    assert len(read_trials(copy)) == len(LOSSES) + 1
    assert main(["report", "--root", str(tmp_path), "--to", str(tmp_path / "results")]) == 64
    assert "2 trials of cross_entropy, 1 trials of label_smoothing" in capsys.readouterr().err


def trial(loss, number=0, validation=0.1, **changes):
    return Trial("mlp", loss, 7, number, {}, {"epochs": 2} | changes, validation, 1, 2, 3.0)


def test_the_best_trial_is_that_of_validation():
    trials = [trial("a"), trial("a", 1, 0.3), trial("a", 2, 0.2)]
    assert best_trials(trials, "mlp", ["a"])["a"].number == 1


def test_losses_with_other_epochs_are_not_compared():
    with pytest.raises(UsageError, match="different budgets"):
        best_trials([trial("a"), trial("b", epochs=3)], "mlp", ["a", "b"])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_search_starts_from_the_first_choices_and_goes_on_near_the_best(loss):
    choices = SHARED | OWN[loss]
    start = openings(choices, {}, None)
    first = next_changes(loss, 1, [], choices, start)
    assert first == {name: values[0] for name, values in choices.items()}
    tried = [(first, 0.1), ({name: values[-1] for name, values in choices.items()}, 0.3)]
    best = tried[1][0]
    for _ in range(8):
        drawn = next_changes(loss, 1, tried, choices, start)
        assert drawn not in [changes for changes, _ in tried]
        changed = [name for name in choices if drawn[name] != best[name]]
        assert len(changed) in (1, 2)
        assert all(drawn[name] in choices[name] for name in changed)
        tried.append((drawn, 0.2))


def test_every_loss_begins_with_every_number_of_epochs():
    choices = {"training.epochs": (16, 8, 4), "training.dropout": (0.2, 0.4)}
    first = openings(choices, {"training.epochs": 8}, None)
    assert first == [{"training.epochs": n, "training.dropout": 0.2} for n in (8, 16, 4)]
    tried = []
    for expected in first:
        assert next_changes("decoupled", 1, tried, choices, first) == expected
        tried.append((expected, 0.1))
    assert next_changes("decoupled", 1, tried, choices, first)["training.dropout"] == 0.4


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", ["diginetica", "ml1m", "music30"])
def test_every_loss_is_tried_at_the_rate_and_dropout_of_beautys_baselines_too(name, backbone):
    beauty = DATA_SETS["beauty"].space(backbone, "cross_entropy")[1][0]
    for loss in LOSSES:
        choices, (first, second) = DATA_SETS[name].space(backbone, loss)
        shared = {setting: beauty[setting] for setting in SHARED}
        assert second == first | shared != first
        assert all(second[setting] in values for setting, values in choices.items())


def test_a_search_begins_with_something_that_it_may_choose():
    for data, backbone, loss in product(DATA_SETS.values(), BACKBONES, LOSSES):
        choices, start = data.space(backbone, loss)
        for first in start:
            assert first.keys() == choices.keys()
            assert all(first[name] in values for name, values in choices.items())


def test_a_search_that_has_tried_all_says_so():
    choices = {"training.dropout": (0.1, 0.2)}
    tried = [({"training.dropout": value}, 0.1) for value in (0.1, 0.2)]
    with pytest.raises(UsageError, match="nothing new"):
        next_changes("cross_entropy", 1, tried, choices, [])


def test_gain_is_against_the_better_baseline_paired_over_users(cell):
    def scores(*values):
        found = np.array(values, np.float32)
        return [Score({"num_users": 4}, {"all/ndcg@10": found, "all/recall@10": 0.5 - found})]

    found = {
        "cross_entropy": scores(0.2, 0.2, 0.2, 0.2),
        "label_smoothing": scores(0.4, 0.4, 0.4, 0.4),
        "decoupled": scores(0.5, 0.5, 0.5, 0.3),
    }
    literal = Cell(cell.data, "mlp", cell.trials, cell.tried, found)
    assert literal.opponent("recall@10") == "cross_entropy"
    assert literal.opponent("ndcg@10") == "label_smoothing"
    gain = Gain(literal, "ndcg@10", "label_smoothing", "all")
    assert gain.relative == pytest.approx(0.125)
    assert gain.users == (3, 1)
    assert gain.verdict == "open"
    better = Cell(
        cell.data, "mlp", cell.trials, cell.tried, found | {"decoupled": scores(*[0.5] * 4)}
    )
    assert Gain(better, "ndcg@10", better.opponent("ndcg@10"), "all").verdict == "win"


def test_settings_of_the_method_are_compared_one_at_a_time_and_not_trained_again(
    root, tmp_path, monkeypatch
):
    monkeypatch.setattr(quality_method, "SETTINGS", {"training.lambda2": (0.3, 0.9)})
    shutil.copytree(root / "walks", tmp_path / "walks", symlinks=True)
    table = compare_settings(WALKS, tmp_path, "mlp", run_nothing)
    start, other, together = table.splitlines()[2:]
    assert start.startswith("| (nothing), mean of 3 seeds | 0.")
    assert other.startswith("| lambda2 0.9 | 0.")
    assert together.startswith("| gamma 0.0, beta 0.5 | 0.")
    trials = read_trials(tmp_path / "walks", quality_method.FILE)
    assert [(t.seed, t.changes["training.lambda2"]) for t in trials] == [
        *((seed, 0.3) for seed in (1, 2, 3)),
        (1, 0.9),
        (1, 0.3),
    ]
    values = [t.validation_ndcg_10 for t in trials]
    assert f"| {np.mean(values[:3]):.4f} |" in start
    assert f"| {values[3]:.4f} | {values[3] / values[0] - 1:+.1%} |" in other
    monkeypatch.setattr(quality_method, "try_once", run_nothing)
    assert compare_settings(WALKS, tmp_path, "mlp", run_nothing) == table
