"""Every rival of the graph benchmark counts and spreads what our stages publish."""

from types import SimpleNamespace

import numpy as np
import pytest
from implicit.utils import ParameterWarning
from scipy import sparse

from benchmarks import graph_rivals, spark_rivals
from benchmarks.contenders import GRAPH, ITEM_SEEDS, SOFT, WHOLE_HISTORY, Contender, Timing
from benchmarks.generated_events import DS, World, generate
from benchmarks.graph import COMPARISONS, compare, contenders, measure, parse
from benchmarks.graph_report import Report, millions
from benchmarks.report import Finding
from benchmarks.scipy_propagation import propagate_all
from jobs import item_graph, soft_targets
from schemas.command import Night
from schemas.item_graph import ITEM_GRAPH
from schemas.partitions import get
from schemas.publishing import new_token
from schemas.settings import Settings
from schemas.soft_targets import SOFT_TARGETS

UNCUT = 1000
"""A top_k above the number of items."""
GRAPH_SETTINGS = {"top_k": UNCUT, "window": 4}
WHOLE = {"top_k": UNCUT, "window": 1000, "position_decay": 1.0}
SPREADING = {"user_seeds": False, "alpha": 0.3, "tolerance": 1e-7, "top_k": UNCUT}


def publish_stage(stage, root, **sections):
    """Runs a stage's `main` under a root with these settings; returns the settings."""
    settings = Settings.model_validate(sections)
    stage.main(Night(root, DS, settings, [], "", new_token(), 0.0))
    return settings


@pytest.fixture(scope="module")
def world(spark, tmp_path_factory):
    """20,000 generated interactions, their graph and its soft targets, none of it cut."""
    root = tmp_path_factory.mktemp("bench")
    items, sequences = generate(root, World(20_000, users_per_group=150))
    sections = {"item_graph": GRAPH_SETTINGS, "soft_targets": SPREADING}
    for stage in (item_graph, soft_targets):
        settings = publish_stage(stage, root, **sections)
    graph, soft = (get(root, contract, DS) for contract in (ITEM_GRAPH, SOFT_TARGETS))
    return SimpleNamespace(
        root=root, items=items, sequences=sequences, graph=graph, soft=soft, settings=settings
    )


def dense(rows, columns, values, num_items):
    shape = (num_items + 1, num_items + 1)
    return sparse.coo_array((values, (rows, columns)), shape=shape).toarray()


def edges(partition, column, num_items):
    rows = partition.read(["item_index", "neighbour_index", column])
    return dense(*(values.to_numpy() for values in rows.columns), num_items)


def masses(partition, items):
    index = dict(
        zip(*(items.read()[n].to_pylist() for n in ("item_id", "item_index")), strict=True)
    )
    found = np.zeros((len(index) + 1, len(index) + 1))
    for row in partition.read().to_pylist():
        found[index[row["seed_id"]], row["item_indices"]] = row["masses"]
    return found


def test_spark_self_join_counts_the_published_pairs(world, spark):
    num_items = world.items.manifest.rows
    counted = spark_rivals.count_pairs(spark, world.sequences, world.settings.item_graph).toArrow()
    assert counted.num_rows * 2 == world.graph.manifest.rows
    upper = dense(*(counted[n].to_numpy() for n in counted.column_names), num_items)
    expected = edges(world.graph, "pair_weight", num_items)
    np.testing.assert_allclose(upper + upper.T, expected, rtol=1e-6)


def test_scipy_counts_the_published_pairs(world):
    num_items = world.items.manifest.rows
    upper = graph_rivals.count_pairs(world.sequences, num_items, world.settings.item_graph)
    assert upper.nnz * 2 == world.graph.manifest.rows
    expected = edges(world.graph, "pair_weight", num_items)
    np.testing.assert_allclose((upper + upper.T).toarray(), expected, rtol=1e-6)


