import re

import pytest

from benchmarks import streaming


def test_every_user_is_gone_through_beside_the_memory_that_it_took(tmp_path, capsys):
    streaming.main(["--users", "200", "600", "--root", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    found = [re.fullmatch(r"([\d,]+) users: (\d+) MB, ([\d,]+) examples", x) for x in lines[:2]]
    assert [f[1] for f in found] == ["200", "600"]
    assert [f[3] for f in found] == ["9,400", "28,200"]
    assert all(50 < int(f[2]) < 5000 for f in found)
    more = re.fullmatch(r"(-?[\d,]+) bytes more per user", lines[2])
    assert int(more[1].replace(",", "")) == pytest.approx(
        (int(found[1][2]) - int(found[0][2])) * 1e6 / 400, abs=1e6 / 400
    )
