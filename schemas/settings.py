"""Settings: every knob, its default, its allowed range and what it does.

`pipeline.toml` holds the same defaults for reading and editing; environment variables such as
`PENUMBRA_TRAINING__EPOCHS=3` override the file. The Airflow form is derived from these models.
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import SettingsError

ENVIRONMENT_PREFIX = "PENUMBRA_"


class Frozen(BaseModel):
    """A settings section: immutable, strict about names, documented field by field."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )


class EventsSettings(Frozen):
    path: str = "events"
    """Folder of raw events, one `ds=YYYY-MM-DD` each; relative to the root."""
    history_days: int = Field(56, ge=2)
    """Days of interactions, ending at the night's date, that a night looks at."""
    max_missing_days: int = Field(0, ge=0)
    """Days inside that window, after its first, that may lack interactions."""
    missing_day: Literal["fail", "skip"] = "fail"
    """What the DAG does on a night without events: fail the task, or skip the night by name."""
    extra_columns: Literal["ignore", "fail"] = "ignore"
    """What to do with columns the events contract does not know."""
    max_quarantine_share: float = Field(0.2, ge=0, le=1)
    """Share of a day's rows that may be quarantined before the stage fails."""


class SplitSettings(Frozen):
    protocol: Literal["temporal", "leave_one_out"] = "temporal"
    """Hold out everyone's last days, or everyone's last action."""
    holdout_days: int = Field(7, ge=1)
    """Temporal: the last days, seen by evaluation only."""
    validation_days: int = Field(7, ge=0)
    """Temporal: the days before the holdout, for early stopping; 0 trains without."""


class ItemsSettings(Frozen):
    min_support: int = Field(10, ge=1)
    """Training interactions an item needs to enter the catalogue."""


class SequencesSettings(Frozen):
    min_history: int = Field(1, ge=1)
    """Training interactions with catalogue items a user needs to have a sequence."""
    max_history: int = Field(1000, ge=2)
    """Most recent training actions of a user that are kept; a bot cannot hold up the night."""


class ItemGraphSettings(Frozen):
    window: int = Field(10, ge=1)
    """Positions apart at which two items of one history still count as a pair."""
    position_decay: float = Field(0.8, gt=0, le=1)
    """γ: weight of a pair falls by this factor with every position between its items."""
    time_decay_days: float = Field(0.0, ge=0)
    """τ: age in days at which a pair weighs 1/e; 0 does not age pairs."""
    user_damping: float = Field(0.0, ge=0, le=1)
    """A user with n actions counts with weight n to the minus this; 0 counts all alike."""
    direction: Literal["symmetric", "forward"] = "symmetric"
    """Whether an edge also leads from the later item back to the earlier."""
    normaliser: Literal["raw", "cosine", "jaccard", "lift", "pmi", "bm25"] = "cosine"
    """How a pair's weight becomes an edge's; the formulas are in `jobs/normalisers.py`."""
    shrinkage: float = Field(0.0, ge=0)
    """An edge is multiplied by w / (w + this), w its pair weight: few meetings are trusted less."""
    min_pair_weight: float = Field(0.0, ge=0)
    """Pairs with less summed weight than this are noise and dropped."""
    top_k: int = Field(100, ge=1)
    """Strongest neighbours kept per item; ties go to the smaller item index."""
    pair_budget: int = Field(2_000_000_000, ge=1)
    """Position pairs a night may count; more is an error before any work starts."""


class SoftTargetsSettings(Frozen):
    alpha: float = Field(0.5, ge=0, lt=1)
    """α: share of label mass that moves on along the graph in each iteration."""
    tolerance: float = Field(1e-4, gt=0)
    """Largest L1 change of a row at which it counts as converged."""
    max_iterations: int = Field(30, ge=1)
    """Iterations after which a row that has not converged fails the stage."""
    allow_unconverged: bool = False
    """Publish rows that did not converge as they are, instead of failing."""
    top_k: int = Field(100, ge=1)
    """Largest entries kept per row; the rest is recorded as dropped mass."""
    user_seeds: bool = True
    """Whether users' histories are seeds too."""
    user_recency: float = Field(0.95, gt=0, le=1)
    """Weight of a user's action falls by this factor with every later action."""


