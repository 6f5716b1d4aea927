"Tables: the same cells in Markdown and LaTeX, published values in grey."

import re

from mmccd.tables import Table, align_table, latex_table, markdown_table


def test_markdown_table():
    text = markdown_table(["a", "b"], [["x", ("1", "2")], ["y", ("", "3")]], "c")
    assert text == (
        "c\n\n| a | b |\n| --- | --- |\n"
        '| x | 1 <span style="color:gray">(2)</span> |\n| y | <span style="color:gray">(3)</span> |'
    )
    assert markdown_table(["a"], [["x"]]) == "| a |\n| --- |\n| x |"


def test_latex_table():
    text = latex_table(["x", "y"], [["a_b", ("1", "5%")]], "50 % & more")
    assert r"a\_b & 1 \textcolor{gray}{(5\%)} \\" in text
    assert r"\caption{50 \% \& more}" in text
    assert r"\begin{tabular}{lr}" in text
    assert text.count("{") == text.count("}")
    assert not re.search(r"(?<!\\)[%_#$]", text)
    assert r"\caption" not in latex_table(["x"], [["y"]])


def test_a_table_writes_itself():
    table = Table(["a", "b"], [["x", "1"]], "c")
    assert table.write() == markdown_table(table.head, table.rows, "c")
    assert table.write(latex_table) == latex_table(table.head, table.rows, "c")


def test_align_table():
    assert align_table("above\n\n" + markdown_table(["a", "long name"], [["longer", "1"]])) == (
        "above\n\n| a      | long name |\n| ------ | --------- |\n| longer | 1         |"
    )
