"""An offline W&B run, read back from its files."""

import csv
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from image_datasets import write_classes
from interruption import kill_after
from PIL import Image
from started import TRAINING, Started
from wandb_reader import OfflineRun, isolate

from lightning_pocket.callbacks import WandbRun
from lightning_pocket.callbacks.wandb_history import _records, read_sent
from lightning_pocket.cli import main
from lightning_pocket.tasks import SegmentationTask

wandb = pytest.importorskip("wandb")

pytestmark = pytest.mark.usefixtures("wandb_machine")

SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "DATABASE_PASSWORD": "correct-horse-battery",
    "STORAGE_URL": "postgresql://ann:tr0ub4dor@db.example.org/sweeps",
}


@pytest.fixture(scope="module")
def recorded(blobs_cache, tmp_path_factory):
    """A run in the user's home that was trained and tested, on a machine that knows secrets."""
    home = tmp_path_factory.mktemp("private") / "home_of_ann"
    run = home / "runs" / "mine"
    patch = pytest.MonkeyPatch()
    isolate(patch, home)
    for name, value in SECRETS.items():
        patch.setenv(name, value)
    patch.setenv("WANDB_MODE", "offline")
    patch.chdir(home)
    options = {
        "data.init_args.cache": blobs_cache,
        "data.init_args.patch_size": [8, 16, 16],
        "model.init_args.network.init_args.depth": 2,
        "model.init_args.network.init_args.widths.base": 4,
        "trainer.max_epochs": 2,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "trainer.logger.tags": ["mine"],
    }
    configs = ["--config=segment_volumes", "--config=pocket", "--config=wandb"]
    command = ["fit", *configs, f"--run_dir={run}", *(f"--{key}={value}" for key, value in options.items())]
    patch.setattr(sys, "argv", ["pocket", *command])
    try:
        wandb.teardown()
        main(command)
        trained = OfflineRun(run)
        main(["test", f"--run_dir={run}"])
        wandb.teardown()
    finally:
        patch.undo()
    return run, trained


@pytest.mark.e2e
def test_a_run_holds_its_config_and_code_without_paths_of_the_home(recorded):
    run, trained = recorded
    saved = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    config = OfflineRun(run).config
    assert config["model"] == saved["model"]
    assert config["run_dir"] == "~/runs/mine"
    assert config["trainer"]["default_root_dir"] == "~/runs/mine"
    for key in ("versions", "git_commit", "seed", "hardware", "parameters", "finished_at"):
        assert config["manifest"][key] == manifest[key]
    assert config["manifest"]["data"]["hash"] == manifest["data"]["hash"]
    assert "--run_dir=~/runs/mine" in config["manifest"]["command"]
    labels = {"data": "blobs", "task": "segmentation", "network": "UNet", "dims": "3D", "size": "pocket"}
    assert config["labels"] == labels | {"fold": 0, "seed": 0}
    assert set(trained.runs[0].tags) == {"mine", *labels.values()}
    assert trained.runs[0].display_name == "mine"
    assert not trained.runs[0].run_group


@pytest.mark.e2e
def test_metrics_have_axes_and_summaries(recorded):
    run, _ = recorded
    both = OfflineRun(run)
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shown = ["train/loss", "val/loss", "val/dice", "val/dice_core", "test/dice", "profile/step_ms"]
    for name in [*shown, "profile/peak_rss_mib", "profile/test_peak_rss_mib"]:
        expected = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        assert both.series(name) == expected, name
    dice = [value for _, value in both.series("val/dice")]
    assert both.summary["val/dice"]["max"] == pytest.approx(max(dice))
    losses = [value for _, value in both.series("train/loss")]
    assert both.summary["train/loss"]["min"] == pytest.approx(min(losses))
    memory = [value for _, value in both.series("profile/peak_rss_mib")]
    assert both.summary["profile/peak_rss_mib"]["max"] == pytest.approx(max(memory))
    assert both.summary["test/dice"] == both.series("test/dice")[0][1]
    assert both.summary["profile/parameters"] == 5259
    definition = both.metrics["val/dice"]
    assert definition.summary.max
    assert not definition.summary.min
    assert definition.step_metric == "trainer/global_step" or definition.step_metric_index
    assert both.metrics["val/loss"].summary.min
    steps = [row["_step"] for row in both.history]
    assert steps == list(range(len(steps)))  # over both commands: an upload keeps their order


