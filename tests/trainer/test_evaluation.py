import shutil
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import torch

from schemas.checkpoints import CHECKPOINTS, WEIGHTS_FILE
from schemas.errors import DataError, MissingInputError
from schemas.partitions import get
from schemas.publishing import draft, new_token, publish
from schemas.scorecards import SCORECARDS
from schemas.settings import Settings
from trainer import evaluation, scorer
from trainer.evaluation import (
    STAGE,
    contender,
    evaluate,
    has_seen_holdout,
    main,
)
from trainer.histories import from_lists
from trainer.journal import Journal
from trainer.tracking import track
from trainer.versions import CHAMPION

DS = date(2017, 10, 31)
ITEM_IDS = [f"item-{n}" for n in range(1, 9)]
USERS = [([1, 2, 3], [2, 4]), ([4, 5], []), ([6, 7, 1], [6]), ([2, 2], [8, 3, 1])]


@pytest.fixture
def items(publish_items):
    return publish_items(ITEM_IDS)


@pytest.fixture
def sequences(publish_sequences):
    return publish_sequences(USERS)


@pytest.fixture
def night(registry, items, sequences, publish_model, make_night):
    publish_model(items)
    return make_night(inputs=())


@pytest.fixture
def champion(registry, items, publish_model):
    version = registry.register(
        publish_model(items, seed=9, trained_until=date(2017, 10, 1)), items
    )
    registry.point(CHAMPION, version)
    return version


def cards_of(night):
    main(replace(night, inputs=STAGE.inputs(night.root, night.ds, night.settings)))
    rows = get(night.root, SCORECARDS, night.ds).read().to_pylist()
    return {(row["model"], row["exclude_seen"], row["metric"]): row for row in rows}


def test_candidate_and_baselines_are_scored_on_both_holdouts(night):
    scored = {key[:2] for key in cards_of(night)}
    models = {"candidate", "popularity", "item_knn"}
    assert scored == {(m, seen) for m in models for seen in (True, False)} | {("buy_again", False)}


def test_per_user_values_are_kept_for_the_users_with_something_to_find(night):
    cards = cards_of(night)
    for (_, exclude_seen, metric), row in cards.items():
        if "/" not in metric:
            assert row["num_users"] == (2 if exclude_seen else 3)
        is_per_user = metric.startswith(("recall", "ndcg", "mrr"))
        assert len(row["user_values"]) == (row["num_users"] if is_per_user else 0)


def test_every_per_user_metric_is_sliced_where_a_slice_has_users(night):
    """Scored users had 3, 3 and 2 actions; items 1 and 2 hold half of all, two users seek one."""
    settings = {"light_history": 2, "heavy_history": 3, "head_share": 0.5}
    cards = cards_of(replace(night, settings=Settings.model_validate({"evaluation": settings})))
    whole = {metric for _, _, metric in cards if metric.startswith(("recall", "ndcg", "mrr"))}
    whole = {metric for metric in whole if "/" not in metric}
    assert len(whole) == 9
    for metric in whole:
        num_users = {
            part: cards["candidate", False, f"{metric}/{part}"]["num_users"]
            for part in ("light_users", "heavy_users", "head_items", "tail_items")
        }
        expected = {"light_users": 1, "heavy_users": 2, "head_items": 2, "tail_items": 3}
        assert num_users == expected
        assert ("candidate", False, f"{metric}/new_users") not in cards


def test_the_value_is_the_mean_over_users(night):
    row = cards_of(night)["popularity", False, "recall@5"]
    assert row["value"] == pytest.approx(np.mean(row["user_values"]))


def test_buy_again_finds_what_was_bought_again(night):
    """User 0 had items 1, 2 and 3 once; 1 and 2 are as popular, so both rank between 0 and 1."""
    row = cards_of(night)["buy_again", False, "mrr@5"]
    assert row["user_values"][0] == pytest.approx(1 / 1.5)


def test_the_candidate_is_scored_after_its_history_without_the_holdout(night, items):
    model = scorer.from_checkpoint(get(night.root, CHECKPOINTS, DS), items)
    (scores,) = model.score(from_lists([np.array([6, 7, 1])]))
    rank = int((scores > scores[6]).sum())
    assert cards_of(night)["candidate", False, "mrr@20"]["user_values"][1] == pytest.approx(
        1 / (rank + 1)
    )


