"""Files of tables: LaTeX and Markdown."""

import re

import pytest

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.table_files import Table, check_table_path


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


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "table.csv").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    check_table_path("--table", tmp_path / "new" / "folder" / "table.csv")
    for path, message in [
        (tmp_path / "file" / "a" / "t.csv", f"cannot be written, {tmp_path / 'file'} takes no files"),
        (tmp_path / "loop" / "t.csv", f"cannot be written, {tmp_path / 'loop'} takes no files"),
        (tmp_path / "table.csv", "is a folder. Name a file, such as"),
        (tmp_path / "t.html", "ends in '.html'"),
    ]:
        with pytest.raises(PocketError, match=f"^--table {re.escape(str(path))}: {re.escape(message)}"):
            check_table_path("--table", path)
    assert sorted(tmp_path.rglob("*")) == before
