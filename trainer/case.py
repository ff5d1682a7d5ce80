"""Case: what one decision of the gate is about, and whether its tables fit together."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from schemas.checkpoints import CHECKPOINTS
from schemas.errors import RegistryError
from schemas.items import ITEMS
from schemas.partitions import Partition, get
from schemas.scorecards import SCORECARDS
from trainer.versions import CHAMPION, Version


@dataclass(frozen=True)
class Case:
    """Everything one decision is about."""

    checkpoint: Partition
    items: Partition
    scorecards: Partition
    weights_sha256: str
    trained_until: date

    @property
    def ds(self) -> date:
        """The night."""
        return self.checkpoint.ds

    @property
    def has_seen_holdout(self) -> dict[str, bool | None]:
        """By model, whether it trained on days of the holdout; None where nobody can say."""
        notes = self.scorecards.manifest.notes
        return {model: notes.get(f"{model}_has_seen_holdout") for model in ("candidate", CHAMPION)}

    @property
    def rerun(self) -> str:
        """The command that mends scorecards that do not fit."""
        return f"re-run python -m trainer.evaluation --ds {self.ds}, then this stage"


def case_of(root: Path, ds: date) -> Case:
    """The case of a night, from its published tables.

    Raises:
        MissingInputError: One is missing.
        RegistryError: The scorecards are of other weights than the checkpoint's.
    """
    checkpoint, items, scorecards = (
        get(root, contract, ds) for contract in (CHECKPOINTS, ITEMS, SCORECARDS)
    )
    (row,) = checkpoint.read(["weights_sha256", "trained_until"]).to_pylist()
    case = Case(checkpoint, items, scorecards, row["weights_sha256"], row["trained_until"])
    rows = scorecards.read(["model", "model_digest"]).to_pylist()
    found = {r["model_digest"] for r in rows if r["model"] == "candidate"}
    if found != {case.weights_sha256}:
        raise RegistryError(
            f"scorecards of weights {sorted(d[:12] for d in found)}",
            f"those of tonight's checkpoint, {case.weights_sha256[:12]}",
            case.rerun,
        )
    return case


def is_newer(champion: Version | None, case: Case) -> bool:
    """Whether a champion was trained on newer data than the candidate."""
    return champion is not None and champion.trained_until > case.trained_until


def refuse_other_champion(case: Case, champion: Version | None) -> None:
    """Refuses scorecards against another champion than the one that serves.

    One trained on newer data holds the candidate however it was scored.

    Raises:
        RegistryError: Naming both.
    """
    scored = [i for i in case.scorecards.manifest.inputs if i["table"] == CHAMPION]
    found = scored[0]["run"] if scored else "none"
    current = str(champion.number) if champion else "none"
    if found != current and not is_newer(champion, case):
        raise RegistryError(
            f"scorecards against champion {found}", f"the current champion, {current}", case.rerun
        )
