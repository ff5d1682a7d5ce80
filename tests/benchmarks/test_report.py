from benchmarks.report import markdown_table


def test_a_bar_inside_a_cell_does_not_end_it():
    heading, _, row = markdown_table(["on", "found"], [["|V| 43,000", "1.0"]])
    assert heading == "| on | found |"
    assert row == r"| \|V\| 43,000 | 1.0 |"
