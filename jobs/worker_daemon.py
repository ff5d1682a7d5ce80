"""Worker daemon: what Spark forks its Python workers from where it runs locally.

Spark starts one process (`python -m jobs.worker_daemon`) for its first Python task and forks a
worker per core from it. What tasks need is imported once, before the first fork. By itself Spark
would let every worker import everything, and pyspark out of an archive, which is compiled anew at
every start.

A stage has imported all of it before it starts Spark. So it forks a process that waits while Java
starts (`prestart`); the one that Spark starts then hands its streams and environment over to that
one, and stays only because Spark looks whether it lives. Where nobody waits, it imports everything
and does the same work.
"""

import json
import os
import select
import socket
import struct
import sys
import traceback
from pathlib import Path

from schemas.collector import at_work

ARCHIVES = ("pyspark.zip", "py4j-")
"""Beginnings of the names of what Spark puts on the path before the installed packages."""
WAITING = "PENUMBRA_WORKER_DAEMON"
"""Environment variable: the name of the abstract socket at which a process waits."""
STREAMS = (0, 1, 2)
CREDENTIALS = struct.Struct("3i")
"""Process, user and group at the other end of a Unix socket."""


def prestart() -> None:
    """Forks a process that waits for the Spark which this one starts next, and ends with this one.

    Call it before this process has threads: the other would lack them.
    """
    if sys.platform != "linux" or WAITING in os.environ:
        return
    name = f"penumbra-{os.getpid()}-{os.urandom(8).hex()}"
    child_end, parent_end = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        sys.stdout.flush()
        if os.fork() == 0:
            os.close(parent_end)
            _wait(listener, child_end)
    os.close(child_end)  # the other end closes when this process ends
    os.environ[WAITING] = name


def main() -> None:
    """What Spark starts."""
    if not _hand_over():
        sys.path[:] = [path for path in sys.path if not Path(path).name.startswith(ARCHIVES)]
        _warm_up()
        _serve()


def _wait(listener: socket.socket, parent: int) -> None:
    """In the forked process: becomes Spark's daemon when asked to; never returns."""
    try:
        _warm_up()
        while True:
            ready, _, _ = select.select([listener.fileno(), parent], [], [])
            if parent in ready:
                break
            peer, _ = listener.accept()
            if _is_of_this_user(peer):
                listener.close()
                os.close(parent)
                _take_over(peer)
                _serve()
            peer.close()
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(1)


def _hand_over() -> bool:
    """Gives all this process has to one that waits, and stays until that ends; False if none."""
    name = os.environ.pop(WAITING, "")
    if not name:
        return False
    with socket.socket(socket.AF_UNIX) as peer:
        try:
            peer.connect(f"\0{name}")
        except ConnectionRefusedError:  # an earlier Spark of the stage's process took it
            return False
        if not _is_of_this_user(peer):
            return False
        socket.send_fds(peer, [b"\0"], STREAMS)
        peer.sendall(json.dumps([sys.argv, dict(os.environ)]).encode())
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1)
    return True


def _take_over(peer: socket.socket) -> None:
    """The other side of `_hand_over`."""
    _, streams, _, _ = socket.recv_fds(peer, 1, len(STREAMS))
    with peer.makefile("rb") as message:
        sys.argv[:], environment = json.load(message)
    os.environ.clear()
    os.environ.update(environment)
    for given, stream in zip(streams, STREAMS, strict=True):
        os.dup2(given, stream)
        os.close(given)


def _is_of_this_user(peer: socket.socket) -> bool:
    found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return CREDENTIALS.unpack(found)[1] == os.geteuid()


def _warm_up() -> None:
    """Imports what tasks need, compiled loops included."""
    import numpy as np
    import pyarrow as pa

    import jobs.item_graph
    import jobs.soft_targets  # noqa: F401
    from jobs.top_k import top_k_of_rows

    pa.array(np.zeros(1)).to_numpy()  # with its first array pyarrow imports pandas
    # Before its first function numba loads all that any may need, which takes a third of a second.
    top_k_of_rows(np.array([0, 1]), np.ones(1, np.int32), np.ones(1), 1)


def _serve() -> None:
    """Spark's own daemon: forks workers until Java ends."""
    from pyspark.daemon import manager

    with at_work():
        manager()


if __name__ == "__main__":
    main()
