"""The shipped tables of ExpandNets against the numbers that the paper prints."""

import json
from pathlib import Path

import pytest
from shipped_networks import ROOT

from lightning_pocket.costs.plan_file import read_plan
from lightning_pocket.errors import PocketError
from lightning_pocket.studies.table import ExperimentTable, Row, read_table

GOLDEN = json.loads((ROOT / "tests" / "golden" / "expandnets_tables.json").read_text(encoding="utf-8"))
KINDS = {
    "SmallNet k7": "plain", "FC(Arora18)": "fc", "ACNet": "acnet", "CL": "cl", "CL+FC": "cl_fc", "CK": "ck",
    "CK+FC": "ck_fc", "SmallNet": "plain", "ExpandNet-CL": "cl", "ExpandNet-CK": "ck", "Standard": "plain",
}  # fmt: skip
NETWORKS = {"MobileNet": "mobilenet", "MobileNetV2": "mobilenet_v2"}
CIFAR = ("cifar10", "cifar100")
PREFIXES = ("mobilenet", "mobilenetv2", "shufflenetv2_05")
ROWS = {"original": "plain", "ACNet": "acnet", "original + KD": "kd", "CL": "cl", "CL + KD": "cl_kd"}
IMAGENET = {"MobileNet": "mobilenet", "MobileNetV2": "mobilenetv2", "ShuffleNetV2 0.5x": "shufflenetv2_05"}


def percent(score: float | str) -> tuple[float, ...]:
    """Mean and deviation of ``0.7863 ± 0.0041`` or 0.7863 in percent."""
    return tuple(round(100 * float(part), 6) for part in str(score).split(" ± "))


def printed(score: float | str) -> tuple[float, ...]:
    return tuple(float(part) for part in str(score).split(" ± "))


Numbers = dict[tuple[str, str], float | str]


def of_cifar(number: str, entry: dict, column: str) -> Numbers:
    """What a row of a paper's table on CIFAR stands for."""
    if number == "1":
        return {(f"{column}_{KINDS[entry['model']]}{'_kd' * entry['kd']}", "accuracy"): entry[column]}
    if number == "8":
        return {(f"{column}_{KINDS[entry['init']]}", "accuracy"): entry[column]} if column in entry else {}
    if number == "9":
        name = "plain" if entry["r"] is None else f"r_{str(entry['r']).replace('.', '_')}"
        return {(f"{column}_{name}", "accuracy"): entry[column]}
    network, _, expanded = entry["model"].partition(" ")
    row = f"{column}_{NETWORKS[network]}"
    if expanded:
        return {(f"{row}_cl", "accuracy"): entry[column]}
    return {(row, "accuracy"): entry[column], (f"{row}_same_time", "accuracy"): entry[f"same_time_{column}"]}


def of_others(number: str, entry: dict) -> Numbers:
    """The same of tables on other data."""
    if number == "3":
        return {(f"{net}_{ROWS[entry['row']]}", "accuracy"): entry[net] for net in PREFIXES}
    if number == "5":
        row = "unet" if entry["model"] == "U-Net" else "cl"
        names = {"miou": "miou", "mean_recall": "mrec", "mean_precision": "mprec"}
        return {(row, ours): entry[theirs] for ours, theirs in names.items()}
    if number == "7":
        row = f"noise_{entry['noise'].rstrip('%')}_{{}}_{KINDS[entry['model']]}"
        kernels = ("k5", "k9")
        return {(row.format(k), f"{name}_error"): value for k in kernels for name, value in entry[k].items()}
    if "imagenet" not in entry:
        return {}
    kind = "plain" if entry["init"] == "Standard" else "cl"
    return {(f"{IMAGENET[entry['model']]}_{kind}", "accuracy"): entry["imagenet"]}


def expected(number: str) -> Numbers:
    """What the paper prints, by row and metric of our table."""
    found: Numbers = {}
    for entry in GOLDEN[f"003.{number}"]:
        if number in "1289":
            for column in CIFAR:
                found |= of_cifar(number, entry, column)
        if number in "3578":
            found |= of_others(number, entry)
    return found


