"""Tables of experiments: what they run, and ours beside published."""

import csv
import json
import re
import shlex
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import yaml
from in_process import in_this_process

from lightning_pocket import launch
from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.studies import table_runs
from lightning_pocket.studies.table import PARAMETERS, read_table

PUBLISHED = json.loads((Path(__file__).parent / "golden" / "published.json").read_text(encoding="utf-8"))

#: Stands for `pocket`: writes the arguments down, and a run with scores that depend on the name of the row.
STUB = """
import csv, json, pathlib, shlex, sys, time
from lightning_pocket.reports.tested import record_test, state_of
log = pathlib.Path(sys.argv[1])
command, *options = sys.argv[2:]
with log.open("a") as file:
    file.write(json.dumps([command, *options]) + "\\n")
values = dict(option.removeprefix("--").split("=", 1) for option in options if "=" in option)
run = pathlib.Path(values["run_dir"])
if run.name == "broken":
    sys.exit(3)
(run / "test").mkdir(parents=True, exist_ok=True)
if command != "test":
    made = shlex.join(["pocket", command, *(option for option in options if not option.startswith("--jobs"))])
    manifest = {"parameters": 763010, "finished": True, "finished_at": "now", "command": made}
    (run / "manifest.json").write_text(json.dumps(manifest))
if command != "fit":
    shift = 0.002 if "pocket" in run.name else 0.0
    rows = [(f"case_{i}", 0.9 + 0.002 * i + shift, 2.0) for i in range(8)]
    lines = ["subject,dice,hd95_mm", *(",".join(map(str, row)) for row in rows)]
    (run / "test" / "cases.csv").write_text("\\n".join(lines) + "\\n")
if command == "test":
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
    return lambda: [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "dataset.json").write_text("{}")
    return tmp_path / "cache"


def write_table(tmp_path, **changes):
    rows = [
        {"name": "full", "task": "Liver", "configs": ["segment_volumes", "full"], "published": {"dice_p": "7.0e-01"}},
        {
            "name": "pocket",
            "task": "Liver",
            "configs": ["segment_volumes", "pocket"],
            "options": {"trainer.max_epochs": 3},
            "compare_to": "full",
            "published": {"params_M": 0.8, "dice": "0.930 ± 0.059", "dice_median": 0.952},
        },
        {"name": "other", "task": "Brain", "configs": ["segment_volumes"]},
        {"name": "paper", "published": {"dice": 0.9}},
    ]
    path = tmp_path / "mine.yaml"
    path.write_text(
        yaml.safe_dump({"title": "Mine", "rows": rows, "folds": 3} | changes, allow_unicode=True), encoding="utf-8"
    )
    return path


def printed_commands(text):
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("pocket ")]


def read_rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["row"], row["metric"]): row for row in csv.DictReader(file)}


def as_golden(row):
    """Return a row of YAML as the golden file has it."""
    return dict(row.published) | {"params_M": row.published[PARAMETERS]}


def test_table_1_holds_what_the_paper_prints():
    table = read_table("pocketnet_table1")
    golden = PUBLISHED["000.I"]
    assert len(table.rows) == len(golden) == 24
    presets = {"U-Net": [], "ResNet": ["resnet"], "DenseNet": ["densenet"], "HRNet": ["hrnet"]}
    experiments = {"LiTS": "lits", "BraTS": "brats2020", "NFBS": "nfbs"}
    for row, expected in zip(table.rows, golden, strict=True):
        variant = expected["variant"].lower()
        assert (row.task, row.label) == (expected["task"], f"{expected['architecture']}, {variant}")
        assert row.configs == [experiments[row.task], *presets[expected["architecture"]], variant]
        names = {"task", "architecture", "variant"}
        assert as_golden(row) == {key: value for key, value in expected.items() if key not in names}
        assert row.compare_to == (row.name.replace("pocket", "full") if variant == "pocket" else "")


def test_table_2_holds_what_the_paper_prints():
    table = read_table("pocketnet_table2")
    golden = [{"params_M": row["params_M"], "auc": row["auc"]} for row in PUBLISHED["000.II"]]
    assert [as_golden(row) for row in table.rows] == golden
    assert [row.configs[1:] for row in table.rows] == [["table2_16", "full"], ["table2_16", "pocket"], []]


@pytest.mark.parametrize("path", sorted((launch.configs_folder() / "tables").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_table_can_be_run(path, cache, tmp_path, capsys):
    table = read_table(path.stem)
    caches = [f"{task}={cache}" for task in dict.fromkeys(row.task for row in table.rows if row.configs)]
    given = ["--cache", *caches] if caches else []  # a table of costs needs no data
    main(["table", path.stem, *given, "--dry_run", f"--output={tmp_path / 'out'}"])
    found = printed_commands(capsys.readouterr().out)
    runs = sorted({option for command in found for option in command if option.startswith("--run_dir=")})
    assert len(runs) == sum(len(table.places(row)) for row in table.rows)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_prints_the_exact_commands_and_does_nothing(tmp_path, cache, commands, capsys):
    table = write_table(tmp_path)
    options = ["--cache", f"Liver={cache}", "--output=out", "--jobs=2", "--dry_run"]
    main(["table", str(table), *options, "--", "--trainer.accelerator=cpu", "--config=demo"])
    output = capsys.readouterr().out
    shared = [f"--data.init_args.cache={cache}", "--seed_everything=0", "--trainer.accelerator=cpu", "--config=demo"]
    crossval = ["--folds=3", "--checkpoint=last", "--jobs=2", "--config=segment_volumes"]
    assert printed_commands(output) == [
        ["crossval", "--run_dir=out/runs/full", *crossval, "--config=full", *shared],
        ["crossval", "--run_dir=out/runs/pocket", *crossval, "--config=pocket", "--trainer.max_epochs=3", *shared],
    ]
    assert "not run (no cache for Brain): other" in output
    assert commands() == []
    assert not (tmp_path / "out").exists()


def test_rows_of_one_split_are_trained_and_tested(tmp_path, cache, commands):
    table = write_table(tmp_path, folds=1, checkpoint="best", seed=5)
    arguments = ["table", str(table), "--cache", f"Liver={cache}", "--output=out", "--rows=pocket"]
    main(arguments)
    fit = ["fit", "--run_dir=out/runs/pocket", "--config=segment_volumes", "--config=pocket", "--trainer.max_epochs=3"]
    fit += [f"--data.init_args.cache={cache}", "--seed_everything=5"]
    test = ["test", "--run_dir=out/runs/pocket", "--ckpt_path=best"]
    assert commands() == [fit, test]
    main(arguments)  # `fit` looks whether it is finished; the test is done
    assert commands() == [fit, test, fit]
    (tmp_path / "out" / "runs" / "pocket" / "test" / "cases.csv").unlink()
    main(arguments)
    assert commands()[3:] == [fit, test]
    write_table(tmp_path, folds=1, checkpoint="last", seed=5)
    main(arguments)
    assert commands()[5:] == [fit, [*test[:2], "--ckpt_path=last"]]


def test_ours_stand_beside_published(tmp_path, cache, commands, capsys):
    main(["table", str(write_table(tmp_path)), "--cache", f"Liver={cache}", "--output=out"])
    assert [command[0] for command in commands()] == ["crossval", "crossval"]
    rows = read_rows(tmp_path / "out" / "table.csv")
    pocket, scores = rows["pocket", "dice"], 0.902 + 0.002 * np.arange(8)
    assert float(pocket["mean"]) == pytest.approx(scores.mean())
    assert float(pocket["std"]) == pytest.approx(scores.std(ddof=1))
    assert float(pocket["median"]) == pytest.approx(np.median(scores))
    assert float(pocket["difference_to_published"]) == pytest.approx(scores.mean() - 0.930)
    assert pocket["published"] == "0.930 ± 0.059 (0.952)"
    assert pocket["published_p"] == "7.0e-01"  # printed at the other row of the pair
    assert pocket["compared_with"] == "full"
    assert float(pocket["difference"]) == pytest.approx(0.002)
    assert float(pocket["p"]) == pytest.approx(2 / 2**8)
    assert float(pocket["p_holm"]) == pytest.approx(4 / 2**8)  # of two tests: HD95 has one too
    assert pocket["non_inferior"] == ""  # eight cases bear no verdict
    assert rows["full", "dice"]["p"] == ""
    assert rows["other", "dice"]["state"] == "not run (no cache for Brain)"
    assert rows["paper", "dice"]["state"] == "published only"
    output = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "Liver pocket 0.763 0.8 8 0.909 ± 0.005 (0.909) 0.930 ± 0.059 (0.952) -0.021 0.016 7.0e-01" in lines
    markdown = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "| Liver | pocket | 0.763 | 0.8 | 8 | 0.909 ± 0.005 (0.909) | 0.930 ± 0.059 (0.952) | -0.021 |" in markdown
    assert r"not run (no cache for Brain)" in (tmp_path / "out" / "table.tex").read_text(encoding="utf-8")
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "No verdict on whether pocket is no worse than full within 0.01 Dice: 8 cases, a verdict takes 10 (" in page
    assert "pocket crossval --run_dir=out/runs/pocket" in page


def test_rows_that_were_run_before_stay_in_the_table(tmp_path, cache, commands):
    table = [str(write_table(tmp_path)), "--output=out"]
    main(["table", *table, "--cache", f"Liver={cache}", "--rows=full"])
    main(["table", *table, "--cache", f"Liver={cache}", "--rows=pocket", "--jobs=2"])
    assert [command[1] for command in commands()] == ["--run_dir=out/runs/full", "--run_dir=out/runs/pocket"]
    main(["table", *table])  # nothing is run, and the data need not be named
    assert len(commands()) == 2
    rows = read_rows(tmp_path / "out" / "table.csv")
    assert rows["full", "dice"]["state"] == rows["pocket", "dice"]["state"] == "done"
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "pocket crossval --run_dir=out/runs/pocket --folds=3 --checkpoint=last --config=segment_volumes " in page
    assert page.count(f"--data.init_args.cache={cache}") == 2  # as they were made


@pytest.mark.parametrize("folds", [1, 3])
def test_rows_of_other_settings_are_not_shown_as_ours(tmp_path, cache, commands, capsys, folds):
    table = ["table", str(write_table(tmp_path, folds=folds)), "--output=out"]
    main([*table, "--cache", f"Liver={cache}", "--", "--trainer.max_epochs=1"])
    assert read_rows(tmp_path / "out" / "table.csv")["full", "dice"]["state"] == "done"
    count = len(commands())

    def state(*options):
        main([*table, "--rows=other", *options])
        return read_rows(tmp_path / "out" / "table.csv")["full", "dice"]["state"]

    assert state("--", "--trainer.max_epochs=1") == "done"
    capsys.readouterr()
    assert state() == "other settings"
    assert re.search(
        r"not shown \(other settings\): full, which was made by: pocket \w+ .*max_epochs=1$",
        capsys.readouterr().out,
        re.M,
    )
    assert state("--cache", f"Liver={cache}") == "other settings"
    (tmp_path / "cache2").mkdir()
    (tmp_path / "cache2" / "dataset.json").write_text("{}")
    assert state("--cache", f"Liver={tmp_path / 'cache2'}", "--", "--trainer.max_epochs=1") == "other settings"
    write_table(tmp_path, folds=folds, checkpoint="best")
    assert state("--", "--trainer.max_epochs=1") == "other settings"
    assert len(commands()) == count
    if folds > 1:
        write_table(tmp_path, folds=folds)
        assert state("--folds=4", "--", "--trainer.max_epochs=1") == "other settings"


@pytest.mark.usefixtures("commands")
def test_a_row_that_fails_does_not_stop_the_others(tmp_path, cache, capsys):
    rows = [{"name": name, "task": "Liver", "configs": ["segment_volumes"]} for name in ("broken", "full")]
    before = tmp_path / "out" / "runs" / "broken"  # a result of other settings
    (before / "test").mkdir(parents=True)
    (before / "manifest.json").write_text('{"parameters": 1, "finished": true}')
    (before / "test" / "cases.csv").write_text("subject,dice\nx,0.5\n")
    with pytest.raises(SystemExit) as caught:
        main(["table", str(write_table(tmp_path, rows=rows)), "--cache", f"Liver={cache}", "--output=out"])
    assert caught.value.code == 1
    assert "1 of 2 rows failed (broken: `pocket crossval` ended with status 3)" in capsys.readouterr().err
    written = read_rows(tmp_path / "out" / "table.csv")
    assert (written["broken", "dice"]["state"], written["full", "dice"]["state"]) == ("failed", "done")


def test_a_table_without_data_or_published_numbers_is_written(tmp_path, commands):
    rows = [{"name": "full", "task": "Liver", "configs": ["segment_volumes"]}]
    main(["table", str(write_table(tmp_path, rows=rows)), "--output=out"])
    assert read_rows(tmp_path / "out" / "table.csv")["full", "dice"]["state"] == "not run (no cache for Liver)"
    assert commands() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, "rows is empty"),
        ({"titel": "x"}, "there is no key 'titel'. Did you mean title?"),
        ({"folds": "five"}, "folds is 'five', expected int"),
        ({"folds": 0}, "folds is 0, expected 1 for one run, or more"),
        ({"checkpoint": "first"}, "checkpoint is 'first', expected last or best"),
        ({"metrics": ["dise"]}, "metrics has no 'dise'. Did you mean dice?"),
        ({"rows": ["x"]}, r"rows\[0\]: found str"),
        ({"rows": [{"label": "x"}]}, r"rows\[0\]: has no name"),
        ({"rows": [{"name": "a/b"}]}, "expected a name of its own"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "expected a name of its own"),
        ({"rows": [{"name": "a", "configs": ["full"]}]}, "has no task"),
        ({"rows": [{"name": "a", "compare_to": "b"}]}, "compare_to is 'b', expected another row"),
        ({"rows": [{"name": "a", "task": "x", "configs": ["fulll"]}]}, "no such file, and no shipped config"),
        ({"rows": [{"name": "a", "task": "T", "configs": ["pocket", 1]}]}, "configs is .*, expected a list of names"),
        ({"rows": [{"name": "a", "published": {"dise": 1}}]}, "published has no 'dise'"),
        ({"rows": [{"name": "a", "published": {"dice": "high"}}]}, "published dice is 'high', expected a number"),
    ],
)
def test_mistakes_in_a_table_are_named(tmp_path, changes, message):
    with pytest.raises(PocketError, match=message) as caught:
        read_table(str(write_table(tmp_path, **changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cache", "Lung=x"], "the tasks of this table are Liver, Brain"),
        (["--cache", "Liver=nowhere"], "no prepared data here"),
        (["--rows", "pockett"], "Did you mean pocket?"),
        (["--folds", "1"], "--folds 1: expected 2 or more"),
        (["--jobs=0"], "--jobs 0: expected 1 or more"),
        (["--margin", "-1"], "--margin -1.0: expected a difference of 0 or more"),
    ],
)
def test_bad_options_are_named(tmp_path, fails, options, message):
    assert message in fails(["table", str(write_table(tmp_path)), f"--output={tmp_path / 'out'}", *options])


def test_another_number_of_folds_is_refused_before_anything_runs(tmp_path, cache, fails):
    (cache / "folds.csv").write_text("subject,fold\na,0\nb,1\nc,2\n", encoding="utf-8")
    arguments = ["table", str(write_table(tmp_path, folds=5)), "--cache", f"Liver={cache}", "--dry_run"]
    assert "the data have 3 folds, the table asks for 5. Prepare them with --num_folds 5, or give --folds 3" in fails(
        arguments
    )
    main([*arguments, "--folds=3"])


def test_a_misspelt_table_is_suggested(fails):
    assert "Did you mean pocketnet_table1?" in fails(["table", "pocketnet_tabel1"])


@pytest.mark.e2e
def test_a_table_of_real_runs(tmp_path, blobs_cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = {
        "data.init_args.patch_size": [8, 16, 16],
        "data.init_args.patches_per_epoch": 4,
        "model.init_args.network.init_args.depth": 1,
        "model.init_args.network.init_args.widths.base": 2,
        "trainer.max_epochs": 1,
    }
    row = {"name": "pocket", "task": "Blobs", "configs": ["segment_volumes", "pocket"], "options": tiny, "folds": 1}
    table = write_table(tmp_path, rows=[row], metrics=["dice", "surface_dice"])
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    command = ["table", str(table), "--cache", f"Blobs={blobs_cache}", "--", *quiet]
    with in_this_process():
        main(command)
    found = read_rows(tmp_path / "runs" / "mine" / "table.csv")
    with (tmp_path / "runs" / "mine" / "runs" / "pocket" / "test" / "cases.csv").open(encoding="utf-8") as file:
        dice = [float(case["dice"]) for case in csv.DictReader(file)]
    assert float(found["pocket", "dice"]["mean"]) == pytest.approx(np.mean(dice))
    assert int(found["pocket", "dice"]["cases"]) == len(dice) == 2
    assert found["pocket", "surface_dice"]["mean"]

    started = []
    with in_this_process(), mock.patch.object(table_runs, "run_tied", lambda argv: started.append(argv) or 0):
        main(command)
        assert not started, "it is trained and tested"
        config = tmp_path / "runs" / "mine" / "runs" / "pocket" / "config.yaml"
        config.write_text(config.read_text(encoding="utf-8").replace("base: 2", "base: 4"), encoding="utf-8")
        main(command)
    assert [arguments[0] for arguments in started] == ["fit"], "which says that the settings are others"


def test_the_table_of_the_docs_is_one(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "comparing.md").read_text(encoding="utf-8")
    block = re.search(r"```yaml\n(.*?)```", page, flags=re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_text("{}", encoding="utf-8")
    Path("mine.yaml").write_text(block, encoding="utf-8")
    pocket = read_table("mine.yaml").row("pocket")
    assert (pocket.mean("dice"), pocket.score("dice"), pocket.p("dice")) == (0.93, "0.930 ± 0.059 (0.952)", "0.7")
