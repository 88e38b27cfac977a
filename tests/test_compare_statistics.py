"""`pocket compare`: paired statistics, verdicts and the files that hold them."""

import csv
import json
import re

import numpy as np
import pytest
import scipy.stats
from scored_runs import write_run

from lightning_pocket.cli import main
from lightning_pocket.reports import comparison
from lightning_pocket.reports.case_table import print_cases
from lightning_pocket.reports.collect import RunResult
from lightning_pocket.reports.fold_summary import print_folds
from lightning_pocket.reports.tested import record_test, state_of
from lightning_pocket.reports.verdict import caveats


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
        r"pocket is no worse than full within 0\.01 Dice \(95 % interval of the difference -?0\.00\d\d to 0\.00\d\d; "
        r"p [\d.]+ of a difference, after Holm\)\.",
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
    head = "| run | parameters (M) | Dice | p (Holm) | HD95 (mm) | p (Holm) | ASD (mm) | p (Holm) |"
    assert f"{head}\n| --- |" in text["md"]
    assert re.search(r"\| pocket \| 0\.001 \| 0\.\d{3} ± 0\.\d{3} \(0\.\d{3}\) \| \d\.\d{3} \|", text["md"])
    column = text["txt"].splitlines()[1].index("Dice")
    assert re.match(r"0\.\d{3} ± ", text["txt"].splitlines()[3][column:])
    assert text["tex"].count(r"\toprule") == text["tex"].count(r"\end{table}") == 2


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
    output = capsys.readouterr().out
    assert (
        "No verdict on whether pocket is no worse than full within 0.01 AUC: 4 images of a class or of the others, a "
        "verdict takes 10 (95 % interval" in output
    )
    assert "With 8 test cases, small differences in AUC may be chance." in output
    assert table["pocket", "auc"]["note"].startswith("an interval only, no test; no verdict: 4 images")
    assert "the AUC has an interval and no test".lower() in (tmp_path / "page.html").read_text(encoding="utf-8").lower()
    main(["compare", runs[0], write("same", good), "--metric=accuracy", f"--table={tmp_path / 'table.csv'}"])
    note = read_table(tmp_path / "table.csv")["same", "accuracy"]["note"]
    assert note == "both score the same in every case; no verdict: 8 images, a verdict takes 10"


def test_the_page_holds_statistics_and_verdict(tmp_path, tested):
    main(["compare", *tested, f"--output={tmp_path / 'page.html'}", "--margin_mm=0.3"])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "pocket is no worse than full within 0.01 Dice (95 % interval of the difference" in html
    assert html.index("<h2>Statistics</h2>") > html.index("<h2>Results</h2>")
    assert "10,000 resamples, seed 0" in html
    note = "both score the same in every case; no verdict: the interval has no width."
    assert f"pocket, HD95 (mm): {note}" in html
    assert ">note</th>" not in html  # the rows would be too high
    assert ">better / equal / worse</th>" in html
    assert "wins" not in html.lower()
    assert "--margin_mm=0.3" in html  # the command that makes the page again


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_scores_that_are_not_finite_are_left_out_and_counted(tmp_path, capsys, bad):
    full = {"dice": [0.5, 0.6, 0.9, 0.8], "asd_mm": [1, 1, 1, 1], "dice_a": ["nan"] * 4}
    pocket = {"dice": [0.6, bad, 0.7, 0.8], "asd_mm": [1, 2, 3, bad], "dice_a": [bad] * 4}
    runs = [str(write_cases(tmp_path / name, columns)) for name, columns in (("full", full), ("pocket", pocket))]
    page = tmp_path / "page.html"
    main(["compare", *runs, "--metric=dice", f"--output={page}", f"--table={tmp_path / 'table.csv'}"])
    output = capsys.readouterr().out
    mean, spread = np.mean([0.6, 0.7, 0.8]), np.std([0.6, 0.7, 0.8], ddof=1)
    assert f"{mean:.4f} ± {spread:.4f} (0.7000)" in output
    assert "no finite score" in output
    left_out = "Dice of 1, ASD (mm) of 1, Dice, a of 4 of 4 cases is not a finite number"
    assert f"pocket: {left_out}; means and differences leave such cases out." in output
    row = read_table(tmp_path / "table.csv")["pocket", "dice"]
    assert (row["cases"], row["left_out"], float(row["mean"])) == ("3", "1", pytest.approx(mean))
    assert float(row["difference"]) == pytest.approx((0.1 - 0.2 + 0.0) / 3)
    html = page.read_text(encoding="utf-8")
    assert "Dice 0.033 lower, and lower in 1 of 3 test cases" in html
    assert left_out in html
    main(["compare", *runs, "--metric=dice_a", f"--table={tmp_path / 'table.txt'}", f"--output={page}"])
    text = (tmp_path / "table.txt").read_text(encoding="utf-8")
    assert "no case has both scores; 4 left out: a score is not a finite number" in text
    assert "no finite score" in text
    assert "nan" not in text


