"""Settings of the trainer, section by section."""

from typing import Literal, Self

from pydantic import Field, model_validator

from schemas.jobs_settings import Frozen, UnfitError


class TrainingSettings(Frozen):
    backbone: Literal["sasrec", "gru4rec", "mlp", "deepfm"] = "sasrec"
    """Sequence model."""
    width: int = Field(64, ge=4)
    """D: width of item embeddings and hidden states."""
    num_blocks: int = Field(2, ge=1)
    """Transformer blocks, recurrent layers or hidden feed-forward layers."""
    num_heads: int = Field(2, ge=1)
    """Attention heads of sasrec; must divide the width."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout on embeddings and inside blocks."""
    item_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of input items that training hides at random, so that no single one is relied on."""
    history_skip: bool = True
    """Add the normalised sum of all items so far to the hidden state, past the sequence model."""
    tied_output: bool = True
    """Score items with the embeddings they are read by, or with a second set (false)."""
    warm_start: bool = False
    """Start from the champion's weights where an earlier night's has tonight's architecture and
    split.
    """
    max_length: int = Field(100, ge=2)
    """L: most recent positions a model sees; longer histories are trained in windows of it."""
    loss: Literal[
        "cross_entropy",
        "label_smoothing",
        "soft_labels",
        "decoupled",
        "sampled_softmax",
        "bce",
        "gbce",
        "bpr",
    ] = "decoupled"
    """Training objective; only soft_labels and decoupled read soft targets."""
    logits_budget_mb: int = Field(0, ge=0)
    """MiB for logits over the whole catalogue, in chunks; 0: as the output layer, at least 64."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """ε of label_smoothing: share of the target spread evenly over the catalogue."""
    num_negatives: int = Field(256, ge=1)
    """K: items that a sampled loss draws per step and compares every target with."""
    negative_power: float = Field(0.5, ge=0, le=1)
    """Items are drawn by this power of their popularity: 0 draws all alike, 1 as they occur.
    bce and gbce always draw all alike, as their probabilities would else be those of the draws.
    """
    gbce_calibration: float = Field(0.75, ge=0, le=1)
    """t of gbce: 0 is bce, 1 takes all overconfidence from sampling back."""
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
    softness: Literal["constant", "falling"] = "constant"
    """λ1 and 1-λ2 stay, or fall evenly to 0 over all epochs: soft targets first, sharp at last."""
    beta: float = Field(0.0, ge=0, le=1)
    """β: share of the user's own soft target in an example's, the rest is the item's."""
    gamma: float = Field(0.0, ge=0, le=1)
    """γ: share of what the item before leads to, itself left out; the rest is as β says."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After warm-up the learning rate stays, or falls as a half cosine to 0 over all epochs."""
    warm_up_steps: int = Field(20, ge=1)
    """Optimiser steps over which the learning rate rises to its peak."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay of AdamW."""
    batch_size: int = Field(64, ge=1)
    """B: windows per optimiser step."""
    epochs: int = Field(10, ge=1)
    """Passes over the training windows at most."""
    patience: int = Field(2, ge=1)
    """Epochs without a better validation NDCG@10 before stopping."""
    validation_users: int = Field(20_000, ge=1)
    """Users that judge an epoch at most: a seeded sample where more have validation actions."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest global gradient norm."""
    explosion: float = Field(10.0, gt=1)
    """A step's loss above this multiple of the run's first (or of 1) ends it with an error."""
    seed: int = Field(17, ge=0)
    """Seed of weights, shuffling and dropout."""
    num_threads: int = Field(0, ge=0)
    """Torch threads; 0 takes one per core. Other numbers give other last bits, so the same digest
    on another machine needs the same number.
    """
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products while training, but for those with drawn items; weights, sums and
    optimiser stay float32.
    bfloat16 is faster on GPUs and on CPUs with AMX, and slower on CPUs without AVX-512.
    """
    processes: int = Field(1, ge=1)
    """Training processes on this machine, with a share of each batch; torchrun starts them."""

    @property
    def is_probabilistic(self) -> bool:
        """Whether the loss means softmax of the scores as the probability of the next item.

        BCE and gBCE mean the sigmoid of each score, and BPR nothing but an order.
        """
        return self.loss not in ("bce", "gbce", "bpr")

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.backbone == "sasrec" and self.width % self.num_heads:
            expected = f"a divisor of training.width = {self.width}"
            raise UnfitError("training.num_heads", self.num_heads, expected)
        return self


class EvaluationSettings(Frozen):
    exclude_seen: bool = True
    """Whether items in a user's sequence may be recommended (false) or not (true: discovery)."""
    batch_size: int = Field(256, ge=1)
    """Users scored at once, where the catalogue is not too large for that."""
    light_history: int = Field(5, ge=1)
    """Actions before the holdout that make a user light; one with fewer is new. For slices only."""
    heavy_history: int = Field(50, ge=1)
    """Actions before the holdout that make a user heavy; at least `light_history`."""
    head_share: float = Field(0.8, gt=0, lt=1)
    """Head items are the fewest with this share of actions before the holdout; others are tail."""

    @model_validator(mode="after")
    def _a_heavy_user_is_no_light_one(self) -> Self:
        if self.heavy_history < self.light_history:
            expected = f"at least evaluation.light_history = {self.light_history}"
            raise UnfitError("evaluation.heavy_history", self.heavy_history, expected)
        return self


