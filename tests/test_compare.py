"""The table that compares runs."""

import csv
import json
import re

import numpy as np
import pytest
import scipy.stats

from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.reports import comparison
from lightning_pocket.reports.collect import RunResult, read_run, read_runs
from lightning_pocket.reports.table_files import Table
from lightning_pocket.reports.tested import record_test, state_of
from lightning_pocket.reports.verdict import caveats


def write_run(path, parameters, scores):
    (path / "test").mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps({"parameters": parameters}), encoding="utf-8")
    (path / "metrics.csv").write_text("epoch,step,profile/step_ms\n0,1,\n0,2,31.0\n1,3,20.5\n", encoding="utf-8")
    rows = "".join(f"case_{index},{score},{score / 2}\n" for index, score in enumerate(scores))
    (path / "test" / "cases.csv").write_text(f"subject,dice,dice_liver\n{rows}", encoding="utf-8")
    return path


def test_runs_are_compared_with_the_first(tmp_path, capsys):
    full = write_run(tmp_path / "full", 2000, [0.5, 0.7])
    pocket = write_run(tmp_path / "pocket", 50, [0.6, 0.8])
    main(["compare", str(full), str(pocket)])
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header[:2] == ["run", "parameters"]
    assert rows[0][:4] == ["full", "2,000", "100.0%", "20.5"]
    assert rows[1][:4] == ["pocket", "50", "2.5%", "20.5"]
    assert rows[1][4:7] == ["0.7000", "±", "0.1414"]  # sample standard deviation: 0.2 / sqrt(2)
    assert rows[1][7:9] == ["(0.7000)", "0.3500"]


def test_a_run_that_was_not_tested_says_so(tmp_path, capsys):
    full = write_run(tmp_path / "full", 10, [0.5])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "manifest.json").write_text('{"parameters": 5}', encoding="utf-8")
    main(["compare", str(full), str(tmp_path / "new")])
    assert capsys.readouterr().out.splitlines()[-1].count("not tested") == 2


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(PocketError, match=r"nothing: no run here \(no manifest.json\)"):
        read_run(tmp_path / "nothing")


def test_other_metrics_show_their_means_only(tmp_path, capsys):
    run = write_run(tmp_path / "full", 10, [0.5])
    (run / "test" / "cases.csv").write_text(
        "subject,dice,dice_a,hd95_mm,hd95_mm_a,asd_mm,surface_dice,voxels_a\nx,0.5,0.5,4,4,1,0.9,7\n", encoding="utf-8"
    )
    main(["compare", str(run)])
    header = capsys.readouterr().out.splitlines()[0].split()
    assert header[5:] == ["ms", "test/dice", "test/dice_a", "test/hd95_mm", "test/asd_mm", "test/surface_dice"]


def test_a_run_is_read_with_its_curves_memory_and_time(tmp_path):
    run = write_run(tmp_path / "full", 10, [0.5, 0.7])
    (run / "metrics.csv").write_text(
        "epoch,step,profile/peak_cuda_mib,profile/step_ms,train/loss,val/dice\n"
        "0,5,100,20,0.9,\n0,9,,,0.8,0.1\n1,19,120,10,0.5,0.4\n1,19,110,,,\n",
        encoding="utf-8",
    )
    result = read_run(run)
    assert result.curves == {"train/loss": [(1, 0.8), (2, 0.5)], "val/dice": [(1, 0.1), (2, 0.4)]}
    assert result.peak_mib == {"GPU": 120}
    assert result.by_case("dice") == {"case_0": 0.5, "case_1": 0.7}
    assert result.train_s is None
    (run / "manifest.json").write_text('{"parameters": 1, "steps": 300, "train_seconds": 9.5}', encoding="utf-8")
    assert read_run(run).train_s == 9.5


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    paths = [write_run(tmp_path / folder / "net", 10, [0.5]) for folder in ("a", "b")]
    assert [result.name for result in read_runs(paths)] == [path.as_posix() for path in paths]


def test_a_cell_that_is_no_number_is_named(tmp_path):
    run = write_run(tmp_path / "full", 10, [0.5])
    (run / "test" / "cases.csv").write_text("subject,dice\nx,much\n", encoding="utf-8")
    with pytest.raises(PocketError, match=r"cases.csv: column dice holds 'much', expected a number"):
        read_run(run)


