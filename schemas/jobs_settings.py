"""Settings of the Spark jobs, section by section."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class UnfitError(ValueError):
    """A value that does not fit another one; `load` makes a SettingsError of it."""

    def __init__(self, key: str, found: Any, expected: str) -> None:
        super().__init__(f"{key} = {found}; expected {expected}")
        self.key, self.found, self.expected = key, found, expected


class Frozen(BaseModel):
    """A settings section: immutable, strict about names and types, documented field by field."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )


class EventsSettings(Frozen):
    path: str = "events"
    """Folder of raw events, one `ds=YYYY-MM-DD` each; relative to the root."""
    history_days: int = Field(56, ge=2, le=36_500)
    """Days of interactions, ending at the night's date, that a night looks at."""
    max_missing_days: int = Field(0, ge=0)
    """Days inside that window, after the first published one, that may lack interactions."""
    missing_day: Literal["fail", "skip"] = "fail"
    """What the DAG does on a night without events: fail the task, or skip the night by name; later
    nights need a `max_missing_days` that allows for what stays missing."""
    extra_columns: Literal["ignore", "fail"] = "ignore"
    """What to do with columns the events contract does not know."""
    max_quarantine_share: float = Field(0.2, ge=0, le=1)
    """Share of a day's rows that may be quarantined before the stage fails."""


class HealthSettings(Frozen):
    mode: Literal["enforce", "dry_run"] = "enforce"
    """Stop the night at a number beyond its limit, or only record and print it."""
    weeks: int = Field(4, ge=1, le=5_200)
    """Weeks before the night's day that say what is usual."""
    min_days: int = Field(3, ge=2)
    """Comparable days in them below which a number is recorded, not judged; for the volume, which
    has one such day a week, no more than `weeks`."""
    min_volume: float = Field(0.5, ge=0, le=1)
    """Least share of the usual interactions; usual is the same weekday's median."""
    max_volume: float = Field(2.0, ge=1)
    """Greatest multiple of the usual interactions."""
    max_quarantine_rise: float = Field(0.05, ge=0, le=1)
    """How far the quarantined share of a day's rows may lie above the median of all days."""
    max_age_hours: float = Field(6.0, gt=0, le=24)
    """Hours between the newest event and the end of the day; needs no history."""
    max_drift_rise: float = Field(0.1, ge=0, le=1)
    """How far the items' Jensen-Shannon divergence may lie above the median of all days'."""
    freshness_hours: float = Field(336.0, gt=0)
    """Hours since the champion's last training day; the holdout's days are part of them."""


class SplitSettings(Frozen):
    protocol: Literal["temporal", "leave_one_out"] = "temporal"
    """Hold out everyone's last days, or everyone's last action.
    What to begin with for the latter is in docs/experiments.md.
    """
    holdout_days: int = Field(7, ge=1)
    """Temporal: the last days, seen by evaluation only."""
    validation_days: int = Field(7, ge=0)
    """Temporal: the days before the holdout, for early stopping; 0 trains without."""

    @property
    def name(self) -> str:
        """Such as temporal-7-7, days of validation and of the holdout, or leave_one_out."""
        days = f"-{self.validation_days}-{self.holdout_days}"
        return self.protocol + (days if self.protocol == "temporal" else "")

    @property
    def sizes(self) -> str:
        """The settings that decide how much is held out."""
        return "split.holdout_days" if self.protocol == "temporal" else "split.protocol"

    @property
    def days_apart(self) -> int:
        """Days at the end of the window that no training action can come from."""
        return self.holdout_days + self.validation_days if self.protocol == "temporal" else 0


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
