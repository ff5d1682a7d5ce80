"""Night params: what the form of a manual run offers, and what it changes.

One parameter per setting, derived from the settings' JSON schema: type, range, description, and
as default the value that is loaded. A value that differs from its default reaches the stages as
an environment variable, which overrides their settings file. What may hold a password is not in
the form, which Airflow stores and shows to whoever may see the DAG. What the DAG itself is made of
is shown, and refused in any other value than the loaded one.
"""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from airflow.sdk import Param

from schemas.errors import UsageError
from schemas.settings import ENVIRONMENT_PREFIX, MAY_HOLD_A_PASSWORD, Settings, properties

_DIALECT = {"$schema": "http://json-schema.org/draft-07/schema#"}
"""Airflow checks every schema against its dialect's whenever it looks at a parameter, ten thousand
times a night; this one's is small, and says as much of what settings need as later ones."""
_OWN_ARGUMENTS = ("default", "description", "title")
_OF_THE_RUN = {"ds", "force"}
_HIDDEN = {f"{section}.{key}" for section, keys in MAY_HOLD_A_PASSWORD.items() for key in keys}
_MAKES_THE_DAG = {"gate.approval", "schedule", "alerts"}
"""A setting and sections that are read when the DAG is parsed: no run of it can change them."""


def night_params(settings: Settings) -> dict[str, Param]:
    """`ds`, `force`, and `<section>.<key>` for every setting of the form with its loaded value."""
    params = {
        "ds": Param(
            None,
            type=["null", "string"],
            format="date",
            description="The night's day; empty takes the day of the run's logical date.",
        ),
        "force": Param(
            False,
            type="boolean",
            description="Work even where nothing changed.",
        ),
    }
    for name, property in _in_form().items():
        schema = {key: value for key, value in property.items() if key not in _OWN_ARGUMENTS}
        section = name.split(".")[0]
        if {name, section} & _MAKES_THE_DAG:
            schema["enum"] = [_loaded(settings, name)]
        params[name] = Param(
            _loaded(settings, name), property.get("description"), **schema, section=section
        )
    for param in params.values():
        param.schema |= _DIALECT
    return params


def overrides(params: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    """The environment of the settings that a run's parameters change.

    Args:
        params: A run's resolved parameters, by the names of `night_params`.
        settings: The settings whose values were the defaults.

    Raises:
        UsageError: One may hold a password, or is no setting: Airflow takes any name.
    """
    form = _in_form()
    for name in sorted(params.keys() - form.keys() - _OF_THE_RUN):
        found, fix = f"{name} as a parameter of a run", "the run's configuration"
        if name in _HIDDEN:
            fix = f"{name} in the settings file or the environment, which Airflow shows nobody"
            raise UsageError(found, "settings that the form has", fix)
        (closest,) = get_close_matches(name, [*_OF_THE_RUN, *form], n=1, cutoff=0)
        raise UsageError(found, f"ds, force or a setting, such as {closest}", fix)
    return {
        ENVIRONMENT_PREFIX + name.upper().replace(".", "__"): _as_toml(params[name])
        for name in form
        if name in params and params[name] != _loaded(settings, name)
    }


def _in_form() -> dict[str, Any]:
    """JSON schemas of the settings that the form has, by name."""
    return {name: schema for name, schema in properties().items() if name not in _HIDDEN}


def _loaded(settings: Settings, name: str) -> Any:
    section, key = name.split(".")
    return getattr(getattr(settings, section), key)


def _as_toml(value: Any) -> str:
    """A value as TOML, which is JSON where there are no tables and no escaped surrogates."""
    return json.dumps(value, ensure_ascii=False)