def test_op02_scoring_again_gives_the_same_digest(night):
    main(night)
    first = get(night.root, SCORECARDS, DS).manifest.content_digest
    main(replace(night, token=new_token()))
    assert get(night.root, SCORECARDS, DS).manifest.content_digest == first


def test_op10_the_champion_is_scored_anew_on_the_same_holdout(night, champion):
    cards = cards_of(night)
    row = cards["champion", True, "ndcg@10"]
    assert row["model_digest"] == champion.weights_sha256
    assert row["holdout_digest"] == cards["candidate", True, "ndcg@10"]["holdout_digest"]
    assert row["num_users"] == cards["candidate", True, "ndcg@10"]["num_users"]


def test_the_champion_is_an_input(night, champion):
    (found,) = [i for i in STAGE.inputs(night.root, DS, Settings()) if i.table == "champion"]
    assert (found.run, found.digest) == ("1", champion.weights_sha256)


def test_whoever_was_promoted_since_the_inputs_were_read_is_not_scored(
    night, champion, registry, items, publish_model
):
    newer = registry.register(publish_model(items, seed=8), items)
    publish_model(items)
    inputs = STAGE.inputs(night.root, DS, Settings())
    registry.point(CHAMPION, newer)
    main(replace(night, inputs=inputs))
    rows = get(night.root, SCORECARDS, DS).read(["model", "model_digest"]).to_pylist()
    scored = {row["model_digest"] for row in rows if row["model"] == "champion"}
    assert scored == {champion.weights_sha256}


def test_op07_a_move_that_was_interrupted_is_finished_before_a_night_is_compared(
    night, champion, registry, items, publish_model
):
    newer = registry.register(publish_model(items, seed=3), items)
    publish_model(items)
    # The intent is all that a promotion had written when it was killed.
    Journal(registry.root).append("promote", "intent", "night", "better", newer.number, 1)
    (found,) = [i for i in STAGE.inputs(night.root, DS, Settings()) if i.table == "champion"]
    assert found == newer.as_input()
    assert registry.champion() == newer


def test_op10_models_that_have_seen_the_holdout_are_noted(
    registry, items, sequences, publish_model, make_night
):
    version = registry.register(publish_model(items, seed=9, trained_until=DS), items)
    registry.point(CHAMPION, version)
    publish_model(items)
    main(make_night(inputs=STAGE.inputs(registry.root, DS, Settings())))
    notes = get(registry.root, SCORECARDS, DS).manifest.notes
    assert notes["candidate_has_seen_holdout"] is notes["champion_has_seen_holdout"] is True
    slices = {"light_history": 5, "heavy_history": 50, "head_share": 0.8}
    assert notes["slices"] == slices


@pytest.mark.parametrize(("last_day", "expected"), [(24, False), (25, True), (31, True)])
def test_op10_the_holdout_begins_holdout_days_before_the_night_ends(last_day, expected):
    settings = Settings.model_validate({"split": {"holdout_days": 7}})
    assert has_seen_holdout(date(2017, 10, last_day), DS, settings) is expected


def test_op10_leave_one_out_holdouts_have_no_first_day():
    settings = Settings.model_validate({"split": {"protocol": "leave_one_out"}})
    assert has_seen_holdout(DS, DS, settings) is None


def test_op10_a_model_of_other_sequences_is_refused(night, publish_sequences):
    publish_sequences([*USERS, ([1], [2])])
    with pytest.raises(DataError, match=r"trained on sequences .* trainer\.training --ds 2017"):
        main(night)


def test_a_champion_with_another_catalogue_is_scored_by_item_id(
    items, sequences, publish_model, publish_items, publish_sequences
):
    """Items 1 and 2 hold half of all actions: head and tail do not depend on ties by index."""
    settings = Settings.model_validate({"evaluation": {"head_share": 0.5}})
    model = scorer.from_checkpoint(publish_model(items), items)
    at_home = evaluate(sequences.read(), 8, [contender("champion", "", model, ITEM_IDS)], settings)
    turned = [([9 - i for i in before], [9 - i for i in held]) for before, held in USERS]
    abroad = evaluate(
        publish_sequences(turned).read(),
        8,
        [contender("champion", "", model, ITEM_IDS[::-1])],
        settings,
    )
    for one, other in zip(at_home, abroad, strict=True):
        for metric, values in one.card.user_values.items():
            np.testing.assert_allclose(values, other.card.user_values[metric], err_msg=one.model)


