"""The registered model where others put it: behind MLflow's scoring server, and in Spark."""

import json
import sys
import urllib.request

import mlflow
import pytest

ITEM_IDS = [f"item-{n}" for n in range(12)]
COLUMNS = ["history", "k", "exclude_seen"]
ROWS = [[["item-0", "item-1"], 3, True], [[], 2, False]]


@pytest.fixture
def address(registry, publish_items, publish_model):
    items = publish_items(ITEM_IDS)
    version = registry.register(publish_model(items), items)
    return f"models:/{registry.name}/{version.number}"


def assert_ranked(answers):
    first, second = answers
    assert len(set(first["item_id"]) & set(ITEM_IDS[2:])) == 3
    assert first["score"] == sorted(first["score"], reverse=True)
    assert second["item_id"] == ITEM_IDS[:2]
    assert (first["is_fallback"], second["is_fallback"]) == (False, True)


def test_mlflow_models_serve_answers_invocations(address, make_server, settings, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.registry.tracking_uri)
    arguments = ["models", "serve", "--model-uri", address, "--env-manager", "local"]
    server = make_server(*arguments, ready="/ping")
    body = json.dumps({"dataframe_split": {"columns": COLUMNS, "data": ROWS}}).encode()
    request = urllib.request.Request(
        server.address + "/invocations", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert_ranked(json.load(answer)["predictions"])
    server.kill()


def test_spark_udf_answers_a_struct_of_the_signatures_columns(address, spark, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())  # loading a model puts its code first
    recommend = mlflow.pyfunc.spark_udf(spark, address, env_manager="local")
    frame = spark.createDataFrame(ROWS, "history array<string>, k long, exclude_seen boolean")
    frame = frame.coalesce(1)  # one worker loads the model
    (answers,) = [frame.select(recommend(*COLUMNS).alias("answer")).collect()]
    assert_ranked([row["answer"].asDict() for row in answers])
