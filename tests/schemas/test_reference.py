from schemas.reference import CHAIN, main, tables_markdown


def test_the_generated_files_in_the_tree_are_current():
    assert main(["--check"]) == 0


def test_every_column_of_every_table_is_documented():
    text = tables_markdown()
    missing = [f.name for c in CHAIN for f in c.fields if f"| `{f.name}` |" not in text]
    assert missing == []