def test_implicit_weighs_the_published_edges_of_whole_histories(world, spark, tmp_path):
    items, sequences = generate(tmp_path, World(20_000, users_per_group=150))
    publish_stage(item_graph, tmp_path, item_graph=WHOLE)
    num_items = items.manifest.rows
    expected = edges(get(tmp_path, ITEM_GRAPH, DS), "weight", num_items)
    with pytest.warns(ParameterWarning, match="expects CSR"):  # implicit makes it a COO itself
        found = graph_rivals.implicit_cosine(sequences, num_items, UNCUT, num_threads=2).toarray()
    np.fill_diagonal(found, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_spark_joins_spread_the_published_masses(world, spark):
    num_items = world.items.manifest.rows
    num_iterations = len(world.soft.manifest.notes["iterations"])
    spread = spark_rivals.propagate(
        spark, world.graph, world.items, world.settings.soft_targets, num_iterations
    ).toArrow()
    found = dense(*(spread[n].to_numpy() for n in ("seed", "item", "mass")), num_items)
    np.testing.assert_allclose(found, masses(world.soft, world.items), atol=1e-6)


def test_scipy_products_spread_the_published_masses(world):
    num_items = world.items.manifest.rows
    found = propagate_all(world.graph.files, num_items, world.settings.soft_targets).toarray()
    np.testing.assert_allclose(found, masses(world.soft, world.items), atol=1e-6)


def test_scipy_products_prune_as_the_stage_does(world, tmp_path):
    items, _ = generate(tmp_path, World(20_000, users_per_group=150))
    pruned = {"user_seeds": False, "top_k": 20}
    publish_stage(item_graph, tmp_path)
    settings = publish_stage(soft_targets, tmp_path, soft_targets=pruned).soft_targets
    graph, soft = (get(tmp_path, contract, DS) for contract in (ITEM_GRAPH, SOFT_TARGETS))
    found = propagate_all(graph.files, items.manifest.rows, settings).toarray()
    assert (found > 0).sum(axis=1).max() == 20
    np.testing.assert_allclose(found, masses(soft, items), atol=1e-6)


def test_whole_histories_go_first_and_ours_alternate_with_rivals():
    at_5 = contenders(5, COMPARISONS, is_scaling=True)
    assert at_5 == [
        WHOLE_HISTORY,
        Contender("implicit"),
        GRAPH,
        Contender("spark_join"),
        Contender("scipy_counts"),
        ITEM_SEEDS,
        Contender("scipy_propagation"),
    ]
    assert contenders(20, [], is_scaling=True) == [GRAPH, SOFT]


def test_start_up_counts_where_the_comparison_says_so():
    (at_5, at_20) = (c for c in COMPARISONS if c.rival == "scipy_counts")
    found = {GRAPH: [Timing(14.0, 6.0)] * 3, Contender("scipy_counts"): [Timing(9.0, 8.0)] * 3}
    assert compare(at_5, found, 5).value == 6 / 8
    assert compare(at_20, found, 20).value == 14 / 8


def test_only_the_whole_benchmark_may_change_the_published_results(tmp_path):
    whole = ["--root", str(tmp_path)]
    assert parse(whole).results.parts[-2:] == ("benchmarks", "results")
    parts = (["--sizes", "5"], ["--rivals", "implicit"], ["--scale", "0.1"], ["--repetitions", "1"])
    assert {parse([*whole, *part]).results for part in parts} == {tmp_path / "results"}


def test_a_report_says_what_was_reached_and_what_was_missed(tmp_path):
    findings = [
        Finding(millions(5_000_000), "a", "2.0 s", "12.0 s", 6.0, "× as fast", 5.0, is_floor=True),
        Finding(millions(5_000_000), "b", "4.0 s", "2.0 s", 2.0, "× its time", 1.5),
        Finding(millions(20_000_000), "c", "7.00 GB", "", 7.0, " GB"),
    ]
    about = {"command": "x", "date": "2017-10-31", "machine": {"cores": 2}, "versions": {"y": "1"}}
    runs = [{"num_interactions": 5_000_000, "contender": "a", "wall": [2.0], "work": [1.5]}]
    Report(about, findings, runs).write(tmp_path)
    lines = (tmp_path / "graph.md").read_text().splitlines()
    assert lines[2] == "`x` on 2017-10-31: 2 cores; y 1."
    assert lines[6:9] == [
        "| 5M | a | 2.0 s | 12.0 s | 6.00× as fast | ≥ 5× as fast | pass |",
        "| 5M | b | 4.0 s | 2.0 s | 2.00× its time | ≤ 1.5× its time | miss |",
        "| 20M | c | 7.00 GB |  | 7.00 GB |  |  |",
    ]
    assert lines[-1] == "| 5M | a | 2.0 (1.5) |"


def test_a_slow_rival_runs_once_and_ours_every_time(tmp_path, monkeypatch):
    monkeypatch.setattr(Contender, "run", lambda contender, root: Timing(601.0, 600.0))
    found = measure(tmp_path, [GRAPH, Contender("spark_join")], 3)
    assert [len(timings) for timings in found.values()] == [3, 1]
