"""The page and the figures of a study, against positions and numbers that are found in another way."""

import csv
import math
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import optuna
import page_reader
import pytest
import sweep_stand_in
import yaml
from chart_reading import marks, near, number, parse, pixels
from sweep_stand_in import GRID

from lightning_pocket.cli import main
from lightning_pocket.storage import write_json
from lightning_pocket.sweeps.claims import Claims
from lightning_pocket.sweeps.figures import Figures
from lightning_pocket.sweeps.importance import importance
from lightning_pocket.sweeps.measures import Measured, as_plain
from lightning_pocket.sweeps.outcome import outcomes
from lightning_pocket.sweeps.page import write_page
from lightning_pocket.sweeps.published_figures import published_figures, row_names
from lightning_pocket.sweeps.read import find_sweep, read_sweep
from lightning_pocket.sweeps.report import SweepReport
from lightning_pocket.sweeps.study import SweepStudy
from lightning_pocket.sweeps.study_storage import open_storage

HOSTILE = "<script>alert('x')</script> \"Größe\" & so on"
DOUBLINGS = "model.init_args.network.init_args.widths.doublings"
DICE = {"metric": "dice", "direction": "maximize"}
SEARCH = {
    "title": "Search",
    "configs": ["segment_volumes"],
    "space": {
        "lr": {"type": "float", "low": "1e-5", "high": "1e-2", "log": True},
        "base": {"type": "int", "low": 8, "high": 32, "step": 8},
        "conv": {"type": "categorical", "choices": ["standard", "grouped"]},
        "group_size": {"type": "categorical", "choices": [16, 4, 1], "when": {"conv": ["grouped"]}},
    },
    "objectives": [{"metric": "val/dice", "direction": "maximize"}],
    "sampler": {"name": "random", "seed": 0},
    "trials": 24,
}


def result(**values):
    return {name.replace("val_", "val/"): Measured(value) for name, value in values.items()}


def score(claimed):
    """A result that the rate decides, and the kind of convolution a little."""
    point = claimed.point
    dice = 0.9 - 0.05 * (math.log10(point["lr"]) + 3) ** 2 - 0.01 * (point["conv"] == "grouped")
    return result(val_dice=[dice], parameters=[1000 * point["base"] ** 2])