@pytest.mark.parametrize("number", ["1", "2", "3", "5", "7", "8", "9"])
def test_published_numbers_are_those_of_the_paper(number: str) -> None:
    table = read_table(f"expandnets_table{number}")
    ours = {(row.name, metric): percent(value) for row in table.rows for metric, value in row.published.items()}
    assert ours == {key: printed(value) for key, value in expected(number).items()}
    metrics = {metric for _, metric in ours}
    assert metrics <= set(table.metrics)


@pytest.mark.parametrize("small", ["cifar10", "kd", "camvid"])
def test_small_tables_stand_beside_the_same_numbers(small: str) -> None:
    table = read_table(f"expandnets_small_{small}")
    number, prefix = ("5", "") if small == "camvid" else ("1", "cifar10_")
    paper = expected(number)
    rows = [row for row in table.rows if row.published]
    assert len(rows) == {"cifar10": 5, "kd": 4, "camvid": 2}[small]
    for row in rows:
        for metric, value in row.published.items():
            assert percent(value) == printed(paper[f"{prefix}{row.name}", metric])


def test_the_time_of_expanded_training() -> None:
    seconds = {entry["model"]: entry["epoch_s"] for entry in GOLDEN["003.2"]}
    table = read_table("expandnets_table2")
    for network, name in NETWORKS.items():
        ratio = seconds[f"{network} CL r4"] / seconds[network]
        options = table.row(f"cifar10_{name}_same_time").options
        assert options["trainer.max_epochs"] == round(350 * ratio)
        milestones = options["model.init_args.lr_scheduler.init_args.milestones"]
        assert milestones == [round(150 * ratio), round(250 * ratio)]


def test_complexity() -> None:
    plan = read_plan("expandnets_table6")
    assert read_table("expandnets_table6").profile == "expandnets_table6"
    epochs = GOLDEN["003.6_epoch_s"]
    found = {candidate.name: candidate.published for candidate in plan.grids[0].candidates}
    assert found.pop("SmallNet")["epoch_s"] == epochs["SmallNet"]
    assert {name: values["epoch_s"] for name, values in found.items()} == {
        f"{kind}, r = {rate}": epochs[kind][rate] for kind in ("FC", "CL", "CK") for rate in ("2", "4", "8")
    }


def table(**changes) -> ExperimentTable:
    row = Row("taught", "A", configs=["pocket"], options={"start_from": "{runs}/first/seed_{seed}", "a": "{b}", "n": 1})
    return ExperimentTable(
        "t", [Row("first", "A", configs=["pocket"], seeds=[3]), row], seeds=[0, 1], folds=1, **changes
    )


def test_options_name_other_runs(tmp_path: Path) -> None:
    experiments = table()
    first, taught = experiments.rows
    assert list(experiments.places(first)) == ["first/seed_3"]
    assert list(experiments.places(taught)) == ["taught/seed_0", "taught/seed_1"]
    command = experiments.commands(taught, "taught/seed_1", tmp_path / "runs", "cache")[0]
    assert f"--start_from={tmp_path / 'runs'}/first/seed_1" in command
    assert {"--a={b}", "--n=1", "--data.init_args.cache=cache", "--seed_everything=1"} <= set(command)
    folder = Row("f", "A", configs=["pocket"], data="data.init_args.folder")
    assert "--data.init_args.folder=x" in experiments.commands(folder, "f/seed_0", tmp_path, "x")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: t\nseeds: [0]\nrows: [{name: a, task: A, configs: [pocket], seeds: [1, 1]}]", "row a: seeds is"),
        ("title: t\nrows: [{name: a, task: A, configs: [pocket], seeds: [1]}]", "row a: has seeds, but the table"),
        ("title: t\nrows: [{name: a, task: A, configs: [pocket], data: data.x}]", "row a: data is 'data.x'"),
    ],
)
def test_rows_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(PocketError, match=message):
        read_table(str(tmp_path / "t.yaml"))
