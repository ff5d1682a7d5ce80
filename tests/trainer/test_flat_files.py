import gc
import os
from pathlib import Path

import numpy as np
import pytest

from trainer.flat_files import FlatFile

OPEN_FILES = Path("/proc/self/fd")


def test_what_is_appended_is_read_one_behind_the_other(tmp_path):
    file = FlatFile(np.int32, tmp_path)
    file.append([3, 1])
    file.append(np.array([4], dtype=np.int64))
    assert file.size == 3
    assert file.mapped().tolist() == [3, 1, 4]
    assert file.mapped().dtype == np.int32


def test_nothing_appended_is_an_empty_array():
    assert FlatFile(np.float32).mapped().tolist() == []


def test_a_written_array_leaves_others_of_the_file_as_they_are():
    file = FlatFile(np.int64)
    file.append([1, 2])
    first, second = file.mapped(), file.mapped()
    first[0] = 9
    assert second.tolist() == [1, 2]


def test_the_folder_shows_no_file(tmp_path):
    file = FlatFile(np.int32, tmp_path)
    file.append([1])
    file.mapped()
    assert list(tmp_path.iterdir()) == []


def open_files(folder):
    """Files of a folder that this process holds open, those without a name among them."""
    links = {os.path.realpath(link) for link in OPEN_FILES.iterdir()}
    return [link for link in links if Path(link).is_relative_to(folder)]


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="looks at open files on Linux only")
def test_an_array_outlives_its_file_and_closes_it(tmp_path):
    file = FlatFile(np.int32, tmp_path)
    file.append([5, 6])
    array = file.mapped()
    del file
    gc.collect()
    assert array.tolist() == [5, 6]
    assert open_files(tmp_path)
    del array
    gc.collect()
    assert not open_files(tmp_path)