def make(folder, content, of_trial, stop=None, storage=None):
    """Return a study whose trials have come to what a function says, and its report; nothing is trained.

    The function returns results, ``pruned`` or ``infeasible``, the error of a failure, or the number of a twin with its
    results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sweep.yaml"
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    file.write_text(text, encoding="utf-8")
    sweep = read_sweep(file, is_record=True)
    study = SweepStudy(sweep, folder.name, folder, storage or optuna.storages.InMemoryStorage())
    study.begin(sweep.identity([]), {}, [])
    claims = Claims(study)
    for _ in range(1000 if stop is None else stop):
        claimed = claims.claim()
        if claimed is None:
            break
        end(claims, claimed, of_trial(claimed))
    return study, SweepReport(sweep, outcomes(study), folder)


def end(claims, claimed, came_to):
    if came_to in ("pruned", "infeasible"):
        claims.note(claimed, **({"infeasible": "out of memory"} if came_to == "infeasible" else {}))
        claims.prune(claimed)
    elif isinstance(came_to, str):
        claims.fail(claimed, came_to)
    else:
        twin, found = came_to if isinstance(came_to, tuple) else (None, came_to)
        claims.note(claimed, results=as_plain(found), **({} if twin is None else {"same_as": twin}))
        claims.complete(claimed, [found[o.metric].mean for o in claims.study.sweep.objectives])


def test_importance_is_what_optuna_says_of_the_best_trials(tmp_path):
    study, _ = make(tmp_path / "study", SEARCH | {"trials": 60}, score)
    found = importance(study.study, 0)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.1)
    expected = optuna.importance.get_param_importances(study.study, evaluator=evaluator)
    assert found.shares == pytest.approx(expected)
    assert next(iter(found.shares)) == "lr", "which decides the score"
    assert (found.best, found.trials) == (6, 60)
    assert sum(found.shares.values()) == pytest.approx(1)
    small, _ = make(tmp_path / "small", SEARCH | {"trials": 16}, score)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=5 / 16)
    expected = optuna.importance.get_param_importances(small.study, evaluator=evaluator)
    assert importance(small.study, 0).shares == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "of_trial", "reason"),
    [
        ({"trials": 9}, score, "9 trials are done, and at least 10 are needed"),
        ({}, lambda _: result(val_dice=[0.5], parameters=[7]), "the objective does not vary"),
        ({}, lambda c: result(val_dice=[0.9 if c.slot < 2 else 0.1], parameters=[7]), "share its worst value"),
        ({"space": {"lr": SEARCH["space"]["lr"]}}, lambda _: result(val_dice=[0.5]), "no two parameters"),
    ],
)
def test_why_importance_is_left_out_is_said(tmp_path, change, of_trial, reason):
    study, report = make(tmp_path / "study", SEARCH | change, of_trial)
    (said,) = Figures(report).importance(study.study)[1]
    assert reason in said
    page, *figures = write_page(study, report)
    assert reason in page.read_text(encoding="utf-8")
    assert not [figure for figure in figures if figure.name.startswith("importance")]


def read_page(path):
    return page_reader.parse(path.read_text(encoding="utf-8"))


def mixed(claimed):
    """Results, failures and all the rest."""
    states = {3: "the loss is not finite <b>", 5: "pruned", 7: "infeasible"}
    return states.get(claimed.slot) or score(claimed)


def test_every_number_of_the_page_is_that_of_the_trials(tmp_path):
    study, report = make(tmp_path / "study", SEARCH, mixed)
    report.write()
    page = read_page(write_page(study, report)[0])
    with (tmp_path / "study" / "trials.csv").open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    head, *rows = page.tables[-1]
    assert len(rows) == len(records) == 24
    keys = ["trial", "state", "lr", "base", "conv", "group_size", "val/dice", "parameters"]
    assert head[: len(keys)] == keys
    for row, record in zip(rows, records, strict=True):
        for key, cell in zip(keys, row, strict=False):
            assert (cell == "") == (record[key] == "")
            if cell and key not in ("state", "conv"):
                digits = 5e-4 if key in ("lr", "val/dice") else 0
                assert float(cell.replace(",", "")) == pytest.approx(float(record[key]), rel=digits)
            else:
                assert cell == record[key]
    text = " ".join(page.texts)
    assert "24 of 24 trials have ended: 21 done, 1 pruned, 1 infeasible, 1 failed." in text
    best = max((r for r in records if r["val/dice"]), key=lambda record: float(record["val/dice"]))
    assert f"The best is trial {best['trial']}: lr={float(best['lr']):.4g}" in text
    assert f"val/dice {float(best['val/dice']):.4g}. To train and test it again:" in text
    assert f"--lr={best['lr']}" in text


def test_the_page_holds_all_it_needs_and_names_are_text(tmp_path):
    space = SEARCH["space"] | {"conv": {"type": "categorical", "choices": ["standard", "grouped", HOSTILE]}}
    space["lr"] = space["lr"] | {"short": f"{HOSTILE} rate"}
    space["base"] = space["base"] | {"short": f"{HOSTILE}? rate"}  # another one, but the same as the name of a file
    content = SEARCH | {"title": HOSTILE, "space": space, "source": HOSTILE, "notes": [HOSTILE], "takes": HOSTILE}
    study, report = make(tmp_path / "study", content, mixed)
    path, *figures = write_page(study, report)
    text, page = path.read_text(encoding="utf-8"), read_page(path)
    assert "<script" not in text
    assert "http" not in text
    assert "url(" not in text
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not [name for _, attrs in page.tags for name in attrs if name in ("src", "href") or name.startswith("on")]
    assert page.texts.count(HOSTILE) >= 4
    names = [figure.name for figure in figures]
    assert len(set(names)) == len(names)
    assert [file.name for file in sorted((tmp_path / "study" / "figures").iterdir())] == sorted(names)
    for figure in figures:
        assert figure.parent.name == "figures"
        root = ET.fromstring(figure.read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.find("{*}title").text
        assert root.find("{*}desc").text
    kinds = {name.split("_")[0].removesuffix(".svg") for name in names}
    assert kinds == {"history", "importance", "parallel", "slice"}


def test_a_study_that_is_not_over_says_so(tmp_path):
    study, report = make(tmp_path / "begun", SEARCH, score, stop=2)
    assert "The study is not over: 0 trials run and 22 wait." in " ".join(read_page(write_page(study, report)[0]).texts)
    study, report = make(tmp_path / "new", SEARCH, score, stop=0)
    (page,) = write_page(study, report)
    assert "No trial is done yet, so there are no figures." in " ".join(read_page(page).texts)


def test_several_objectives_have_a_front_for_each_two(tmp_path):
    goals = [DICE, {"metric": "parameters", "direction": "minimize"}, {"metric": "macs", "direction": "minimize"}]
    content = SEARCH | {"objectives": goals, "trials": 20}
    draw = random.Random(5)
    twin = result(dice=[1.0], parameters=[1], macs=[1.0])

    def of_trial(claimed):
        if claimed.slot == 19:  # would be the only one of the front, but is no trial of its own
            return 0, twin
        return result(dice=[draw.random()], parameters=[draw.randint(10, 10**5)], macs=[draw.random() + 1])

    study, report = make(tmp_path / "study", content, of_trial)
    figures = Figures(report)
    fronts = figures.fronts()
    assert [figure.name for figure in fronts] == [
        "front_dice_parameters",
        "front_dice_macs",
        "front_parameters_macs",
    ]
    assert "trial 19" not in fronts[0].svg
    assert len(marks(fronts[0].svg)) == 19
    x = pixels(fronts[0].svg, vertical=False, log=True)  # for sizes that differ by more than ten times
    for title, (place, _) in marks(fronts[0].svg).items():
        assert near(place, x(float(re.search(r"parameters ([\d,]+)", title)[1].replace(",", ""))))
    assert len(figures.history()) == 3
    page = read_page(write_page(study, report)[0])
    assert f"{len(report.best())} trials are on the front" in " ".join(page.texts)
    assert [row[0] for row in page.tables[0][1:]] == [str(outcome.slot) for outcome in report.best()]
    assert figures.good == {outcome.slot for outcome in report.best()}
    assert sum(" (same as trial 0)" in title for title in marks(figures.slices()[0].svg)) == 1


def test_parameters_that_do_not_count_have_a_place_of_their_own(tmp_path):
    _, report = make(tmp_path / "study", SEARCH, score)
    figures = Figures(report)
    drawn = next(f for f in figures.slices() if f.name.endswith("group_size"))
    labels_at = {text.text: float(text.get("x")) for text in parse(drawn.svg).iter("text") if text.text}
    for title, (x, _) in marks(drawn.svg).items():
        size = re.search(r"group_size=(\d+)", title)
        assert near(x, labels_at[size[1] if size else "not used"])
    assert "conv=standard" in drawn.svg
    assert "group_size=1," in drawn.svg
    ranked = sorted(report.outcomes, key=lambda outcome: -outcome.values[0])
    assert figures.good == {outcome.slot for outcome in ranked[:3]}, "the best tenth of 24, rounded up"


def doubling(claimed):
    stop = claimed.point[DOUBLINGS]
    found = {"dice": Measured([0.7 + stop / 100], 0.05, 0.8), "parameters": Measured([1000 * 3**stop])}
    return (0, found) if stop == 4 else found


def test_ours_stand_beside_the_published_rows(tmp_path):
    file = find_sweep("pocketnet_stop_doubling_hippocampus")
    _, report = make(tmp_path / "study", file.read_text(encoding="utf-8"), doubling)
    label, names = row_names(report)
    assert (label, names) == ("doublings", ["5 (full)", "4", "3", "2", "1", "0 (pocket)"])
    by_row, _ = published_figures(report)
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    printed = [row["values"] for row in content["published"]]
    texts = [(text.text, float(text.get("x")), float(text.get("y"))) for text in parse(by_row.svg).iter("text")]
    across = {text: x for text, x, y in texts if text in names and y > 400}
    assert sorted(across.values()) == [across[name] for name in names]
    means = [text for text, _, _ in texts if text and re.fullmatch(r"0\.\d{3}", text)]
    for value in (*(f"0.7{stop}0" for stop in range(6)), *(row["dice"].split(" ")[0] for row in printed)):
        assert value in means
    titles = [title.text for title in parse(by_row.svg).iter("title")]
    ours = [title for title in titles if title.startswith("ours")]
    assert len(ours) == 6
    assert "ours, 4: Dice 0.740 ± 0.050, 81,000 parameters (trial 1, the same network and settings as" in ours[1]
    for name, row in zip(names, printed, strict=True):
        assert any(
            f"published, {name}: Dice {row['dice']} ({row['dice_median']}), {row['params_M']:g} million" in title
            for title in titles
        )
    bars = [line.get("points").split() for line in parse(by_row.svg).iter("polyline")]
    assert len(bars) == 12
    heights = [abs(float(a.split(",")[1]) - float(b.split(",")[1])) for a, b in bars]
    spreads = [float(row["dice"].split("±")[1]) for row in printed]
    assert heights[:6] == pytest.approx([heights[0]] * 6, abs=0.2), "ours are all 0.05"
    for (_, mark), (upper, lower) in zip(marks(by_row.svg).values(), bars[:6], strict=True):
        middle = (float(upper.split(",")[1]) + float(lower.split(",")[1])) / 2
        assert near(middle, mark)
    scaled = [height / heights[6] * spreads[0] for height in heights[6:]]
    assert scaled == pytest.approx(spreads, rel=0.01)
    assert next(o for o in report.outcomes if o.slot == 1).same_as == 0


def test_ours_and_the_published_stand_where_their_parameters_are(tmp_path):
    file = find_sweep("pocketnet_stop_doubling_hippocampus")
    _, report = make(tmp_path / "study", file.read_text(encoding="utf-8"), doubling)
    svg = published_figures(report)[1].svg
    printed = [row["values"]["params_M"] * 1e6 for row in yaml.safe_load(file.read_text(encoding="utf-8"))["published"]]
    axes = {}
    for text in parse(svg).iter("text"):
        if text.get("class") == "tick" and text.get("text-anchor") == "middle" and text.text[-1] in "kM":
            axes.setdefault(text.get("y"), {})[number(text.text)] = float(text.get("x"))
    squares = [group.find("path") for group in parse(svg).iter("g") if group.find("path") is not None]
    published = [float(re.match(r"M([\d.]+)", square.get("d"))[1]) + 5 for square in squares]
    ours = [x for x, _ in marks(svg).values()]
    sizes = [1000 * 3**stop for stop in (5, 4, 3, 2, 1, 0)]
    for axis, drawn, expected in zip(axes.values(), (ours, published), (sizes, printed), strict=True):
        (low, start), (high, stop) = min(axis.items()), max(axis.items())
        for x, size in zip(drawn, expected, strict=True):
            assert near(x, start + math.log(size / low) / math.log(high / low) * (stop - start))
    for name in ("5 (full)", "0 (pocket)"):
        assert sum(text.text == name for text in parse(svg).iter("text")) == 2, "in both panels"


def test_published_rows_that_differ_in_more_are_called_by_their_labels(tmp_path):
    published = [
        {"point": {"x": x, "y": 0.5}, "label": f"{HOSTILE} {x}", "values": {"dice": x}} for x in (0.1, 0.3, 0.4)
    ]

    def of_trial(claimed):
        return result(dice=[claimed.point["x"]], parameters=[7])

    _, report = make(tmp_path / "study", GRID | {"published": published}, of_trial, stop=3)
    label, names = row_names(report)
    assert (label, names) == ("", [row["label"] for row in published])
    by_row = published_figures(report)[0]
    titles = [title.text for title in parse(by_row.svg).iter("title")]
    assert f"ours, {names[0]}: Dice 0.100, 7 parameters (trial 1)" in titles
    assert sum(title.startswith("ours, ") for title in titles) == 1, "the other rows are not done"


def test_the_command_writes_the_page_of_a_journal(tmp_path, monkeypatch, capsys, fails):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POCKET_SWEEP_STORAGE", raising=False)
    folder = Path("runs/study")
    make(folder, SEARCH, score, storage=open_storage(None, folder, 300))
    record = {"name": "study", "file": "sweep.yaml", "more": ["--a=b"], "grace_s": 300, "storage": ""}
    write_json(folder / "study.json", record)
    main(["sweep", "plot", "runs/study"])
    count = len(list((folder / "figures").iterdir()))
    said = capsys.readouterr().out
    assert said.endswith(f", runs/study/index.html, and {count} figures in runs/study/figures\n")
    assert (folder / "trials.csv").is_file(), "which the page names"
    assert "pocket sweep runs/study/sweep.yaml --output=runs/study -- --a=b" in (folder / "index.html").read_text(
        encoding="utf-8"
    )
    assert "no study here" in fails(["sweep", "plot", "runs"])


def test_a_study_that_stops_leaves_its_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POCKET_SWEEP_STORAGE", raising=False)
    monkeypatch.setattr("lightning_pocket.sweeps.start.resolve", sweep_stand_in.resolve)
    Path("study.yaml").write_text(yaml.safe_dump(GRID), encoding="utf-8")
    main(["sweep", "study.yaml", "--timeout=1e-9"])
    assert "runs/study/index.html" in capsys.readouterr().out
    assert "0 of 8 trials have ended" in Path("runs/study/index.html").read_text(encoding="utf-8")


def test_figures_need_neither_torch_nor_scikit_learn():
    code = (
        "import sys, lightning_pocket.sweeps.page, lightning_pocket.sweeps.importance, optuna.importance;"
        "optuna.importance.PedAnovaImportanceEvaluator();"
        "sys.exit(str([m for m in ('torch', 'sklearn', 'pandas', 'matplotlib') if m in sys.modules]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr.strip() == "[]"
