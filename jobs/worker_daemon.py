"""Worker daemon: what Spark forks its Python workers from where it runs locally.

Spark starts one process (`python -m jobs.worker_daemon`) for its first Python task and forks a
worker per core from it. What tasks need is imported once, before the first fork. By itself Spark
would let every worker import everything, and pyspark out of an archive, which is compiled anew at
every start.
"""

import sys
from pathlib import Path

ARCHIVES = ("pyspark.zip", "py4j-")
"""Beginnings of the names of what Spark puts on the path before the installed packages."""


def main() -> None:
    """Prepares this process, then does what Spark's own daemon does, until Java ends."""
    sys.path[:] = [path for path in sys.path if not Path(path).name.startswith(ARCHIVES)]
    import numpy as np

    import jobs.item_graph
    import jobs.soft_targets  # noqa: F401
    from jobs.top_k import top_k_of_rows

    # Before its first function numba loads all that any may need, which takes a third of a second.
    top_k_of_rows(np.array([0, 1]), np.ones(1, np.int32), np.ones(1), 1)
    from pyspark.daemon import manager

    manager()


if __name__ == "__main__":
    main()