def test_tables_of_a_terminal_show_what_is_not_finite(capsys):
    rows = [{"subject": name, "fold": "0", "dice": dice, "dice_a": dice} for name, dice in (("x", 0.5), ("y", "nan"))]
    print_cases(rows, "cases")
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[2:]] == ["0.5000", *["n/a"] * 3]
    print_folds(rows, "folds")
    assert capsys.readouterr().out.splitlines()[-1].split() == ["a", "n/a"]


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        (np.linspace(0, 0.01, 9), "9 cases, a verdict takes 10"),
        (np.linspace(0, 0.01, 10), ""),
        (np.zeros(40), "the interval has no width"),
    ],
)
def test_too_little_evidence_gives_no_verdict(tmp_path, capsys, differences, expected):
    first = np.full(len(differences), 0.5)
    runs = [
        str(write_cases(tmp_path / name, {"dice": list(dice)}))
        for name, dice in (("full", first), ("pocket", first + differences))
    ]
    main(["compare", *runs, f"--table={tmp_path / 'table.csv'}"])
    output = capsys.readouterr().out
    verdict = f"No verdict on whether pocket is no worse than full within 0.01 Dice: {expected} (95 % interval"
    assert (verdict in output) is bool(expected)
    assert ("\npocket is no worse than full within" in output) is not bool(expected)
    assert ("no verdict (0.01)" in output) is bool(expected)
    row = read_table(tmp_path / "table.csv")["pocket", "dice"]
    assert row["non_inferior"] == ("" if expected else "yes")
    assert (f"no verdict: {expected}" in row["note"]) is bool(expected)


def test_what_is_not_shown_does_not_read_as_worse(tested, capsys):
    main(["compare", *tested, "--margin=0.001", "--metric=dice"])
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if " Dice  " in line}
    assert "not shown (0.001)" in rows["pocket"]
    assert "no (0.001)" in rows["tiny"]


def test_the_first_table_shows_the_metrics_that_are_asked_for(tmp_path, fails, capsys):
    values = [0.5, 0.6]
    columns = {"dice": values, "dice_a": values, "dice_b": [0, 1], "hd95_mm": values, "hd95_mm_a": values}
    runs = [str(write_cases(tmp_path / name, columns)) for name in ("a", "b")]

    def shown(*arguments):
        main(["compare", *arguments])
        return [word for word in capsys.readouterr().out.splitlines()[0].split() if word.startswith("test/")]

    assert shown(*runs) == ["test/dice", "test/dice_a", "test/dice_b", "test/hd95_mm"]
    assert shown(*runs, "--metric=dice") == ["test/dice", "test/dice_a", "test/dice_b"]
    assert shown(*runs, "--metric=hd95_mm_a,dice_b") == ["test/dice_b", "test/hd95_mm_a"]
    assert shown(runs[0], "--metric=hd95_mm") == ["test/hd95_mm"]
    assert "--metric auc: the runs do not have it" in fails(["compare", runs[0], "--metric=auc"])


