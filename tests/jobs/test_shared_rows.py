import numpy as np
import pytest

from jobs.shared_rows import SharedRows

ENDS, COLUMNS, VALUES = [0, 2, 2, 5], [4, 1, 0, 2, 3], [0.1, 0.2, 0.3, 0.4, 0.5]


def rows(first=0, end=3):
    """Rows of the matrix above as a piece of their own."""
    start, stop = ENDS[first], ENDS[end]
    ends = np.array(ENDS[first : end + 1]) - start
    return ends, np.array(COLUMNS[start:stop], np.int32), np.array(VALUES[start:stop])


def opened(shared):
    return [part.tolist() for part in shared.open()]


@pytest.mark.parametrize("pieces", [[(0, 3)], [(0, 1), (1, 2), (2, 3)], [(0, 2), (2, 3)]])
def test_appended_pieces_are_one_matrix(tmp_path, pieces):
    shared = SharedRows(tmp_path, "graph")
    shared.append(rows(*piece) for piece in pieces)
    assert opened(shared) == [ENDS, COLUMNS, VALUES]
    assert shared.num_bytes() == 4 * 8 + 5 * 4 + 5 * 8


def test_scattered_rows_go_to_their_numbers(tmp_path):
    shared = SharedRows(tmp_path, "items")
    pieces = [(np.array([2], np.int32), rows(2, 3)), (np.array([1, 0], np.int32), rows(1, 3))]
    shared.scatter(np.array([3, 0, 3]), pieces)
    assert opened(shared) == [[0, 3, 3, 6], [0, 2, 3, 0, 2, 3], [0.3, 0.4, 0.5] * 2]


def test_a_matrix_without_entries_can_be_opened(tmp_path):
    shared = SharedRows(tmp_path, "empty")
    shared.scatter(np.zeros(2, int), [])
    assert opened(shared) == [[0, 0, 0], [], []]


def test_what_is_opened_cannot_be_changed(tmp_path):
    shared = SharedRows(tmp_path, "graph")
    shared.append([rows()])
    with pytest.raises(ValueError, match="read-only"):
        shared.open()[2][0] = 1.0
