import re

from benchmarks import streaming


def test_every_user_is_gone_through_and_memory_is_that_of_a_process(tmp_path, capsys):
    streaming.main(["--users", "200", "600", "--root", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    found = [re.fullmatch(r"([\d,]+) users: (\d+) MB, ([\d,]+) examples", x) for x in lines[:2]]
    assert [f[1] for f in found] == ["200", "600"]
    assert [f[3] for f in found] == ["9,400", "28,200"]
    assert all(50 < int(f[2]) < 5000 for f in found)
    assert lines[2].endswith("bytes more per user")