class TrainingSettings(Frozen):
    backbone: Literal["sasrec", "gru4rec"] = "sasrec"
    """Sequence model."""
    width: int = Field(64, ge=4)
    """D: width of item embeddings and hidden states."""
    num_blocks: int = Field(2, ge=1)
    """Transformer blocks or recurrent layers."""
    num_heads: int = Field(2, ge=1)
    """Attention heads; must divide the width."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout on embeddings and inside blocks."""
    item_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of input items that training hides at random, so that no single one is relied on."""
    history_skip: bool = True
    """Add the normalised sum of all items so far to the hidden state, past the sequence model."""
    max_length: int = Field(100, ge=2)
    """L: most recent positions a model sees; longer histories are trained in windows of it."""
    loss: Literal["cross_entropy", "decoupled"] = "decoupled"
    """Training objective."""
    targets: Literal["all", "new"] = "new"
    """Train on every next item, or only on those new to the user (discovery)."""
    target_days: float = Field(0.0, ge=0)
    """0: a target is the next item; else one drawn from the following days' (once a timestamp)."""
    popularity_days: int = Field(28, ge=0)
    """Item biases start from, and end at, the popularity of the last days; 0: of all history."""
    lambda1: float = Field(0.3, ge=0, le=1)
    """λ1: how far target confidence follows the soft target's own mass, c = λ1·q_y + 1 - λ1."""
    lambda2: float = Field(0.5, ge=0, le=1)
    """λ2: weight of target confidence against the distribution over the other items."""
    beta: float = Field(0.0, ge=0, le=1)
    """β: share of the user's own soft target in an example's, the rest is the item's."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay of AdamW."""
    batch_size: int = Field(64, ge=1)
    """B: windows per optimiser step."""
    epochs: int = Field(10, ge=1)
    """Passes over the training windows at most."""
    patience: int = Field(2, ge=1)
    """Epochs without a better validation NDCG@10 before stopping."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest global gradient norm."""
    seed: int = Field(17, ge=0)
    """Seed of weights, shuffling and dropout."""
    num_threads: int = Field(0, ge=0)
    """Torch threads; 0 takes one per core."""


class EvaluationSettings(Frozen):
    exclude_seen: bool = True
    """Whether items a user already has may be recommended (false) or not (true: discovery)."""
    batch_size: int = Field(256, ge=1)
    """Users scored at once."""


class GateSettings(Frozen):
    metric: Literal["ndcg@10", "recall@10"] = "ndcg@10"
    """What candidate, champion and baselines are compared on."""
    floor: float = Field(0.005, ge=0, le=1)
    """The candidate's metric must reach this."""
    popularity_margin: float = Field(0.0)
    """The candidate must beat popularity by more than this."""
    champion_margin: float = Field(0.05, ge=0, le=1)
    """Share of the champion's metric that the interval's lower end may lie below it."""
    min_users: int = Field(100, ge=1)
    """Users with a holdout below which nothing is decided."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Confidence level of the paired bootstrap interval."""
    num_resamples: int = Field(2000, ge=100)
    """Bootstrap resamples over users."""
    seed: int = Field(17, ge=0)
    """Seed of the bootstrap."""


class RecommendationsSettings(Frozen):
    k: int = Field(10, ge=1)
    """Items per user."""


class RegistrySettings(Frozen):
    tracking_uri: str = ""
    """MLflow tracking and registry address; empty is SQLite under the root."""
    experiment: str = Field("penumbra", min_length=1)
    """MLflow experiment of the nights' runs."""
    model_name: str = Field("penumbra", min_length=1)
    """Registered model that carries the aliases."""