def write_cases(path, columns, **manifest):
    """Write a run whose cases have these scores by column."""
    (path / "test").mkdir(parents=True)
    content = {"parameters": 1000, "finished": True} | manifest
    (path / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    count = len(next(iter(columns.values())))
    subjects = {"subject": [f"case_{index:03d}" for index in range(count)]}
    lines = [
        ",".join(subjects | columns),
        *(",".join(map(str, row)) for row in zip(*(subjects | columns).values(), strict=True)),
    ]
    (path / "test" / "cases.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def scores():
    random = np.random.default_rng(4)
    dice = random.uniform(0.7, 0.95, 30)
    return {
        "full": {"dice": dice, "hd95_mm": np.zeros(30), "asd_mm": random.uniform(1, 2, 30)},
        "pocket": {"dice": dice + random.normal(0.002, 0.01, 30), "hd95_mm": np.zeros(30), "asd_mm": np.ones(30)},
        "tiny": {"dice": dice - 0.05 + random.normal(0, 0.01, 30), "hd95_mm": np.zeros(30), "asd_mm": np.ones(30)},
    }


@pytest.fixture
def tested(tmp_path, scores):
    return [str(write_cases(tmp_path / name, columns)) for name, columns in scores.items()]


def read_table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["run"], row["metric"]): row for row in csv.DictReader(file)}


def test_the_csv_holds_paired_statistics_of_every_run_and_metric(tmp_path, tested, scores):
    main(["compare", *tested, f"--table={tmp_path / 'table.csv'}", "--margin_mm=0.5"])
    table = read_table(tmp_path / "table.csv")
    raw = []
    for name in ("pocket", "tiny"):
        for metric in ("dice", "hd95_mm", "asd_mm"):
            row, first, second = table[name, metric], scores["full"][metric], scores[name][metric]
            assert float(row["mean"]) == pytest.approx(second.mean())
            assert float(row["std"]) == pytest.approx(second.std(ddof=1))
            assert float(row["median"]) == pytest.approx(np.median(second))
            assert float(row["difference"]) == pytest.approx((second - first).mean())
            expected = scipy.stats.wilcoxon(second, first).pvalue if (first != second).any() else 1.0
            assert float(row["p"]) == pytest.approx(expected)
            raw.append(expected)
            larger, smaller = (second > first).sum(), (second < first).sum()
            better, worse = (larger, smaller) if metric == "dice" else (smaller, larger)
            assert (int(row["better"]), int(row["worse"])) == (better, worse)
    order = np.argsort(raw)
    stepped = np.maximum.accumulate(np.array(raw)[order] * np.arange(6, 0, -1)).clip(max=1)
    adjusted = dict(zip(order, stepped, strict=True))
    found = [float(row["p_holm"]) for (name, _), row in table.items() if name != "full"]
    assert found == pytest.approx([adjusted[index] for index in range(6)])  # six tests, over both runs
    assert table["full", "dice"]["p"] == ""
    assert table["pocket", "dice"]["non_inferior"] == "yes"
    assert table["tiny", "dice"]["non_inferior"] == "no"
    assert table["tiny", "asd_mm"]["non_inferior"] == "yes"  # a smaller distance is better
    assert (table["tiny", "dice"]["margin"], table["tiny", "asd_mm"]["margin"]) == ("0.01", "0.5")
    main(["compare", *tested, f"--table={tmp_path / 'table.csv'}"])
    assert read_table(tmp_path / "table.csv")["tiny", "asd_mm"]["non_inferior"] == ""


def test_the_verdict_and_the_constant_metric_are_printed_without_warnings(tested, capsys, recwarn):
    main(["compare", *tested])
    output = capsys.readouterr()
    assert re.search(
        r"pocket is no worse than full within 0\.01 Dice \(95% interval of the difference -?0\.00\d\d to 0\.00\d\d; "
        r"p [\d.]+ after Holm\)\.",
        output.out,
    )
    assert "tiny is worse than full by 0.01 Dice or more" in output.out
    assert "both score the same in every case" in output.out
    assert output.err == ""
    assert not list(recwarn)


def test_a_margin_may_be_too_small_for_a_verdict(tested, capsys):
    main(["compare", *tested[:2], "--margin=0.001"])
    assert "pocket is not shown to be no worse than full within 0.001 Dice" in capsys.readouterr().out