@pytest.mark.e2e
def test_the_table_of_cases_is_that_of_the_file(recorded):
    run, _ = recorded
    with (run / "test" / "cases.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    table = OfflineRun(run).table("test/cases")
    assert table["columns"] == head
    assert [[str(cell) for cell in row] for row in table["data"]] == rows


@pytest.mark.e2e
def test_pictures_have_masks_and_the_names_of_the_classes(recorded):
    run, _ = recorded
    both = OfflineRun(run)
    tested = [
        line.partition(",")[0] for line in (run / "test" / "cases.csv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    planes = ("axial", "coronal", "sagittal")
    for key, cases in (("pictures/val", None), ("pictures/test", tested)):
        (value,) = [row[key] for row in both.history if key in row]
        assert value["_type"] == "images/separated"
        captions = value["captions"]
        if cases is not None:
            assert captions == [f"{case}, {plane}" for case in cases for plane in planes]
        assert len(value["filenames"]) == value["count"] == len(captions)
        for name, masks in zip(value["filenames"], value["all_masks"], strict=True):
            picture = np.asarray(Image.open(both.media(name)))
            assert picture.shape[:2] == (320, 320)
            assert picture.max() > 100
            truth = np.asarray(Image.open(both.media(masks["ground_truth"]["path"])))
            assert set(np.unique(truth)) <= {0, 1, 2}
            assert truth.any()
            assert np.asarray(Image.open(both.media(masks["prediction"]["path"]))).shape == truth.shape
        named = both.classes[f"{key}_wandb_delimeter_prediction"]["value"]
        assert list(named.values()) == ["background", "shell", "core"]


@pytest.mark.e2e
def test_no_secret_and_no_path_of_the_home_is_in_any_file(recorded):
    run, trained = recorded
    both = OfflineRun(run)
    secrets = [value.encode() for value in (*SECRETS.values(), "tr0ub4dor")]
    found = []
    for file in (file for file in (run / "wandb").rglob("*") if file.is_file()):
        content = file.read_bytes()
        found += [(file.name, secret) for secret in secrets if secret in content]
        if b"home_of_ann" in content:
            found.append((file, b"home"))
    # W&B notes where the copy of a table lies that it is to upload; it does not upload that note.
    (copy,) = both.artifacts
    local = copy.manifest.contents[0].local_path
    assert local.startswith(str(run / "wandb" / "artifacts"))
    log = both.attempts[1] / f"run-{both.runs[1].run_id}.wandb"
    assert found == [(log, b"home")]
    assert log.read_bytes().count(b"home_of_ann") == 1
    assert trained.artifacts == []
    assert [attempt.host for attempt in both.runs] == ["", ""]  # nor whose machine it was


def train_and_die():
    step = SegmentationTask.training_step

    def die(self, *args, **kwargs):
        self.log("train/at", float(self.global_step))
        if self.global_step == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *args, **kwargs)

    SegmentationTask.training_step = die
    main()


@pytest.mark.e2e
def test_a_killed_run_continues_with_every_step_once(options, tmp_path, monkeypatch):
    arguments = ["fit", *options, "--config=wandb", "--trainer.log_every_n_steps=1"]
    process = Started(f"{Path(__file__).stem}:train_and_die", arguments, imports=TRAINING)
    assert process.wait() == -signal.SIGKILL, process.read()[1][-2000:]
    before = SegmentationTask.training_step

    def logs(self, *args, **kwargs):
        self.log("train/at", float(self.global_step))
        return before(self, *args, **kwargs)

    monkeypatch.setattr(SegmentationTask, "training_step", logs)
    main(arguments)
    both = OfflineRun(tmp_path / "run")
    assert len(both.attempts) == 2
    number = (tmp_path / "run" / "wandb" / "run_id.txt").read_text(encoding="utf-8").strip()
    assert (
        {folder.name.split("-")[3] for folder in both.attempts} == {record.run_id for record in both.runs} == {number}
    )
    assert both.series("train/at") == [(number, float(number)) for number in range(8)]
    assert [number for number, _ in both.series("val/dice")] == [3, 7]
    assert [number for number, _ in both.series("profile/step_ms")] == [3, 7]
    steps = [row["_step"] for row in both.history]
    assert steps == sorted(set(steps))


@pytest.mark.e2e
def test_a_run_that_is_shown_on_wandb_later_has_its_curves_from_the_start(options, tmp_path):
    kill_after(["fit", *options])
    main(["fit", *options, "--config=wandb"])
    found = OfflineRun(tmp_path / "run")
    assert len(found.attempts) == 1
    assert [number for number, _ in found.series("val/dice")] == [3, 7]


def test_what_was_half_written_is_not_taken_for_sent(tmp_path):
    for attempt in range(2):
        logger = WandbRun(str(tmp_path), mode="offline")
        for step in range(300):
            logger.log_metrics({"train/loss": 1.0, "long/" + "name" * 40: 2.0}, 1000 * attempt + step)
        logger.finalize("success")
    folder = tmp_path / "wandb"
    sent = read_sent(folder, "trainer/global_step")
    assert sent.last == {"train/loss": 1299, "long/" + "name" * 40: 1299}
    assert sent.rows == 600
    log = OfflineRun(tmp_path).attempts[1] / next(OfflineRun(tmp_path).attempts[1].glob("*.wandb")).name
    log.write_bytes(log.read_bytes()[:40_000])
    cut = read_sent(folder, "trainer/global_step")
    assert 1000 < cut.last["train/loss"] < 1299
    assert cut.rows == 300 + cut.last["train/loss"] - 999
    log.write_bytes(b"no log of W&B at all")
    assert read_sent(folder, "trainer/global_step").last["train/loss"] == 299


def framed(contents):
    """Return a log in LevelDB's format, with the seven bytes that W&B puts before the first record."""
    log = bytearray(7)
    for content in contents:
        rest, first = content, True
        while first or rest:
            room = 32768 - len(log) % 32768
            if room < 7:
                log += bytes(room)
                continue
            part, rest = rest[: room - 7], rest[room - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not rest]
            log += bytes(4) + len(part).to_bytes(2, "little") + bytes([kind]) + part
            first = False
    return bytes(log)


def test_records_are_read_across_blocks_and_their_unused_ends():
    for left in range(10):  # bytes that the first record leaves of its block
        contents = [bytes([1]) * (32768 - 14 - left), bytes([2]) * 100, b"", bytes([3]) * 100_000, bytes([4])]
        log = framed(contents)
        assert list(_records(log)) == contents
        assert list(_records(log[:-50_000])) == contents[:3]
        assert list(_records(log[:5])) == []


@pytest.mark.e2e
def test_checkpoints_are_kept_for_the_upload(options, tmp_path):
    main(["fit", *options, "--config=wandb", "--trainer.logger.log_model=true"])
    found = OfflineRun(tmp_path / "run")
    (artifact,) = found.artifacts
    assert (artifact.type, artifact.name) == ("model", f"model-{found.runs[0].run_id}")
    for entry in artifact.manifest.contents:
        copy, original = Path(entry.local_path), tmp_path / "run" / "checkpoints" / entry.path
        assert tmp_path / "run" / "wandb" in copy.parents
        assert copy.read_bytes() == original.read_bytes()
    assert [entry.path for entry in artifact.manifest.contents] == ["best.ckpt", "last.ckpt"]
    assert "WANDB_DATA_DIR" not in os.environ


@pytest.mark.e2e
def test_the_folds_of_a_cross_validation_form_a_group(options, tmp_path):
    folder = tmp_path / "pocket"
    folder.mkdir()
    (folder / "crossval.json").write_text("{}", encoding="utf-8")
    main(["fit", *options, "--config=wandb", f"--run_dir={folder / 'fold_2'}", "--data.init_args.split.fold=2"])
    main(["test", f"--run_dir={folder / 'fold_2'}"])
    found = OfflineRun(folder / "fold_2")
    assert [(r.run_group, r.job_type, r.display_name) for r in found.runs] == [("pocket", "fold", "pocket/fold_2")] * 2
    assert found.config["labels"]["fold"] == 2


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes")
    write_classes(root / "raw", {"well": 12, "ill": 12, "unclear": 12})
    main(["prepare", str(root / "raw"), f"--output={root / 'cache'}", "--size=[32,32]", "--workers=1"])
    return root / "cache"


@pytest.mark.e2e
def test_a_classification_has_charts(classified, tmp_path):
    run = tmp_path / "run"
    small = ["--model.init_args.network.init_args.depth=2", "--model.init_args.network.init_args.widths.base=4"]
    options = [f"--data.init_args.cache={classified}", f"--run_dir={run}", "--trainer.max_epochs=1", *small]
    main(["fit", "--config=classify_images", "--config=wandb", *options, "--trainer.enable_progress_bar=false"])
    main(["test", f"--run_dir={run}"])
    found = OfflineRun(run)
    with (run / "test" / "cases.csv").open(newline="", encoding="utf-8") as file:
        cases = list(csv.DictReader(file))
    counts = found.table("test/confusion_matrix_table")
    right = sum(case["target"] == case["predicted"] for case in cases)
    assert sum(row[2] for row in counts["data"]) == len(cases)
    assert sum(row[2] for row in counts["data"] if row[0] == row[1]) == right
    curves = found.table("test/roc_table")
    assert curves["columns"] == ["class", "fpr", "tpr"]
    points = {name: [row[1:] for row in curves["data"] if row[0] == name] for name in ("well", "ill", "unclear")}
    for name, curve in points.items():
        assert curve[0] == [0, 0]
        assert curve[-1] == [1, 1]
        area = np.trapezoid([y for _, y in curve], [x for x, _ in curve])
        positive = [float(case[f"prob_{name}"]) for case in cases if case["target"] == name]
        negative = [float(case[f"prob_{name}"]) for case in cases if case["target"] != name]
        wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
        assert area == pytest.approx(np.mean(wins))
    assert found.table("test/cases")["columns"] == list(cases[0])
