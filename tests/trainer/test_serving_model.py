import pickle
import pickletools
import sys
from pathlib import Path
from zipfile import is_zipfile

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import Model

from schemas.errors import UsageError
from trainer import artifact, scorer, serving_model

ITEM_IDS = [f"item-{n}" for n in range(12)]
"""In order of support, as `publish_items` makes it."""


@pytest.fixture
def model(publish_items, publish_model):
    items = publish_items(ITEM_IDS)
    return scorer.from_checkpoint(publish_model(items), items)


def recommend(model, **columns):
    return serving_model.recommend(model, pd.DataFrame(columns))


def test_a_history_gets_ten_items_best_first(model):
    (row,) = recommend(model, history=[["item-3", "item-4"]]).to_dict("records")
    assert len(set(row["item_id"])) == 10
    assert row["score"] == sorted(row["score"], reverse=True)
    assert not row["is_fallback"]


def test_unknown_items_are_ignored(model):
    rows = recommend(model, history=[["item-3", "item-4"], ["item-3", "no such", "item-4"]])
    assert rows["item_id"][0] == rows["item_id"][1]
    assert not rows["is_fallback"].any()


@pytest.mark.parametrize("history", [[], ["no such"]])
def test_a_history_without_known_items_gets_the_most_supported_and_says_so(model, history):
    (row,) = recommend(model, history=[history]).to_dict("records")
    assert row["item_id"] == ITEM_IDS[:10]
    assert row["is_fallback"]


def test_k_and_exclude_seen_hold_row_by_row(model):
    seen = ITEM_IDS[:9]
    rows = recommend(model, history=[seen, seen], k=[5, 4], exclude_seen=[True, False])
    assert set(rows["item_id"][0]) == set(ITEM_IDS[9:])
    assert len(rows["item_id"][1]) == 4


def test_a_k_below_one_is_refused(model):
    with pytest.raises(UsageError, match="k = 0; expected k ≥ 1"):
        recommend(model, history=[["item-1"], ["item-2"]], k=[3, 0])


def test_a_history_does_not_change_with_its_neighbours(model):
    alone = recommend(model, history=[["item-3"]])
    among = recommend(model, history=[ITEM_IDS, ["item-3"], []])
    assert alone["item_id"][0] == among["item_id"][1]
    np.testing.assert_allclose(alone["score"][0], among["score"][1], atol=1e-6)


def test_rows_keep_the_index_of_the_input(model):
    frame = pd.DataFrame({"history": [["item-1"], []]}, index=[7, 3])
    assert serving_model.recommend(model, frame).index.tolist() == [7, 3]


@pytest.fixture
def registered(registry, publish_items, publish_model, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())  # loading a model puts its code first
    items = publish_items(ITEM_IDS)
    registry.register(publish_model(items), items)
    return registry.download(registry.get(1)).parent.parent


def test_the_registered_model_predicts_through_its_signature(registered):
    loaded = mlflow.pyfunc.load_model(str(registered))
    rows = loaded.predict(pd.DataFrame({"history": [["item-1"], []], "k": [3, 2]}))
    assert [len(ids) for ids in rows["item_id"]] == [3, 2]
    assert rows["is_fallback"].tolist() == [False, True]


def test_an_input_of_other_types_is_refused(registered):
    loaded = mlflow.pyfunc.load_model(str(registered))
    with pytest.raises(mlflow.MlflowException, match="history"):
        loaded.predict(pd.DataFrame({"histories": [["item-1"]]}))


def is_pickle(content):
    """Whether a file starts with a whole pickle of any protocol, as `pickle.load` reads one."""
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(content))
    except ValueError:
        return False


def test_no_file_of_the_artifact_is_a_pickle_or_an_archive_that_may_hold_one(registered):
    files = [file for file in registered.rglob("*") if file.is_file()]
    assert {"MLmodel", "weights.safetensors", "items.parquet", "settings.json"} <= {
        file.name for file in files
    }
    assert [file for file in files if is_pickle(file.read_bytes()) or is_zipfile(file)] == []


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_told_from_other_files(protocol):
    assert is_pickle(pickle.dumps({"a": [1.0]}, protocol))


def test_the_model_is_code_that_the_artifact_carries(registered):
    flavor = Model.load(str(registered)).flavors["python_function"]
    assert Path(flavor["model_code_path"]).name == "serving_model.py"
    assert "python_model" not in flavor
    source = Path(serving_model.__file__).read_bytes()
    assert (registered / "serving_model.py").read_bytes() == source


def test_the_artifact_names_exact_requirements(registered):
    lines = (registered / "requirements.txt").read_text().splitlines()
    assert sorted(line.split("==")[0] for line in lines) == sorted(artifact.REQUIREMENTS)
