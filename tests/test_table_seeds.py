"""Rows of a table that are several runs, one for each seed."""

import csv
import json
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from lightning_pocket import launch
from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.collect import RunResult
from lightning_pocket.reports.seeds import SeededRuns
from lightning_pocket.studies.table import read_table

#: Stands for `pocket`: the Dice of case i is 0.5 + i/100 + seed/1000, of `light` 0.02 more; seed 7 fails.
STUB = """
import json, pathlib, shlex, sys
from lightning_pocket.reports.tested import record_test, state_of
log = pathlib.Path(sys.argv[1])
command, *options = sys.argv[2:]
with log.open("a") as file:
    file.write(json.dumps([command, *options]) + "\\n")
values = dict(option.removeprefix("--").split("=", 1) for option in options if "=" in option)
run = pathlib.Path(values["run_dir"])
if command == "fit":
    seed = int(values["seed_everything"])
    if seed == 7:
        sys.exit(3)
    run.mkdir(parents=True, exist_ok=True)
    manifest = {"parameters": 10, "finished": True, "finished_at": "now", "seed": seed}
    manifest["command"] = shlex.join(["pocket", command, *options])
    (run / "manifest.json").write_text(json.dumps(manifest))
else:
    seed = json.loads((run / "manifest.json").read_text())["seed"]
    shift = 0.02 * (run.parent.name == "light") + seed / 1000
    lines = ["subject,dice,hd95_mm", *(f"case_{i},{0.5 + i / 100 + shift},{i + seed}" for i in range(12))]
    (run / "test").mkdir(exist_ok=True)
    (run / "test" / "cases.csv").write_text("\\n".join(lines) + "\\n")
    tested = {"checkpoint": values["ckpt_path"], "largest_component": False, "changed": ""}
    record_test(run, state_of(run, {}) | tested)
"""


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Return the commands that a table has started; nothing is trained."""
    (tmp_path / "stub.py").write_text(STUB, encoding="utf-8")
    log = tmp_path / "commands.jsonl"
    monkeypatch.setattr(launch, "program", lambda: [sys.executable, str(tmp_path / "stub.py"), str(log)])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "dataset.json").write_text("{}", encoding="utf-8")
    return lambda: [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def write(tmp_path, **changes):
    rows = [
        {"name": "unet", "task": "US", "configs": ["segment_volumes"], "published": {"dice": "0.929 ± 0.002"}},
        {"name": "light", "task": "US", "configs": ["segment_volumes", "pocket"], "compare_to": "unet"},
        {"name": "paper", "published": {"dice": 0.9}},
    ]
    content = {"title": "Seeds", "folds": 1, "seeds": [0, 1, 5], "metrics": ["dice", "hd95_mm"], "rows": rows}
    path = tmp_path / "seeds.yaml"
    path.write_text(yaml.safe_dump(content | changes, allow_unicode=True), encoding="utf-8")
    return ["table", str(path), "--output=out"]


def read(tmp_path):
    with (tmp_path / "out" / "table.csv").open(encoding="utf-8", newline="") as file:
        return {(row["row"], row["metric"]): row for row in csv.DictReader(file)}


@pytest.mark.usefixtures("commands")
def test_runs_are_drawn(tmp_path):
    main([*write(tmp_path), "--cache", "US=cache"])
    chart = (tmp_path / "out" / "dice_US.svg").read_text(encoding="utf-8")
    found = [float(value) for value in re.findall(r"<title>US, (?:unet|light), \w+: ([\d.]+)</title>", chart)]
    assert sorted(found) == pytest.approx(sorted(0.555 + s / 1000 + d for s in (0, 1, 5) for d in (0, 0.02)), abs=1e-3)
    assert (tmp_path / "out" / "hd95_mm_US.svg").is_file()
    assert "of each run, US" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("commands")
def test_scores_are_drawn_along_an_option(tmp_path, fails):
    rate = "model.init_args.network.init_args.widths.base"
    rows = [
        {"name": "one", "task": "US", "configs": ["segment_volumes"], "options": {rate: 4}, "published": {"dice": 0.7}},
        {"name": "light", "task": "US", "configs": ["segment_volumes"], "options": {rate: 16}},
        {"name": "plain", "task": "US", "configs": ["segment_volumes"]},
    ]
    main([*write(tmp_path, rows=rows, axis=rate, metrics=["dice"]), "--cache", "US=cache"])
    chart = (tmp_path / "out" / "dice_US.svg").read_text(encoding="utf-8")
    found = {(name, float(x)): float(y) for name, x, y in re.findall(r"<title>(\w+), base ([\d.]+): ([\d.]+)<", chart)}
    assert found == pytest.approx({("ours", 4): 0.557, ("ours", 16): 0.577, ("published", 4): 0.7}, abs=1e-3)
    assert "no row has this option" in fails(write(tmp_path, rows=rows, axis="other"))
    rows[0]["options"][rate] = "wide"
    assert "row one has 'wide'" in fails(write(tmp_path, rows=rows, axis=rate))


def test_each_seed_has_a_run_of_its_own(tmp_path, commands):
    main([*write(tmp_path), "--cache", "US=cache", "--rows=light"])
    shared = ["--config=segment_volumes", "--config=pocket", "--data.init_args.cache=cache"]
    assert commands() == [
        command
        for seed in (0, 1, 5)
        for command in (
            ["fit", f"--run_dir=out/runs/light/seed_{seed}", *shared, f"--seed_everything={seed}"],
            ["test", f"--run_dir=out/runs/light/seed_{seed}", "--ckpt_path=last"],
        )
    ]


@pytest.mark.usefixtures("commands")
def test_the_score_is_mean_and_deviation_over_the_seeds_of_the_mean_over_the_cases(tmp_path, capsys):
    main([*write(tmp_path), "--cache", "US=cache"])
    rows = read(tmp_path)
    light = rows["light", "dice"]
    means = [np.mean(0.52 + np.arange(12) / 100 + seed / 1000) for seed in (0, 1, 5)]
    assert float(light["mean"]) == pytest.approx(np.mean(means))
    assert float(light["seed_std"]) == pytest.approx(np.std(means, ddof=1))
    assert [float(mean) for mean in light["seed_means"].split()] == pytest.approx(means)
    assert (light["seeds"], light["cases"], light["state"]) == ("3", "12", "done")
    # The cases spread otherwise: 0.01 apart, the same in every run.
    assert float(light["std"]) == pytest.approx(np.std(np.arange(12) / 100, ddof=1))
    # Cases are paired, 12 of them, rather than seeds or 36 scores.
    assert float(light["difference"]) == pytest.approx(0.02)
    assert float(light["p"]) == pytest.approx(2 / 2**12)
    assert float(rows["unet", "hd95_mm"]["mean"]) == pytest.approx(5.5 + 2)
    assert rows["paper", "dice"]["state"] == "published only"
    assert float(rows["unet", "dice"]["difference_to_published"]) == pytest.approx(0.557 - 0.929)
    output = " ".join(capsys.readouterr().out.split())
    assert "unet 1e-05 12 0.557 ± 0.003 0.929 ± 0.002 -0.372" in output
    assert "7.50 ± 2.65" in output
    assert "over the runs, which differ in their seed" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_what_is_done_is_shown_and_the_rest_continues(tmp_path, commands, capsys):
    with pytest.raises(SystemExit):
        main([*write(tmp_path, seeds=[0, 7]), "--cache", "US=cache", "--rows=unet"])
    captured = capsys.readouterr()
    assert "1 of 2 runs failed (unet/seed_7: `pocket fit` ended with status 3)" in captured.err
    assert "0.555 (1 of 2 seeds)" in captured.out
    done = commands()
    main([*write(tmp_path, seeds=[0, 1]), "--cache", "US=cache", "--rows=unet"])
    again = [command[:2] for command in commands()[len(done) :]]
    run = "--run_dir=out/runs/unet/seed_"  # the test of seed 0 is done; `fit` looks by itself whether it is finished
    assert again == [["fit", f"{run}0"], ["fit", f"{run}1"], ["test", f"{run}1"]]
    assert read(tmp_path)["unet", "dice"]["seeds"] == "2"
    assert read(tmp_path)["light", "dice"]["state"] == "not run"


def test_a_single_seed_has_no_deviation(tmp_path, commands, capsys):
    main([*write(tmp_path, seeds=[0]), "--cache", "US=cache", "--rows=unet"])
    assert commands()[0][1] == "--run_dir=out/runs/unet/seed_0"
    assert "12 0.555 0.929 ± 0.002" in " ".join(capsys.readouterr().out.split())
    assert read(tmp_path)["unet", "dice"]["seed_std"] == ""


@pytest.mark.usefixtures("commands")
def test_runs_of_other_settings_are_left_out_one_by_one(tmp_path, capsys):
    table = write(tmp_path, seeds=[0, 1])
    main([*table, "--cache", "US=cache", "--rows=unet"])
    manifest = Path("out/runs/unet/seed_1/manifest.json")
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["command"] += " --trainer.max_epochs=1"
    manifest.write_text(json.dumps(content), encoding="utf-8")
    main(table)
    output = capsys.readouterr().out
    assert "not shown (other settings): unet/seed_1, which was made by: pocket fit" in output
    assert read(tmp_path)["unet", "dice"]["seed_means"].count(" ") == 0
    assert "(1 of 2 seeds)" in output


def result(scores, name="a"):
    return RunResult(name, 1, None, {"dice": scores}, subjects=[f"c{i}" for i in range(len(scores))])


def test_a_case_counts_with_the_seeds_in_which_it_has_a_score():
    runs = SeededRuns("row", [result([0.2, float("nan")]), result([0.4, 0.8]), result([0.9, float("nan")])], 3)
    assert runs.joined().scores["dice"] == pytest.approx([0.5, 0.8])
    assert runs.means("dice") == pytest.approx([0.2, 0.6, 0.9])
    assert runs.spread("dice") == pytest.approx(statistics.stdev([0.2, 0.6, 0.9]))
    assert SeededRuns("row", [result([float("nan")])], 1).show("dice") == "no finite score"
    assert runs.show("hd95_mm") == "not tested"


def test_seeds_on_other_cases_are_refused():
    other = RunResult("b", 1, None, {"dice": [0.5]}, subjects=["other"])
    with pytest.raises(PocketError, match="not tested on the same cases"):
        SeededRuns("row", [result([0.5]), other], 2).joined()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, 0]}, r"seeds is \[0, 0\], expected whole numbers from 0, each once"),
        ({"seeds": [0, True]}, "seeds is .*, expected whole numbers"),
        ({"seeds": ["0"]}, "seeds is .*, expected whole numbers"),
        ({"seeds": [-1]}, "seeds is .*, expected whole numbers"),
        ({"seeds": 3}, "seeds is 3, expected list"),
        ({"rows": [{"name": "a", "seed": 1}]}, "row a: has a seed, but the table has seeds"),
    ],
)
def test_mistakes_are_named(tmp_path, changes, message):
    with pytest.raises(PocketError, match=message):
        read_table(write(tmp_path, **changes)[1])
