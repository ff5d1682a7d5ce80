from datetime import date

import pyarrow as pa
import pytest

from schemas.checkpoints import CHECKPOINTS
from schemas.errors import DataError, MissingInputError, RegistryError, UsageError
from schemas.publishing import draft, new_token, publish
from schemas.scorecards import SCORECARDS
from schemas.settings import Settings
from trainer.registry import TAG, Registry
from trainer.sheets import pair_of, sheets_of

FIRST, SECOND = date(2017, 10, 30), date(2017, 10, 31)


@pytest.fixture
def publish_night(publish_rows):
    """Publishes one metric of some models of a night, by name and weights."""

    def publish_night(ds, models):
        card = {"exclude_seen": True, "metric": "ndcg@10", "value": 0.5, "num_users": 1}
        card |= {"holdout_digest": f"holdout of {ds}", "user_values": [0.5]}
        rows = [card | {"model": m, "model_digest": models[m]} for m in sorted(models)]
        return publish_rows(SCORECARDS, rows, ds)

    return publish_night


@pytest.fixture
def nights(publish_night):
    """Weights 1 are the first night's candidate and the second night's champion."""
    publish_night(FIRST, {"candidate": "weights-1", "popularity": ""})
    publish_night(SECOND, {"candidate": "weights-2", "champion": "weights-1", "popularity": ""})


@pytest.fixture
def version_of(registry):
    """Registers a version with these weights, as from a training run."""

    def version_of(weights, run_id=None):
        names = [model.name for model in registry.client.search_registered_models()]
        if registry.name not in names:
            registry.client.create_registered_model(registry.name)
        facts = {"weights_sha256": weights, "ds": "2017-10-30", "trained_until": "2017-10-23"}
        tags = {TAG + name: value for name, value in facts.items()}
        made = registry.client.create_model_version(registry.name, "source", run_id, tags)
        return f"version:{made.version}"

    return version_of


@pytest.fixture
def run_of(registry):
    """The id of a training run of the first night."""

    def run_of(tags):
        experiment = registry.client.get_experiment_by_name("penumbra").experiment_id
        return registry.client.create_run(experiment, tags=tags).info.run_id

    return run_of


def publish_checkpoint(root, weights, run_id):
    row = dict.fromkeys(CHECKPOINTS.columns, "")
    row |= {"weights_sha256": weights, "num_items": 1, "trained_until": FIRST}
    row |= {"best_epoch": 1, "validation_ndcg_10": 0.5}
    run = draft(root, CHECKPOINTS, FIRST, new_token())
    run.write(pa.Table.from_pylist([row], schema=CHECKPOINTS.schema))
    run.notes["mlflow_run_id"] = run_id
    publish(run, FIRST)


def names(sheets):
    return [sheet.name for sheet in sheets]


def test_a_night_and_a_model_name_its_scorecards(registry, nights):
    assert names(sheets_of("2017-10-31:popularity", registry)) == ["2017-10-31:popularity"]


def test_a_version_is_found_wherever_it_was_scored_newest_first(registry, nights, version_of):
    found = sheets_of(version_of("weights-1"), registry)
    assert names(found) == ["2017-10-31:champion", "2017-10-30:candidate"]


def test_a_damaged_night_is_left_out_and_named_only_where_nothing_else_is_found(
    registry, nights, version_of
):
    (part,) = sheets_of("2017-10-30:candidate", registry)[0].partition.files
    part.write_bytes(part.read_bytes()[:-1])
    assert names(sheets_of(version_of("weights-1"), registry)) == ["2017-10-31:champion"]
    with pytest.raises(MissingInputError, match=r"\(damaged and not looked at: 2017-10-30\)"):
        sheets_of(version_of("weights-9"), registry)


def test_looking_for_a_version_makes_no_registry(tmp_path, nights):
    registry = Registry(tmp_path, Settings())
    with pytest.raises(UsageError, match=r"found no registry under .*; fix: --root"):
        sheets_of("version:1", registry)
    assert not (tmp_path / "mlflow").exists()


