"""Reference: writes what is derived from contracts and settings, or checks that it is current.

`python -m schemas.reference` writes `docs/tables.md` and `pipeline.toml`; `--check` says which
of them differ and exits with 65.
"""

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from schemas.checkpoints import CHECKPOINTS
from schemas.contract import Contract
from schemas.errors import DataError
from schemas.events import EVENTS
from schemas.health import HEALTH
from schemas.interactions import INTERACTIONS
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.promotions import PROMOTIONS
from schemas.quarantine import QUARANTINE
from schemas.recommendations import RECOMMENDATIONS
from schemas.scorecards import SCORECARDS
from schemas.sequences import SEQUENCES
from schemas.settings import ENVIRONMENT_PREFIX, allowed, properties
from schemas.soft_targets import SOFT_TARGETS

CHAIN: tuple[Contract, ...] = (
    EVENTS,
    INTERACTIONS,
    QUARANTINE,
    HEALTH,
    ITEMS,
    SEQUENCES,
    ITEM_GRAPH,
    SOFT_TARGETS,
    CHECKPOINTS,
    SCORECARDS,
    PROMOTIONS,
    RECOMMENDATIONS,
)
"""All tables in the order a night writes them."""


def tables_markdown() -> str:
    """`docs/tables.md`: every table and column, in chain order."""
    parts = [
        "# Tables",
        "Made from the contracts in `schemas/` by `python -m schemas.reference`; do not edit.",
    ]
    for contract in CHAIN:
        key = ", ".join(f"`{k}`" for k in contract.key) or "none; rows may repeat"
        parts.append(f"## {contract.table} (v{contract.version})")
        parts.append(contract.about)
        parts.append(f"Written by `{contract.stage}`. Key: {key}.")
        rows = [
            f"| `{f.name}` | {f.type} | {'yes' if f.nullable else 'no'} "
            f"| {f.limits or '–'} | {f.about} |"
            for f in contract.fields
        ]
        header = ["| column | type | null | values | meaning |", "|---|---|---|---|---|"]
        parts.append("\n".join(header + rows))
    return "\n\n".join(parts) + "\n"


def pipeline_toml() -> str:
    """`pipeline.toml`: every setting with its default, meaning and allowed values."""
    intro = (
        "All settings with their defaults; change a copy and pass it with --settings. "
        "The environment overrides the file: "
        f"{ENVIRONMENT_PREFIX}TRAINING__EPOCHS=3 sets epochs under [training]. "
        "What to begin with is in demo/pipeline.toml for repeat purchases, and in "
        "docs/experiments.md for what comes next."
    )
    lines, current = [_comment(intro)], ""
    for name, property in properties().items():
        section, key = name.split(".")
        if section != current:
            lines.append(f"\n[{section}]")
            current = section
        about = property["description"].replace("\n", " ")
        lines.append(_comment(f"{about} ({allowed(property)})"))
        lines.append(f"{key} = {_toml(property.get('default', {}))}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, 96))


def _toml(value: Any) -> str:
    return "{}" if value == {} else json.dumps(value)


GENERATED = {Path("docs/tables.md"): tables_markdown, Path("pipeline.toml"): pipeline_toml}


def main(arguments: list[str]) -> int:
    """Writes the generated files, or with `--check` compares them."""
    project = Path(__file__).parent.parent
    if "--check" in arguments:
        stale = [str(p) for p, make in GENERATED.items() if (project / p).read_text() != make()]
        if stale:
            found = f"{', '.join(stale)} out of date"
            error = DataError(found, "what schemas/ says", "python -m schemas.reference")
            print(f"schemas.reference: {error}", file=sys.stderr)
            return error.exit_code
        return 0
    for path, make in GENERATED.items():
        (project / path).write_text(make())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