def test_items_unknown_to_the_champion_are_never_found_by_it(items, sequences, publish_model):
    model = scorer.from_checkpoint(publish_model(items), items)
    renamed = ["new" if item_id == "item-6" else item_id for item_id in ITEM_IDS]
    cards = evaluate(sequences.read(), 8, [contender("champion", "", model, renamed)], Settings())
    assert cards[0].card.user_values["recall@20"][1] == 0


def test_op11_a_score_that_is_not_a_number_is_an_error(
    registry, items, sequences, publish_model, make_night, monkeypatch
):
    checkpoint = publish_model(items)
    model = scorer.from_checkpoint(checkpoint, items)
    model.backbone.item_bias.data[0] = torch.nan
    monkeypatch.setattr(evaluation.scorer, "from_checkpoint", lambda *_: model)
    with pytest.raises(DataError, match="not finite"):
        main(make_night())


def test_op15_a_night_without_a_holdout_is_an_error(night, items, publish_sequences, publish_model):
    publish_sequences([([1, 2], []), ([3], [])])
    publish_model(items)
    fix = r"fix: evaluation\.exclude_seen, split\.holdout_days and"
    with pytest.raises(DataError, match=rf"new item in the holdout; .* of 2 users; {fix}"):
        main(night)


def test_op15_a_night_without_anything_new_is_an_error_in_discovery_alone(
    night, items, publish_sequences, publish_model, make_night
):
    publish_sequences([([1, 2], [1]), ([3], [3])])
    publish_model(items)
    with pytest.raises(DataError, match="no user with a new item"):
        main(night)
    main(make_night(Settings.model_validate({"evaluation": {"exclude_seen": False}})))
    rows = get(night.root, SCORECARDS, DS).read(["exclude_seen"]).to_pylist()
    assert {row["exclude_seen"] for row in rows} == {False}


def test_a_night_without_a_checkpoint_names_the_stage_to_run(registry, items, sequences):
    with pytest.raises(MissingInputError, match=r"run python -m trainer\.training"):
        STAGE.inputs(registry.root, DS, Settings())


def test_the_closing_table_shows_every_model_once(night, capsys):
    main(night)
    published, head, *rows = capsys.readouterr().out.splitlines()
    assert published.startswith("scorecards 2017-10-31: published")
    assert " ".join(head.split()) == "recall@10 all ndcg@10 all recall@10 new ndcg@10 new"
    assert [row.split()[0] for row in rows] == ["candidate", *evaluation.BASELINES]
    assert rows[-1].split()[3:] == ["–", "–"]


def publish_with_run(root, run_id):
    """The night's checkpoint once more, as training publishes it."""
    checkpoint = get(root, CHECKPOINTS, DS)
    again = draft(root, CHECKPOINTS, DS, new_token())
    shutil.copy(checkpoint.attachment(WEIGHTS_FILE), again.path)
    again.write(checkpoint.read())
    again.notes["mlflow_run_id"] = run_id
    publish(again, DS)


def test_figures_are_added_to_the_run_that_trained_the_candidate(night):
    run = track(night.root, night.settings, "training 2017-10-31", "fingerprint", {})
    publish_with_run(night.root, run.id)
    main(night)
    found = [artifact.path for artifact in run.client.list_artifacts(run.id, "figures")]
    assert found == ["figures/calibration.png", "figures/ndcg_by_slice.png"]


@pytest.mark.parametrize("loss", ["bce", "gbce", "bpr"])
def test_a_model_whose_scores_are_no_probabilities_has_no_calibration(
    registry, items, sequences, champion, publish_model, make_night, loss
):
    publish_model(items, loss=loss)
    night = make_night(inputs=())
    run = track(night.root, night.settings, "training 2017-10-31", "fingerprint", {})
    publish_with_run(night.root, run.id)
    calibrated = {model for model, _, metric in cards_of(night) if metric == "calibration_error"}
    assert calibrated == {"champion"}
    found = [artifact.path for artifact in run.client.list_artifacts(run.id, "figures")]
    assert found == ["figures/ndcg_by_slice.png"]


def test_a_run_that_is_gone_keeps_nobody_from_scoring(night):
    publish_with_run(night.root, "0" * 32)
    assert cards_of(night)
