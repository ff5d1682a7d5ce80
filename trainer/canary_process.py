"""Canary process: loads a model's folder and recommends, with nothing but what it is given.

`python -I -S canary_process.py REQUEST ANSWER`, two JSON files. It runs outside this project:
its imports are the standard library's, those of the folder of packages that the request names,
and the model's own code.
"""

import errno
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path

NO_MEMORY = "can't allocate memory"
"""What torch says, in a RuntimeError, where the machine has too little left."""


def main(request_file: Path, answer_file: Path) -> None:
    """Answers a request of `trainer.canary`."""
    request = json.loads(request_file.read_text())
    signal.alarm(request["timeout_seconds"])  # also where nobody is left to stop it
    standard = list(sys.path)
    sys.path.append(request["packages"])
    started = time.monotonic()
    import mlflow
    import pandas as pd

    model = mlflow.pyfunc.load_model(request["model"])
    load_seconds = time.monotonic() - started
    rows, milliseconds = [], []
    for asked in request["rows"]:
        frame = pd.DataFrame([asked])
        started = time.monotonic()
        predicted = model.predict(frame)
        milliseconds.append((time.monotonic() - started) * 1000)
        rows += predicted.to_dict("records")
    answer = {
        "signature": model.metadata.signature.to_dict(),
        "rows": rows,
        "load_seconds": load_seconds,
        "milliseconds": milliseconds,
        "foreign": _foreign([*standard, request["packages"], request["model"]]),
        "own": [sys.modules[name].__file__ for name in ("schemas", "trainer")],
    }
    answer_file.write_text(json.dumps(answer))


def _foreign(allowed: list[str]) -> dict[str, str]:
    """Imported modules whose file is in none of the allowed folders, nor this one.

    A name that is no path is none either: torch makes modules up, and names a file for them.
    """
    folders = [Path(folder) for folder in [*allowed, __file__]]
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    return {
        name: file
        for name, file in files.items()
        if file
        and Path(file).is_absolute()
        and not any(Path(file).is_relative_to(folder) for folder in folders)
    }


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (MemoryError, OSError, RuntimeError) as error:
        lacking = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
        lacking |= {errno.EIO, errno.ESTALE, errno.EAGAIN}
        is_torchs = isinstance(error, RuntimeError) and NO_MEMORY in str(error)
        if not (
            isinstance(error, MemoryError) or is_torchs or getattr(error, "errno", None) in lacking
        ):
            raise
        print(repr(error), file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
    gc.freeze()  # or the collector would go through all that torch consists of once more