def test_a_region_of_one_class_is_tested_once(tmp_path):
    random = np.random.default_rng(1)

    def columns():
        a, b = random.uniform(size=(2, 12))
        scores = {"dice": (a + b) / 2, "dice_a": a, "dice_b": b, "dice_WT": b / 2, "dice_ET": a, "dice_none": a}
        return scores | {f"voxels_{name}": [9] * 12 for name in ("a", "b", "WT", "ET")} | {"voxels_none": [0] * 12}

    runs = [str(write_cases(tmp_path / name, columns())) for name in ("full", "pocket")]
    main(["compare", *runs, "--per_class", f"--table={tmp_path / 'table.csv'}"])
    table = {metric: row for (run, metric), row in read_table(tmp_path / "table.csv").items() if run == "pocket"}
    assert list(table) == ["dice", "dice_a", "dice_b", "dice_WT", "dice_none"]
    assert [metric for metric, row in table.items() if row["note"]] == ["dice_a"]
    assert table["dice_a"]["note"] == "the same as ET"
    smallest = min(float(row["p"]) for row in table.values())
    assert min(float(row["p_holm"]) for row in table.values()) == pytest.approx(min(1, 5 * smallest))
    main(["compare", *runs, "--metric=dice_ET", f"--table={tmp_path / 'table.csv'}"])
    assert ("pocket", "dice_ET") in read_table(tmp_path / "table.csv")  # asked for by name


def change(path):
    path.write_text(path.read_text(encoding="utf-8").replace("0.5", "0.95"), encoding="utf-8")


def test_scores_that_were_changed_after_the_test_are_told(tmp_path, capsys):
    runs = [write_cases(tmp_path / name, {"dice": [0.5, 0.6]}) for name in ("full", "pocket")]
    for run in runs:
        record_test(run, state_of(run, {}))
    page = tmp_path / "page.html"
    main(["compare", *map(str, runs), f"--output={page}"])
    assert "was changed" not in capsys.readouterr().out + page.read_text(encoding="utf-8")
    change(runs[1] / "test" / "cases.csv")
    warning = f"{runs[1]}: test/cases.csv was changed after the test; run `pocket test --run_dir {runs[1]}` again."
    main(["compare", *map(str, runs), f"--output={page}"])
    assert warning in capsys.readouterr().out.splitlines()
    assert warning in page.read_text(encoding="utf-8")
    main(["compare", str(runs[1])])
    assert warning in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("changed", ["", "cases.csv", "fold_0/test/cases.csv", "cases.csv fold_0/test/cases.csv"])
def test_cross_validations_must_hold_what_the_tests_of_their_folds_wrote(tmp_path, capsys, changed):
    runs = {str(fold): {"run": write_run(tmp_path / f"fold_{fold}", 10, [0.5 + fold / 10]).name} for fold in (0, 1)}
    for fold in (0, 1):
        table = tmp_path / f"fold_{fold}" / "test" / "cases.csv"
        table.write_text(table.read_text(encoding="utf-8").replace("case_0", f"case_{fold}"), encoding="utf-8")
        record_test(tmp_path / f"fold_{fold}", {})
    record = {"command": "pocket crossval", "folds": [0, 1], "checkpoint": "last", "runs": runs}
    (tmp_path / "crossval.json").write_text(json.dumps(record), encoding="utf-8")
    rows = "subject,fold,dice,dice_liver\ncase_0,0,0.5,0.25\ncase_1,1,0.6,0.3\n"
    (tmp_path / "cases.csv").write_text(rows, encoding="utf-8")
    for name in changed.split():
        change(tmp_path / name)
    main(["compare", str(tmp_path)])
    told = f"{tmp_path}: cases.csv is not what the tests of its folds wrote; run `pocket crossval` again."
    assert (told in capsys.readouterr().out.splitlines()) is bool(changed)
