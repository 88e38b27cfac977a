"""The whole path on real images; skipped where they are absent."""

import csv

import pytest

from lightning_pocket.cli import main

pytestmark = [pytest.mark.data, pytest.mark.e2e]

QUICK = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--model.init_args.network.init_args.widths.base=4",
    "--data.init_args.batch_size=2",
]


def losses(run):
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


def train(tmp_path, table, *options, prepare=()):
    cache, plan, run = tmp_path / "cache", tmp_path / "plan.yaml", tmp_path / "run"
    main(["check", str(table), *[o for o in prepare if o.startswith("--classes")]])
    main(["prepare", str(table), f"--output={cache}", "--workers=1", *prepare])
    main(["plan", str(cache), f"--output={plan}"])
    configs = ["--config=segment_volumes", f"--config={plan}", "--config=pocket"]
    main(["fit", *configs, f"--run_dir={run}", *QUICK, *options])
    return run


def test_hippocampus_learns_from_the_first_epochs(real_data, tmp_path):
    folder = real_data / "hippocampus_msd"
    names = sorted(path.name for path in (folder / "labelsTr").iterdir())[:16]
    table = tmp_path / "cases.csv"
    rows = [f"{n},{folder / 'imagesTr' / n},{folder / 'labelsTr' / n},{i % 4}" for i, n in enumerate(names)]
    table.write_text("\n".join(["subject,t1,label,fold", *rows]) + "\n")
    run = train(tmp_path, table, "--trainer.max_epochs=4", "--model.init_args.optimizer.init_args.lr=0.01")
    assert losses(run)[-1] < 0.9 * losses(run)[0]
    main(["test", f"--run_dir={run}"])
    with (run / "test" / "cases.csv").open(newline="") as file:
        tested = [row["subject"] for row in csv.DictReader(file)]
    assert tested == [name for i, name in enumerate(names) if i % 4 == 0]


def test_an_abdominal_ct_of_26_slices_trains(real_data, tmp_path):
    folder = real_data / "abdomen_ct" / "msd_spleen2_crop"
    table = tmp_path / "cases.csv"
    rows = [
        f"scan_{i},{folder / 'ct.nii.gz'},{folder / 'spleen.nii.gz'},{split}"
        for i, split in enumerate(["train", "val"])
    ]
    table.write_text("\n".join(["subject,CT,label,split", *rows]) + "\n")
    run = train(
        tmp_path,
        table,
        "--trainer.max_epochs=1",
        "--data.init_args.patches_per_epoch=2",
        "--model.init_args.network.init_args.widths.base=2",
        "--data.init_args.validation=patches",
        prepare=["--classes=background,spleen"],
    )
    assert 0 < losses(run)[0] < 1