class SparkSettings(Frozen):
    master: str = "local[*]"
    """Spark master; tables must be on a file system that all its workers share."""
    driver_memory: str = Field("4g", pattern=r"^[0-9]+[mg]$")
    """Heap of the driver, which is also the executor of a local master."""
    shuffle_partitions: int = Field(4, ge=1)
    """Partitions after a shuffle; results do not depend on it."""
    files_per_table: int = Field(1, ge=1)
    """Part files of a table; graph and soft targets have one per task. No digest depends on it."""
    plan: Literal["auto", "broadcast", "blocked"] = "auto"
    """Propagation with the whole graph in every worker, in blocks, or by its size; same result."""
    broadcast_limit_mb: int = Field(2048, ge=1)
    """MiB of graph up to which every worker maps the whole of it."""
    conf: dict[str, str] = Field(default_factory=dict)
    """Further Spark configuration, passed as it is."""


class ScheduleSettings(Frozen):
    cron: str = "0 2 * * *"
    """When a night starts (UTC); it handles the day that ended before."""
    start_date: str = Field("2000-01-01", pattern=r"^\d{4}-\d{2}-\d{2}$")
    """First day the schedule knows; Airflow runs no task of an earlier one."""
    retries: int = Field(3, ge=0)
    """Retries after an infrastructure error; data errors are never retried."""
    retry_delay_seconds: float = Field(60.0, ge=0)
    """First delay before a retry; later ones grow exponentially, with jitter."""


class Settings(Frozen):
    """All sections. A stage is handed this whole and reads what it needs."""

    events: EventsSettings = EventsSettings()
    split: SplitSettings = SplitSettings()
    items: ItemsSettings = ItemsSettings()
    sequences: SequencesSettings = SequencesSettings()
    item_graph: ItemGraphSettings = ItemGraphSettings()
    soft_targets: SoftTargetsSettings = SoftTargetsSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    gate: GateSettings = GateSettings()
    recommendations: RecommendationsSettings = RecommendationsSettings()
    registry: RegistrySettings = RegistrySettings()
    spark: SparkSettings = SparkSettings()
    schedule: ScheduleSettings = ScheduleSettings()

    def digest(self, sections: Iterable[str]) -> str:
        """sha256 of the named sections: equal settings, equal digest."""
        chosen = {name: getattr(self, name).model_dump() for name in sorted(sections)}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from defaults, then the file, then environment variables.

    Args:
        path: A TOML file; None takes `pipeline.toml` in the working folder if it is there.
        environment: Variables `PENUMBRA_<SECTION>__<KEY>`; values are read as TOML, else as text.

    Raises:
        SettingsError: Naming the key, what was found and what is allowed.
    """
    default = Path("pipeline.toml")
    source = path or (default if default.exists() else None)
    values = _read_toml(source) if source else {}
    for variable, text in environment.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and "__" in variable:
            section, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__", 1)
            values.setdefault(section, {})[key] = _parse(text)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise _explain(error, source) from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise SettingsError(f"no file {path}", "a TOML file", "--settings") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}", "valid TOML", str(path)) from error


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def properties() -> dict[str, dict[str, Any]]:
    """JSON schema of every setting by dotted name: type, range, default, description."""
    schema = Settings.model_json_schema()
    return {
        f"{section}.{key}": property
        for section, reference in schema["properties"].items()
        for key, property in schema["$defs"][reference["$ref"].split("/")[-1]]["properties"].items()
    }


def allowed(property: Mapping[str, Any]) -> str:
    """A JSON schema property's allowed values in words, such as `integer, ≥ 1`."""
    if "enum" in property:
        return "one of " + ", ".join(map(str, property["enum"]))
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    words = [f"{sign} {property[name]}" for name, sign in bounds.items() if name in property]
    words += [f"matching {property['pattern']}"] if "pattern" in property else []
    words += ["not empty"] if property.get("minLength") else []
    return ", ".join([property["type"], *words])


def _explain(error: ValidationError, source: Path | None) -> SettingsError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"][:2])
    known = properties()
    siblings = [k for k in known if k.startswith(f"{first['loc'][0]}.")] or {
        k.split(".")[0] for k in known
    }
    expected = allowed(known[key]) if key in known else "one of " + ", ".join(sorted(siblings))
    variable = ENVIRONMENT_PREFIX + key.upper().replace(".", "__")
    where = f"{source or 'pipeline.toml'} or {variable}"
    return SettingsError(f"{key} = {first['input']!r}", expected, where)
