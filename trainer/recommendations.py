"""Recommendations: the champion's best items for every user with a sequence, all of it.

Items are ranked under the champion's own catalogue, read from the registered artifact; ties
go to the smaller item index. `evaluation.exclude_seen` decides whether items a user already
has may be recommended.

Reads:    sequences, items, promotions, the registered champion
Writes:   recommendations
If late:  users keep seeing yesterday's recommendations.
"""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from schemas.command import Night, Stage, run
from schemas.contract import PADDING_INDEX
from schemas.errors import MissingInputError
from schemas.items import ITEMS
from schemas.partitions import Input, get, refuse_other_source
from schemas.recommendations import RECOMMENDATIONS
from schemas.sequences import SEQUENCES
from schemas.settings import Settings
from trainer import scorer
from trainer.histories import whole
from trainer.ledger import served
from trainer.ranking import users_at_once
from trainer.registry import Registry
from trainer.scorer import Scorer
from trainer.versions import numbers_in


def recommend(
    sequences: pa.Table, item_ids: list[str], model: Scorer, version: int, settings: Settings
) -> pa.Table:
    """The recommendations table of a model.

    Args:
        sequences: Rows of the sequences table.
        item_ids: Raw ids of the same night; entry j - 1 is `item_index` j.
        model: The champion, under its own catalogue.
        version: Its number.
        settings: `recommendations.k`, `evaluation.exclude_seen` and `evaluation.batch_size`.
    """
    own = whole(sequences).renumbered(model.renumbering(item_ids))
    size = users_at_once(settings.evaluation.batch_size, model.num_items)
    parts = [
        model.recommend(
            own.take(slice(start, start + size)),
            settings.recommendations.k,
            exclude_seen=settings.evaluation.exclude_seen,
        )
        for start in range(0, len(own), size)
    ]
    items_UK, scores_UK = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    users, places = np.nonzero(items_UK != PADDING_INDEX)
    raw_ids = pa.array(["", *model.item_ids])
    columns = {
        "user_id": sequences["user_id"].take(pa.array(users)),
        "rank": places.astype(np.int32) + 1,
        "item_id": raw_ids.take(pa.array(items_UK[users, places])),
        "score": scores_UK[users, places].astype(np.float32),
        "model_version": np.full(len(users), version, dtype=np.int32),
    }
    return pa.table(columns).cast(RECOMMENDATIONS.schema)


def _inputs(root: Path, ds: date, settings: Settings) -> list[Input]:
    read = [get(root, contract, ds).as_input() for contract in (SEQUENCES, ITEMS)]
    champion = served(Registry(root, settings), ds)
    if champion is None:
        raise MissingInputError(
            f"no champion of {settings.registry.model_name}",
            "a promoted model version",
            f"look at the reason in promotions of {ds}; the gate section of the settings",
        )
    return [*read, champion.as_input()]


STAGE = Stage(
    module="trainer.recommendations",
    doc=__doc__,
    writes=(RECOMMENDATIONS,),
    inputs=_inputs,
    settings=("recommendations", "evaluation"),
)


def main(night: Night) -> None:
    """Ranks for every user and publishes."""
    sequences, items = (get(night.root, contract, night.ds) for contract in (SEQUENCES, ITEMS))
    refuse_other_source(sequences, items)
    registry = Registry(night.root, night.settings)
    (number,) = numbers_in(night.inputs)
    rows = recommend(
        sequences.read(["user_id", "item_indices"]),
        items.read(["item_id"])["item_id"].to_pylist(),
        scorer.from_folder(registry.download(registry.get(number))),
        number,
        night.settings,
    )
    recommendations = night.draft(RECOMMENDATIONS)
    recommendations.write(rows)
    night.publish(recommendations)


if __name__ == "__main__":
    run(STAGE, main)