def test_two_versions_meet_on_the_night_that_scored_both(registry, nights, version_of):
    older, newer = version_of("weights-1"), version_of("weights-2")
    pair = pair_of(sheets_of(older, registry), sheets_of(newer, registry))
    assert names(pair) == ["2017-10-31:champion", "2017-10-31:candidate"]


def test_a_version_meets_scorecards_of_an_older_night(registry, nights, version_of):
    version = sheets_of(version_of("weights-1"), registry)
    pair = pair_of(version, sheets_of("2017-10-30:popularity", registry))
    assert names(pair) == ["2017-10-30:candidate", "2017-10-30:popularity"]


def test_models_of_two_holdouts_are_an_error(registry, nights):
    sheets = [sheets_of(f"{ds}:candidate", registry) for ds in (FIRST, SECOND)]
    with pytest.raises(DataError, match=r"10-30:candidate on holdout .*; expected both models on"):
        pair_of(*sheets)


def test_a_run_stands_for_the_weights_of_its_checkpoint(registry, nights, run_of):
    run_id = run_of({"penumbra.ds": str(FIRST)})
    publish_checkpoint(registry.root, "weights-1", run_id)
    assert names(sheets_of(run_id, registry))[0] == "2017-10-31:champion"


def test_a_run_whose_night_was_trained_again_stands_for_its_version(
    registry, nights, run_of, version_of
):
    run_id = run_of({"penumbra.ds": str(FIRST)})
    publish_checkpoint(registry.root, "weights-9", "another run")
    version_of("weights-2")
    version_of("weights-1", run_id)
    assert names(sheets_of(run_id, registry))[0] == "2017-10-31:champion"


def test_two_trainings_of_one_night_meet_where_each_was_evaluated(
    registry, publish_night, run_of, tmp_path
):
    runs = []
    for weights in ("weights-a", "weights-b"):
        runs.append(run_of({"penumbra.ds": str(FIRST)}))
        publish_checkpoint(tmp_path, weights, runs[-1])
        publish_night(FIRST, {"candidate": weights, "popularity": ""})
    a, b = pair_of(*(sheets_of(run, registry) for run in runs))
    assert (a.model_digest, b.model_digest) == ("weights-a", "weights-b")
    assert a.partition.manifest.run < b.partition.manifest.run
    (a.partition.path / "part-00000.parquet").unlink()  # collected
    with pytest.raises(MissingInputError, match="no scorecards of"):
        sheets_of(runs[0], registry)


def test_a_run_that_published_nothing_is_an_error(registry, nights, run_of):
    run_id = run_of({"penumbra.ds": str(FIRST)})
    with pytest.raises(MissingInputError, match=f"run {run_id} of 2017-10-30 without weights"):
        sheets_of(run_id, registry)


def test_a_run_of_something_else_is_an_error(registry, nights, run_of):
    with pytest.raises(UsageError, match="not a training run"):
        sheets_of(run_of({}), registry)


@pytest.mark.parametrize("name", ["nothing", "version:x", "2017-10-31", "champion"])
def test_what_names_nothing_is_an_error(registry, nights, name):
    with pytest.raises(UsageError, match=f"found {name}, not a training run in MLflow; expected"):
        sheets_of(name, registry)


def test_a_date_that_is_none_is_an_error(registry, nights):
    with pytest.raises(UsageError, match="2017-02-31"):
        sheets_of("2017-02-31:candidate", registry)


def test_a_version_that_is_not_there_is_an_error(registry, nights):
    with pytest.raises(RegistryError, match="no version 3"):
        sheets_of("version:3", registry)


def test_a_version_that_was_never_scored_is_an_error(registry, nights, version_of):
    with pytest.raises(MissingInputError, match="no scorecards of version:1; expected those of"):
        sheets_of(version_of("weights-7"), registry)


def test_a_model_that_the_night_did_not_score_is_an_error(registry, nights):
    with pytest.raises(MissingInputError, match="expected one of candidate, popularity"):
        sheets_of("2017-10-30:champion", registry)


def test_a_night_without_scorecards_says_what_to_run(registry, nights):
    with pytest.raises(MissingInputError, match=r"run python -m trainer\.evaluation --ds 2016"):
        sheets_of("2016-01-01:candidate", registry)
