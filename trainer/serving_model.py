"""Serving model: the registered artifact, an MLflow pyfunc read from this file's code.

Input (`artifact.SIGNATURE`): a DataFrame with `history` (raw item ids, oldest first) and, for all
rows alike or row by row, optional `k` and `exclude_seen`. Output: one row per history with
`item_id` and `score`, best first, and `is_fallback`: the history holds no item the model knows, so
the list is by popularity. Unknown items are ignored. Weights are safetensors, the catalogue
Parquet, the settings JSON: nothing is unpickled.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns of its own type hints while it is imported
    from mlflow.models import set_model
    from mlflow.pyfunc import PythonModel, PythonModelContext

from schemas.contract import PADDING_INDEX
from schemas.errors import UsageError
from trainer.histories import from_lists
from trainer.scorer import Scorer, from_folder

DEFAULT_K = 10
"""Items per history where the input has no `k`."""

DEFAULT_EXCLUDE_SEEN = False
"""Whether items of the history stay out where the input has no `exclude_seen`."""


class ServingModel(PythonModel):
    """A `Scorer` behind MLflow's interface."""

    scorer: Scorer

    def load_context(self, context: PythonModelContext) -> None:
        """Reads weights, catalogue and settings from the artifacts."""
        self.scorer = from_folder(Path(context.artifacts["model"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None
    ) -> pd.DataFrame:
        """Ranked items for each row of the input, as the top of this file says."""
        del context, params
        return recommend(self.scorer, model_input)


def recommend(scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
    """Ranked items for each row.

    Args:
        scorer: The model.
        rows: Columns `history` and, optionally, `k` and `exclude_seen`.

    Returns:
        `item_id`, `score` and `is_fallback`, in the order and with the index of `rows`.

    Raises:
        UsageError: A `k` below 1.
    """
    known = [scorer.indices_of(list(history)) for history in rows["history"]]
    histories = from_lists([indices[indices != PADDING_INDEX] for indices in known])
    k_B = _column(rows, "k", DEFAULT_K).astype(int)
    if (k_B < 1).any():
        raise UsageError(f"k = {k_B.min()}", "k ≥ 1", "the input's column k")
    exclude_seen_B = _column(rows, "exclude_seen", DEFAULT_EXCLUDE_SEEN).astype(bool)
    item_ids: list[list[str]] = [[] for _ in known]
    scores: list[list[float]] = [[] for _ in known]
    for exclude_seen in np.unique(exclude_seen_B):
        users = np.flatnonzero(exclude_seen_B == exclude_seen)
        longest = int(k_B[users].max())
        items, values = scorer.recommend(
            histories.take(users), longest, exclude_seen=bool(exclude_seen)
        )
        for row, user in enumerate(users):
            kept = items[row, : k_B[user]]
            kept = kept[kept != PADDING_INDEX]
            item_ids[user] = [scorer.item_ids[index - 1] for index in kept]
            scores[user] = values[row, : len(kept)].tolist()
    columns = {"item_id": item_ids, "score": scores, "is_fallback": histories.lengths == 0}
    return pd.DataFrame(columns, index=rows.index)


def _column(rows: pd.DataFrame, name: str, default: Any) -> np.ndarray:
    if name not in rows:
        return np.full(len(rows), default)
    return rows[name].astype(object).where(rows[name].notna(), default).to_numpy()


set_model(ServingModel())
