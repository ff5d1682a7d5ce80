"""Settings: every knob, its default, its allowed range and what it does.

`pipeline.toml` holds the same defaults for reading and editing; environment variables such as
`PENUMBRA_TRAINING__EPOCHS=3` override the file. The Airflow form is derived from these models.
Sections are in `schemas/jobs_settings.py`, `trainer_settings.py` and `dags_settings.py` there.
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from schemas.dags_settings import AlertsSettings, ScheduleSettings
from schemas.errors import SettingsError, may_pass
from schemas.jobs_settings import (
    EventsSettings,
    Frozen,
    HealthSettings,
    ItemGraphSettings,
    ItemsSettings,
    SequencesSettings,
    SoftTargetsSettings,
    SparkSettings,
    SplitSettings,
    UnfitError,
)
from schemas.trainer_settings import (
    EvaluationSettings,
    GateSettings,
    RecommendationsSettings,
    RegistrySettings,
    ReportSettings,
    TrainingSettings,
)

__all__ = [
    "AlertsSettings",
    "EvaluationSettings",
    "EventsSettings",
    "Frozen",
    "GateSettings",
    "HealthSettings",
    "ItemGraphSettings",
    "ItemsSettings",
    "RecommendationsSettings",
    "RegistrySettings",
    "ReportSettings",
    "ScheduleSettings",
    "SequencesSettings",
    "Settings",
    "SoftTargetsSettings",
    "SparkSettings",
    "SplitSettings",
    "TrainingSettings",
    "allowed",
    "load",
    "properties",
]

MAY_HOLD_A_PASSWORD = {"registry": {"tracking_uri"}, "spark": {"conf"}}
"""Settings by section that neither a form nor a record of a run shows."""
ENVIRONMENT_PREFIX = "PENUMBRA_"


class Settings(Frozen):
    """All sections. A stage is handed this whole and reads what it needs."""

    events: EventsSettings = EventsSettings()
    health: HealthSettings = HealthSettings()
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
    report: ReportSettings = ReportSettings()
    spark: SparkSettings = SparkSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    alerts: AlertsSettings = AlertsSettings()

    @model_validator(mode="after")
    def _some_days_train(self) -> Self:
        if self.events.history_days <= self.split.days_apart:
            raise UnfitError(
                "events.history_days",
                f"{self.events.history_days}, all of it validation and holdout",
                f"more than split.holdout_days + split.validation_days = {self.split.days_apart}",
            )
        return self

    def dotted(self, *sections: str) -> dict[str, Any]:
        """The values of some sections by dotted name, such as `item_graph.window`."""
        return {
            f"{section}.{key}": value
            for section in sections
            for key, value in getattr(self, section).model_dump().items()
        }

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
        section, key = _address(variable)
        if section:
            of_section = values.setdefault(section, {})
            if not isinstance(of_section, dict):
                raise SettingsError(f"{section} = {of_section!r}", f"[{section}]", str(source))
            of_section[key] = _parse(f"{section}.{key}", text)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise _explain(error, source) from error


def _address(variable: str) -> tuple[str, str]:
    """Section and key that an environment variable sets; both empty where it is no setting's.

    Raises:
        SettingsError: It has one underscore where two belong.
    """
    if not variable.startswith(ENVIRONMENT_PREFIX):
        return "", ""
    rest = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
    if "__" in rest:
        section, key = rest.split("__", 1)
        return section, key
    for name in properties():
        if rest == name.replace(".", "_"):
            expected = ENVIRONMENT_PREFIX + name.upper().replace(".", "__")
            raise SettingsError(f"the variable {variable}", expected, "rename it")
    return "", ""


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise SettingsError(f"no file {path}", "a TOML file", "--settings") from error
    except OSError as error:
        if may_pass(error):
            raise
        raise SettingsError(f"{path}: {error.strerror}", "a TOML file", "--settings") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise SettingsError(f"{path}: {error}", "valid TOML", str(path)) from error


def _parse(name: str, text: str) -> Any:
    """A variable's value; a text needs no quotes, even where it looks like a date or a number."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    is_text = properties().get(name, {}).get("type") == "string"
    return text if is_text and not isinstance(value, str) else value


@cache
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
    unfit = first.get("ctx", {}).get("error")
    if isinstance(unfit, UnfitError):
        where = _where(unfit.key, source)
        return SettingsError(f"{unfit.key} = {unfit.found}", unfit.expected, where)
    key = ".".join(str(part) for part in first["loc"][:2])
    known = properties()
    siblings = [k for k in known if k.startswith(f"{first['loc'][0]}.")] or {
        k.split(".")[0] for k in known
    }
    expected = allowed(known[key]) if key in known else "one of " + ", ".join(sorted(siblings))
    section, _, name = key.partition(".")
    if first["type"] == "extra_forbidden":  # of a misspelt name nobody knows what it holds
        return SettingsError(f"{key}, which is no setting", expected, _where(key, source))
    is_secret = name in MAY_HOLD_A_PASSWORD.get(section, ())
    found = "a value that may hold a password" if is_secret else repr(first["input"])
    return SettingsError(f"{key} = {found}", expected, _where(key, source))


def _where(key: str, source: Path | None) -> str:
    variable = ENVIRONMENT_PREFIX + key.upper().replace(".", "__")
    return f"{source or 'pipeline.toml'} or {variable}"