def test_metrics_and_classes_are_chosen(tmp_path):
    values = [0.5, 0.6, 0.7]
    columns = {"dice": values, "dice_a": values, "dice_b": values, "asd_mm": values, "asd_mm_a": values}
    runs = [str(write_cases(tmp_path / name, columns)) for name in ("a", "b")]

    def compared(*options):
        main(["compare", *runs, f"--table={tmp_path / 'table.csv'}", *options])
        return [metric for run, metric in read_table(tmp_path / "table.csv") if run == "b"]

    assert compared() == ["dice", "asd_mm"]
    assert compared("--per_class") == ["dice", "dice_a", "dice_b", "asd_mm", "asd_mm_a"]
    assert compared("--metric=dice") == ["dice"]
    assert compared("--metric=dice", "--per_class") == ["dice", "dice_a", "dice_b"]
    assert compared("--metric=asd_mm,dice_b") == ["dice_b", "asd_mm"]
    with pytest.raises(SystemExit):
        main(["compare", *runs, "--metric=auc"])


def test_the_class_of_a_single_one_is_not_tested_twice(tmp_path):
    columns = {"dice": [0.5, 0.6], "dice_liver": [0.5, 0.6]}
    runs = [str(write_cases(tmp_path / name, columns)) for name in ("a", "b")]
    main(["compare", *runs, "--per_class", f"--table={tmp_path / 'table.csv'}"])
    assert [metric for run, metric in read_table(tmp_path / "table.csv") if run == "b"] == ["dice"]


def test_runs_of_other_cases_are_refused_with_examples(tmp_path, fails, capsys):
    first = write_run(tmp_path / "full", 10, [0.5, 0.6, 0.7, 0.8])
    second = write_run(tmp_path / "pocket", 10, [0.5, 0.7])
    text = (second / "test" / "cases.csv").read_text(encoding="utf-8").replace("case_1", "other")
    (second / "test" / "cases.csv").write_text(text, encoding="utf-8")
    message = fails(["compare", str(first), str(second)])
    assert "3 only in full ('case_1', 'case_2', 'case_3'); 1 only in pocket ('other')" in message
    assert "compare the 1 that all share with --common" in message
    main(["compare", str(first), str(second), "--common"])
    assert "Compared on the 1 case that all runs share, of 4 of full, 2 of pocket." in capsys.readouterr().out


def test_common_cases_are_paired_by_name_not_by_place(tmp_path):
    first = write_run(tmp_path / "full", 10, [0.5, 0.6, 0.7])
    second = write_run(tmp_path / "pocket", 10, [0.5, 0.6, 0.7])
    head, *lines = (second / "test" / "cases.csv").read_text(encoding="utf-8").splitlines()
    (second / "test" / "cases.csv").write_text(
        "\n".join([head, *lines[:0:-1]]) + "\n", encoding="utf-8"
    )  # without case_0
    main(["compare", str(first), str(second), "--common", f"--table={tmp_path / 'table.csv'}"])
    row = read_table(tmp_path / "table.csv")["pocket", "dice"]
    assert (row["cases"], row["equal"], float(row["difference"])) == ("2", "2", 0)
    assert float(row["mean"]) == pytest.approx(0.65)


def test_runs_without_a_common_case_stay_refused(tmp_path, fails):
    first = write_run(tmp_path / "full", 10, [0.5])
    second = write_run(tmp_path / "pocket", 10, [0.5])
    (second / "test" / "cases.csv").write_text("subject,dice\nother,0.5\n", encoding="utf-8")
    assert "they share none" in fails(["compare", str(first), str(second), "--common"])


def test_a_case_that_was_tested_twice_is_named(tmp_path, fails):
    run = write_run(tmp_path / "full", 10, [0.5])
    (run / "test" / "cases.csv").write_text("subject,dice\nx,0.5\nx,0.5\n", encoding="utf-8")
    assert "case 'x' was tested twice" in fails(["compare", str(run)])