class GateSettings(Frozen):
    mode: Literal["enforce", "dry_run"] = "enforce"
    """In dry_run the decision is recorded with what it would have been; no champion changes."""
    metric: Literal["ndcg@10", "recall@10"] = "ndcg@10"
    """What candidate, champion and baselines are compared on."""
    floor: float = Field(0.005, ge=0, le=1)
    """The candidate's metric must reach this."""
    coverage_floor: float = Field(0.0, ge=0, le=1)
    """Share of the catalogue that the candidate's lists of 10 must reach; it must be known at 0."""
    popularity_margin: float = Field(0.0)
    """The candidate must beat popularity by more than this."""
    item_knn_margin: float = Field(0.0)
    """The candidate must beat item-kNN by more than this."""
    champion_margin: float = Field(0.05, ge=0, le=1)
    """Share of the champion's metric that the interval's lower end may lie below it."""
    new_users_margin: float = Field(0.2, ge=0, le=1)
    """Share of the champion's metric on new users that the candidate's may lie below it."""
    light_users_margin: float = Field(0.2, ge=0, le=1)
    """Share of the champion's metric on light users that the candidate's may lie below it."""
    tail_items_margin: float = Field(0.2, ge=0, le=1)
    """Share of the champion's metric on tail items that the candidate's may lie below it."""
    slice_min_users: int = Field(50, ge=1)
    """Users of a slice below which its rule is recorded as not judged."""
    max_coverage_drop: float = Field(0.25, ge=0, le=1)
    """Share of the champion's catalogue coverage that the candidate's may lie below it."""
    min_users: int = Field(100, ge=1)
    """Users with a holdout below which nothing is decided."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Confidence level of the paired bootstrap interval."""
    num_resamples: int = Field(2000, ge=100)
    """Bootstrap resamples over users."""
    seed: int = Field(17, ge=0)
    """Seed of the bootstrap and of the canary's users."""
    canary_users: int = Field(50, ge=0)
    """Users whom a registered model must recommend for, in a clean process, before it may serve;
    0 promotes without that."""
    max_load_seconds: float = Field(120.0, gt=0)
    """Longest time from the start of the canary's imports to a loaded model."""
    max_latency_ms: float = Field(1000.0, gt=0)
    """Longest time of a prediction for one user, at the 95th percentile."""
    approval: Literal["none", "required"] = "none"
    """With required, a person must approve in Airflow what the gate lets pass; part of the DAG's
    shape, so no single run can change it."""
    approval_timeout_hours: float = Field(12.0, gt=0, lt=24)
    """How long an answer is waited for; without one the champion stays. The next night waits."""


class RecommendationsSettings(Frozen):
    k: int = Field(10, ge=1)
    """Items per user."""


class RegistrySettings(Frozen):
    tracking_uri: str = ""
    """MLflow tracking and registry address; empty is SQLite under the root."""
    experiment: str = Field("penumbra", min_length=1)
    """MLflow experiment of the nights' runs."""
    model_name: str = Field("penumbra", pattern=r"^[^/:']+$")
    """Registered model that carries the aliases."""


class ReportSettings(Frozen):
    nights: int = Field(28, ge=1, le=36_500)
    """Trailing days whose health the report plots."""
    num_users: int = Field(10, ge=0)
    """Users whose history and recommendations the report shows."""
    names: str = "catalogue/products.parquet"
    """Parquet file under the root with item_id and name; without it reports show item ids."""
