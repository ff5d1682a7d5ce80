"""Rules: the gate's conditions one by one, each with what it found.

A rule is `passed`, `failed`, `unclear` (what was measured does not decide it) or `not judged`
(it does not apply, which the ledger says rather than calling it passed).
"""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

Result = Literal["passed", "failed", "unclear", "not judged"]
Missed = Literal["failed", "unclear"]

_COMPARE = {
    "≥": lambda value, limit: value >= limit,
    ">": lambda value, limit: value > limit,
    "=": lambda value, limit: value == limit,
}


@dataclass(frozen=True)
class Rule:
    """One condition: `about` must compare with the limit as stated."""

    name: str
    about: str
    value: float | None
    sign: Literal["≥", ">", "="]
    limit: float
    interval: tuple[float, float] | None = None
    """Of the gain that the value is an estimate of: while it reaches 0, no harm is proven."""
    if_missed: Missed = "failed"
    """What a value beyond the limit means."""
    is_judged: bool = True

    @property
    def result(self) -> Result:
        """What the rule says; a value that is missing or not a number is unclear."""
        if not self.is_judged:
            return "not judged"
        if self.value is None or not math.isfinite(self.value):
            return "unclear"
        if _COMPARE[self.sign](self.value, self.limit):
            return "passed"
        return "unclear" if self.interval and self.interval[1] >= 0 else self.if_missed

    def __str__(self) -> str:
        value = "missing" if self.value is None else f"{self.value:.4g}"
        words = f"{self.about} is {value}, must be {self.sign} {self.limit:.4g}"
        return words if self.is_judged else f"{words}; not judged"

    def as_row(self) -> dict[str, Any]:
        """The rule as the ledger keeps it; NaN becomes null."""
        known = self.value is not None and math.isfinite(self.value)
        row = {"rule": self.name, "result": self.result, "value": self.value if known else None}
        row |= {"limit": self.limit, "about": str(self)}
        return row | ({"interval": list(self.interval)} if self.interval else {})


def rules_json(rules: list[Rule]) -> str:
    """Rules as the ledger keeps them."""
    return json.dumps([r.as_row() for r in rules], ensure_ascii=False, allow_nan=False)


def named(rules: list[Rule], result: Result) -> str:
    """Every rule with this result, value and limit included."""
    return "; ".join(f"{rule.name}: {rule}" for rule in rules if rule.result == result)
