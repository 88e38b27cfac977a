"""Studies: features before the head, saturation."""

import json
import shutil
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from in_process import in_this_process
from study_files import read_table, stub
from torch import nn

from lightning_pocket.cli import main
from lightning_pocket.data.cache import Cache
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import WidthSchedule
from lightning_pocket.locks import FileLock
from lightning_pocket.networks import Network, UNet
from lightning_pocket.reports.activation_page import ChannelMeans
from lightning_pocket.reports.charts import line_chart
from lightning_pocket.reports.saturation_page import read_point, write_saturation
from lightning_pocket.reports.svg_file import write_svg
from lightning_pocket.reports.tested import is_tested, record_test, state_of
from lightning_pocket.storage import write_json, write_text
from lightning_pocket.studies.activations import HeadInputs, channel_means
from lightning_pocket.studies.run_data import load_data
from lightning_pocket.studies.saturation import Saturation, epoch_length
from lightning_pocket.tasks import SegmentationTask, load_task


class TwoHeads(Network):
    """Uses the finer of two heads last, after features of half the resolution went to the other."""

    def __init__(self) -> None:
        super().__init__(1, 2, 2, (2, 2))
        self.body = nn.Conv2d(1, 3, 3, padding=1)
        self.heads = nn.ModuleList(nn.Conv2d(3, 2, 1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x)
        self.heads[1](nn.functional.avg_pool2d(h, 2))
        return self.heads[0](h)


def test_features_are_what_the_last_head_is_given() -> None:
    torch.manual_seed(0)
    network, x = TwoHeads().eval(), torch.randn(2, 1, 4, 6)
    torch.testing.assert_close(HeadInputs(network)(x), network.body(x))
    unet = UNet(1, 2, 2, depth=2, widths=WidthSchedule(4), deep_supervision=1).eval()
    torch.testing.assert_close(HeadInputs(unet)(torch.ones(1, 1, 8, 8)), unet.features(torch.ones(1, 1, 8, 8))[0])


def test_coarse_features_keep_their_mean() -> None:
    class Coarse(TwoHeads):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.interpolate(self.heads[0](nn.functional.avg_pool2d(self.body(x), 2)), scale_factor=2)

    torch.manual_seed(0)
    network, x = Coarse().eval(), torch.randn(1, 1, 4, 6)
    features = HeadInputs(network)(x)
    assert features.shape == (1, 3, 4, 6)
    torch.testing.assert_close(features.mean((2, 3)), network.body(x).mean((2, 3)))


@pytest.mark.parametrize("size", [(4, 6), (3, 4), (8, 6)])
def test_means_are_those_of_every_voxel(size: tuple[int, int]) -> None:
    """Windows do not matter to a network that looks at single voxels."""
    torch.manual_seed(0)
    network = TwoHeads()
    network.body = nn.Conv2d(1, 3, 1)
    dataset = {"channels": ["MRI"], "classes": ["background", "organ"], "patch_size": [4, 6]}
    task = SegmentationTask(network, dataset).eval()
    x = torch.randn(2, 1, *size)
    with torch.inference_mode():
        mean, absolute = channel_means(task, HeadInputs(network), x)
        expected = network.body(x)
    torch.testing.assert_close(mean, expected.mean((2, 3)).double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(absolute, expected.abs().mean((2, 3)).double(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mean, absolute)


def test_channels_are_ranked() -> None:
    means = np.array([[1.0, -4.0, 6.0, 0.0], [3.0, -4.0, 8.0, 0.0]])
    result = ChannelMeans("net", ["a", "b"], means, np.abs(means))
    assert result.order.tolist() == [2, 0, 3, 1]
    assert result.sorted_mean.tolist() == [7, 2, 0, -4]
    np.testing.assert_allclose(result.sorted_share, [7 / 13, 4 / 13, 2 / 13, 0])
    assert result.carriers(0.5) == 1
    assert result.carriers(11 / 13) == 2
    assert result.carriers() == 3
    assert result.silent == 1


@pytest.mark.e2e
def test_activations_of_a_run(
    trained: Path, blobs_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The blobs are larger than a patch along one axis only, so a uniform window over the whole is the reference."""
    main(["activations", str(trained), f"--output={tmp_path / 'out'}"])
    assert "page:" in capsys.readouterr().out
    rows = read_table(tmp_path / "out" / "activations.csv")
    task, cache = load_task(trained / "checkpoints" / "last.ckpt"), Cache.open(blobs_cache)
    kept: list[torch.Tensor] = []
    task.network.heads[0].register_forward_hook(lambda _, inputs, __: kept.append(inputs[0]))
    means = []
    held_out = [subject for subject, entry in sorted(cache.folds.items()) if entry.fold == 0]
    with torch.inference_mode():
        for subject in held_out:
            kept.clear()
            image = torch.from_numpy(np.array(cache.case(subject).image()))[None]
            features = task.inference(lambda x: (task.network(x), kept[-1])[1], image, task.info.patch_size)
            means.append(features.mean((0, 2, 3, 4)).numpy())
    expected = np.mean(means, axis=0)
    assert len(held_out) > 1
    assert [float(row["mean"]) for row in rows] == pytest.approx(sorted(expected, reverse=True), rel=1e-4)
    assert [int(row["channel"]) for row in rows] == np.argsort(-expected).tolist()
    assert [float(row["std"]) for row in rows] == pytest.approx(
        np.std(means, axis=0, ddof=1)[np.argsort(-expected)], rel=1e-3
    )
    figure = ElementTree.parse(tmp_path / "out" / "activations.svg").getroot()
    marks = [e for e in figure.iter() if e.get("class") == "mark s0" and e.find("{*}title").text]
    assert len(marks) == 4
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2


def test_activations_say_what_is_missing(tmp_path: Path, trained: Path, fails) -> None:
    assert "output: is missing" in fails(["activations", str(trained)])
    assert "no run here" in fails(["activations", str(tmp_path), f"--output={tmp_path / 'out'}"])
    (tmp_path / "cv").mkdir()
    (tmp_path / "cv" / "crossval.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PocketError, match=r"is a cross-validation. Name one of its folds, such as .*fold_0"):
        load_data(tmp_path / "cv")
    assert not (tmp_path / "out").exists()


def test_a_chart_alone_needs_nothing_else(tmp_path: Path) -> None:
    chart = line_chart({"a": [(1, 2), (10, 3)]}, "x", "y", "A <b> & c")
    write_svg(tmp_path / "chart.svg", chart)
    text = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.find("{*}title").text == "A <b> & c"
    style = root.find("{*}style").text
    assert "var(" not in style
    assert ".s1" in style
    used = {name for e in root.iter() for name in (e.get("class") or "").split()}
    assert {name for name in used if f".{name}" not in style} <= {"chart", "plot", "ticks", "x", "y"}


def test_a_logarithmic_axis_and_error_bars() -> None:
    series = {"a": [(0.0, 9.0), (1, 0.5), (10, 0.7), (100, 0.9)]}
    root = ElementTree.fromstring(line_chart(series, "x", "y", "t", errors={"a": {10: 0.2}}, log_x=True))
    curve, bar = [
        [tuple(map(float, p.split(","))) for p in e.get("points").split()] for e in root.findall(".//polyline")
    ][1:]
    assert len(curve) == 3  # 0 has no logarithm
    assert curve[1][0] - curve[0][0] == pytest.approx(curve[2][0] - curve[1][0], abs=0.2)
    assert {x for x, _ in bar} == {curve[1][0]}
    assert bar[0][1] - bar[1][1] == pytest.approx(2 * (curve[0][1] - curve[1][1]), abs=0.3)  # 0.4 against 0.2


FAST = [
    "--data.init_args.patch_size=[8,16,16]",
    "--data.init_args.validation=patches",
    "--model.init_args.network.init_args.depth=1",
    "--model.init_args.network.init_args.widths.base=2",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
]


@pytest.mark.e2e
def test_a_saturation_study_runs_and_goes_on(
    blobs_cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    options = ["--config=segment_volumes", f"--data.init_args.cache={blobs_cache}", *FAST]
    study = ["saturation", f"--output={folder}", "--presets=pocket", *options]
    with in_this_process():
        main([*study, "--fractions=30,100"])
    printed = capfd.readouterr().out
    assert printed.count(": pocket fit") == printed.count(": pocket test") == 2
    (folder / "saturation.csv").unlink()
    with in_this_process():
        main([*study, "--fractions=30,100"])
    printed = capfd.readouterr().out
    assert printed.count("is trained and tested") == 2
    assert ": pocket" not in printed

    runs = {
        name: json.loads((folder / name / "manifest.json").read_text()) for name in ("pocket_030.0", "pocket_100.0")
    }
    small, whole = (run["data"]["split"] for run in runs.values())
    assert (len(small["train"]), len(whole["train"])) == (3, 7)
    assert set(small["train"]) < set(whole["train"])
    assert (small["val"], small["test"]) == (whole["val"], whole["test"])
    assert [run["steps"] for run in runs.values()] == [4, 4]  # seven patches in batches of two, whatever the share
    config = yaml.safe_load((folder / "pocket_030.0" / "config.yaml").read_text(encoding="utf-8"))
    assert config["data"]["init_args"]["augmentation"] == []
    assert config["data"]["init_args"]["patches_per_epoch"] == 7

    rows = [row for row in read_table(folder / "saturation.csv") if row["metric"] == "dice"]
    cases = read_table(folder / "pocket_100.0" / "test" / "cases.csv")
    scores = [float(case["dice"]) for case in cases]
    assert [(row["percent"], row["training_cases"], row["test_cases"]) for row in rows] == [
        ("30.0", "3", "2"),
        ("100.0", "7", "2"),
    ]
    assert float(rows[1]["mean"]) == pytest.approx(np.mean(scores))
    assert float(rows[1]["std"]) == pytest.approx(np.std(scores, ddof=1))
    ElementTree.parse(folder / "saturation.svg")
    assert "3 (30 %)" in (folder / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fractions=0"], "0 is not a percentage above 0"),
        (["--fractions=10,101"], "101 is not a percentage"),
        (["--fractions=ten"], "expected percentages such as"),
        (["--presets="], "name at least one of each"),
        (["--presets=pockt"], "Did you mean pocket"),
        (["--presets=pocket,presets/pocket"], "two have the same name"),
        (["--jobs=0"], "--jobs: is 0"),
        (["--run_dir=x"], "--run_dir=x: is set by the study"),
        (["--data.init_args.split.train_fraction=0.5"], "is set by the study"),
    ],
)
def test_a_study_that_cannot_run_says_why(arguments: list[str], message: str, tmp_path: Path, fails) -> None:
    assert message in fails(["saturation", f"--output={tmp_path / 'study'}", *arguments])
    assert not (tmp_path / "study").exists()


def test_folders_of_others_are_refused(tmp_path: Path, fails) -> None:
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    assert "is not empty and holds no study" in fails(["saturation", f"--output={tmp_path}"])
    write_json(tmp_path / "saturation.json", {"options": ["--trainer.max_epochs=2"], "length": {}})
    assert "holds a study with other options (--trainer.max_epochs=2)" in fails(["saturation", f"--output={tmp_path}"])


#: What the options of the studies below come to.
SETTINGS = {"data": {"init_args": {"split": {"train_fraction": 1.0}}}, "trainer": {"accelerator": "cpu"}}


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A study of two runs of which one is done; nothing is trained."""
    run, length = tmp_path / "pocket_100.0", {"patches_per_epoch": 5}
    write_json(run / "manifest.json", {"parameters": 7, "finished": True, "finished_at": "now"})
    write_json(tmp_path / "saturation.json", {"options": ["--config=mine"], "length": length})
    settings = SETTINGS | {"data": {"init_args": {"split": {"train_fraction": 1.0}, **length}}}
    for name, content in (
        ("config.yaml", yaml.safe_dump(settings)),
        ("checkpoints/last.ckpt", ""),
        ("test/cases.csv", "subject,dice\nx,0.5\n"),
    ):
        write_text(run / name, content)
    record_test(run, state_of(run, {}) | {"checkpoint": "last", "largest_component": False, "changed": ""})
    stub(monkeypatch, tmp_path / "logs")
    monkeypatch.setattr("lightning_pocket.studies.saturation.resolve_settings", lambda _: SETTINGS)
    return ["saturation", f"--output={tmp_path}", "--presets=pocket", "--fractions=3,100", "--config=mine"]


def test_a_study_does_what_is_missing(study: list[str], tmp_path: Path, fails) -> None:
    with pytest.raises(SystemExit):
        main(study)
    log = (tmp_path / "logs" / "pocket_003.0.log").read_text(encoding="utf-8")
    assert not (tmp_path / "logs" / "pocket_100.0.log").exists()
    fit = next(line for line in log.splitlines() if "$ pocket fit" in line)
    assert "fit --config=mine " in fit
    assert "--data.init_args.patches_per_epoch=5 " in fit  # as the study began, whatever it is now
    assert [row["run"] for row in read_table(tmp_path / "saturation.csv")] == ["pocket_100.0"]
    assert "1 of 2 runs failed (pocket_003.0)" in fails(study)


def test_a_run_that_another_process_makes_is_no_failure(study: list[str], tmp_path: Path) -> None:
    """The other process is a thread that ends its run while this one waits."""
    small, whole = (tmp_path / name for name in ("pocket_003.0", "pocket_100.0"))
    lock = FileLock(tmp_path / ".pocket_003.0.lock")
    assert lock.acquire()

    def other() -> None:
        time.sleep(1)
        shutil.copytree(whole, small)
        lock.release()

    thread = threading.Thread(target=other)
    thread.start()
    main(study)
    thread.join()
    assert [row["run"] for row in read_table(tmp_path / "saturation.csv")] == [small.name, whole.name]


def test_other_settings_or_data_of_a_run_are_refused(
    study: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails
) -> None:
    changed = SETTINGS | {"trainer": {"accelerator": "cpu", "max_epochs": 9}}
    monkeypatch.setattr("lightning_pocket.studies.saturation.resolve_settings", lambda _: changed)
    message = fails(study)
    assert "pocket_100.0 was trained with other settings (trainer.max_epochs: None -> 9)" in message
    monkeypatch.setattr("lightning_pocket.studies.saturation.resolve_settings", lambda _: SETTINGS)
    manifest = tmp_path / "pocket_100.0" / "manifest.json"
    write_json(manifest, json.loads(manifest.read_text()) | {"data": {"hash": "before", "split": {}}})
    data = SimpleNamespace(record={"hash": "now", "split": {}})
    monkeypatch.setattr("lightning_pocket.studies.run_data.make_data", lambda *_: data)
    assert "pocket_100.0: the data changed since this run began" in fails(study)
    assert not (tmp_path / "logs" / "pocket_003.0.log").exists()


def test_the_best_checkpoint_may_be_tested(study: list[str], tmp_path: Path) -> None:
    assert is_tested(tmp_path / "pocket_100.0", "last")
    with pytest.raises(SystemExit):  # nothing is really tested here
        main([*study, "--checkpoint=best"])
    log = (tmp_path / "logs" / "pocket_100.0.log").read_text(encoding="utf-8")
    assert f"pocket test --run_dir={tmp_path / 'pocket_100.0'} --ckpt_path=best" in log
    study = Saturation(tmp_path, (), checkpoint="best")
    assert "--checkpoint=best" in study.shown


def test_runs_are_named_after_preset_and_share(tmp_path: Path) -> None:
    study = Saturation(tmp_path, ())
    names = [study.path("configs/mine.yaml", percent).name for percent in (0.25, 1.5, 3, 100)]
    assert names == ["mine_000.25", "mine_001.5", "mine_003.0", "mine_100.0"]
    fit, test = study.commands("pocket", 1.5, {"patches_per_epoch": 80})
    assert fit[:3] == ["fit", "--config=no_augmentation", "--config=pocket"]
    assert "--data.init_args.split.train_fraction=0.015" in fit
    assert "--data.init_args.patches_per_epoch=80" in fit
    assert fit[-1] == test[1] == f"--run_dir={tmp_path / 'pocket_001.5'}"
    assert test[2:] == ["--ckpt_path=last"]


def test_an_epoch_keeps_its_length(blobs_cache: Path) -> None:
    def settings(**data: object) -> dict[str, object]:
        cache = {"cache": str(blobs_cache), "patch_size": [8, 8, 8]}
        return {"data": {"class_path": "lightning_pocket.data.VolumeDataModule", "init_args": {**cache, **data}}}

    assert epoch_length(settings(patches_per_epoch=None)) == {"patches_per_epoch": 7}
    assert epoch_length(settings(patches_per_epoch=250)) == {"patches_per_epoch": 250}
    assert epoch_length({"data": {"init_args": {"batch_size": 4}}}) == {}
    with pytest.raises(PocketError, match="Leave `--config queue` out"):
        epoch_length(settings(patch_source="queue", patches_per_epoch=None))


def test_classifiers_are_drawn_by_their_auc(tmp_path: Path) -> None:
    runs = {}
    for name, training, rows in (
        ("few", ["a", "b"], ["x,no,no,0.9,0.1", "y,yes,no,0.6,0.4", "z,no,no,0.5,0.5"]),
        ("many", [str(i) for i in range(40)], ["x,no,no,0.9,0.1", "y,yes,yes,0.1,0.9", "z,no,no,0.5,0.5"]),
    ):
        (tmp_path / name / "test").mkdir(parents=True)
        write_json(tmp_path / name / "manifest.json", {"parameters": 7, "data": {"split": {"train": training}}})
        header = "subject,target,predicted,prob_no,prob_yes"
        (tmp_path / name / "test" / "cases.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
        runs[name] = read_point("pocket", 5.0 if name == "few" else 100.0, tmp_path / name)
    assert runs["few"].scores["auc"] == (0.5, None)  # of the two pairs one is in order
    write_saturation(tmp_path / "out", list(runs.values()), None, [], ["pocket saturation"])
    rows = [row for row in read_table(tmp_path / "out" / "saturation.csv") if row["metric"] == "auc"]
    assert [(row["training_cases"], row["test_cases"], row["mean"], row["std"]) for row in rows] == [
        ("2", "3", "0.5", ""),
        ("40", "3", "1.0", ""),
    ]
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "Test AUC by the number of training cases" in page
    assert "Bars are" not in page
    with pytest.raises(PocketError, match="--metric dice: was not measured; there are auc,"):
        write_saturation(tmp_path / "out", list(runs.values()), "dice", [], [])
