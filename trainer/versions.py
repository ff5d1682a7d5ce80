"""Versions: what the tables know of a registered model."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from schemas.partitions import Input

CHAMPION = "champion"
"""The alias of the version that serves, and the name under which stages list it as an input."""


@dataclass(frozen=True)
class Version:
    """One registered model: its number, its weights, its night and the last day it trained on.

    `split` names what its night was split by (`SplitSettings.name`); empty where it does not say.
    """

    number: int
    weights_sha256: str
    ds: date
    trained_until: date
    split: str = ""

    def as_input(self) -> Input:
        """This model as a line of lineage: `run` is the version, `digest` its weights."""
        return Input(CHAMPION, self.ds.isoformat(), str(self.number), self.weights_sha256)


def numbers_in(inputs: Iterable[Input]) -> list[int]:
    """Numbers of the registered models among the inputs of a stage, whoever serves by now."""
    return [int(item.run) for item in inputs if item.table == CHAMPION]