def test_different_kinds_of_checkpoints_are_warned_of(tmp_path, scores, capsys):
    runs = [str(write_cases(tmp_path / kind, scores["full"])) for kind in ("last", "best")]
    for kind in ("last", "best"):
        record_test(tmp_path / kind, state_of(tmp_path / kind, {}) | {"checkpoint": kind})
    main(["compare", *runs])
    assert "tested with different kinds of checkpoints: last last, best best." in capsys.readouterr().out
    (tmp_path / "best" / "crossval.json").write_text('{"checkpoint": "last"}', encoding="utf-8")  # that of all folds
    results = [RunResult(kind, 1, None, subjects=["x"], path=tmp_path / kind) for kind in ("last", "best")]
    assert not any("checkpoints" in line for line in caveats(results))
    (tmp_path / "last" / "crossval.json").write_text('{"checkpoint": "best"}', encoding="utf-8")
    assert any("checkpoints: last best, best last." in line for line in caveats(results))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--margin=-1", "--margin -1.0: expected a difference of 0 or more"),
        ("--resamples=0", "--resamples 0: expected 1 or more"),
        ("--table=x.pdf", "expected one of .csv, .txt, .md, .tex"),
        ("--metric=dise", "--metric dise: the runs do not have it. They have dice, hd95_mm, asd_mm"),
    ],
)
def test_bad_options_are_named(tested, fails, option, message):
    assert message in fails(["compare", *tested, option])


def test_tables_are_written_for_readers(tmp_path, tested):
    for ending in ("md", "tex", "txt"):
        main(["compare", *tested[:2], f"--table={tmp_path / f'table.{ending}'}"])
    text = {ending: (tmp_path / f"table.{ending}").read_text(encoding="utf-8") for ending in ("md", "tex", "txt")}
    assert "| run | parameters (M) | Dice | p | HD95 (mm) | p | ASD (mm) | p |\n| --- |" in text["md"]
    assert re.search(r"\| pocket \| 0\.001 \| 0\.\d{3} ± 0\.\d{3} \(0\.\d{3}\) \| \d\.\d{3} \|", text["md"])
    column = text["txt"].splitlines()[1].index("Dice")
    assert re.match(r"0\.\d{3} ± ", text["txt"].splitlines()[3][column:])
    assert text["tex"].count(r"\toprule") == text["tex"].count(r"\end{table}") == 2


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


def test_classifications_are_compared_by_auc_and_accuracy(tmp_path, capsys, monkeypatch):
    compared = []
    auc = comparison._CLASSIFIED["auc"]
    monkeypatch.setitem(comparison._CLASSIFIED, "auc", lambda *given: compared.append(given) or auc(*given))

    def write(name, probabilities):
        lines = ["subject,target,predicted,prob_no,prob_yes"]
        for index, p in enumerate(probabilities):
            lines.append(f"i{index},{('no', 'yes')[index % 2]},{'yes' if p > 0.5 else 'no'},{1 - p},{p}")
        run = write_run(tmp_path / name, 10, [])
        (run / "test" / "cases.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(run)

    good = [0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.45, 0.6]
    bad = [0.1, 0.2, 0.6, 0.8, 0.3, 0.4, 0.4, 0.6]
    runs = [write("full", good), write("pocket", bad)]
    main(["compare", *runs, f"--table={tmp_path / 'table.csv'}", f"--output={tmp_path / 'page.html'}"])
    assert len(compared) == 1
    table = read_table(tmp_path / "table.csv")
    assert float(table["full", "auc"]["mean"]) == 1
    pairs = [(p > n) + 0.5 * (p == n) for p in bad[1::2] for n in bad[::2]]
    assert float(table["pocket", "auc"]["difference"]) == pytest.approx(np.mean(pairs) - 1)
    assert table["pocket", "auc"]["p"] == ""
    assert float(table["pocket", "accuracy"]["difference"]) == pytest.approx(-3 / 8)
    assert float(table["pocket", "accuracy"]["p"]) == pytest.approx(0.25)  # three fair coins that fall alike
    assert "within 0.01 AUC" in capsys.readouterr().out
    assert "<h2>Statistics</h2>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_holds_statistics_and_verdict(tmp_path, tested):
    main(["compare", *tested, f"--output={tmp_path / 'page.html'}", "--margin_mm=0.3"])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "pocket is no worse than full within 0.01 Dice (95% interval of the difference" in html
    assert html.index("<h2>Statistics</h2>") > html.index("<h2>Results</h2>")
    assert "10,000 resamples, seed 0" in html
    assert "pocket, HD95 (mm): both score the same in every case." in html
    assert "--margin_mm=0.3" in html  # the command that makes the page again
