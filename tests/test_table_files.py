"""Files of tables: LaTeX and Markdown."""

import re

from lightning_pocket.reports.table_files import Table


def test_latex_is_escaped():
    table = Table("50% of a_b & c", ["{x}", "p"], [["a\\b ~ ^ # $", "5.1e-07"], ["-0.5 ± 0.1", "covid-19 < 3"]])
    lines = table.latex().splitlines()
    assert lines[2] == r"  \caption{50\% of a\_b \& c}"
    assert r"    \{x\} & p \\" in lines
    assert r"    a\textbackslash{}b \textasciitilde{} \textasciicircum{} \# \$ & 5.1$\times10^{-7}$ \\" in lines
    assert r"    $-$0.5 $\pm$ 0.1 & covid-19 $<$ 3 \\" in lines
    bare = re.sub(r"\\[{}]", "", table.latex())
    assert bare.count("{") == bare.count("}")


def test_markdown_is_escaped_and_columns_align():
    table = Table("a|b", ["x", "y"], [["1|2", "*"], ["longer", "z"]])
    assert table.markdown().splitlines()[-2] == r"| 1\|2 | \* |"
    assert table.text().splitlines() == ["a|b", "x       y", "------  -", "1|2     *", "longer  z"]
