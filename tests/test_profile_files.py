"""Folders and files of `pocket profile`: whose they are, and what several precisions or variants look like."""

import re

import pytest

from lightning_pocket.cli import main
from lightning_pocket.costs.output import claim
from lightning_pocket.costs.page import write_page
from lightning_pocket.costs.plan import Candidate, Grid, Plan
from lightning_pocket.costs.run import Row
from lightning_pocket.costs.tables import CostTables
from lightning_pocket.errors import PocketError

SMALL = {"infer_mib": 1.0, "parameters": 1, "macs": 1}


def test_files_of_others_are_not_overwritten(tmp_path, fails):
    (tmp_path / "table.csv").write_text("mine", encoding="utf-8")
    message = fails(["profile", "segment_volumes,pocket", f"--output={tmp_path}"])
    assert f"--output {tmp_path}: holds table.csv, and is not the folder of a profile" in message
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text(encoding="utf-8") == "mine"


def test_a_folder_of_a_profile_may_be_filled_again(tmp_path):
    claim(tmp_path / "out", None, "pocket profile a")
    (tmp_path / "out" / "table.csv").write_text("network", encoding="utf-8")
    claim(tmp_path / "out", None, "pocket profile b")
    assert (tmp_path / "out" / "table.csv").is_file()
    assert "pocket profile b" in (tmp_path / "out" / "profile.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(("output", "table"), [("file/out", None), ("file/page.html", None), (None, "file/x.csv")])
def test_places_that_cannot_be_written_are_told_before_anything_is_computed(tmp_path, output, table):
    (tmp_path / "file").write_text("", encoding="utf-8")
    paths = [None if path is None else tmp_path / path for path in (output, table)]
    with pytest.raises(PocketError, match=r"cannot be written \(.*\). Name another place"):
        claim(*paths, "pocket profile")


def test_data_only_writes_no_files(tmp_path, fails):
    command = ["profile", "segment_volumes,pocket", "--data_only"]
    assert "--data_only prints" in fails([*command, f"--table={tmp_path / 'x.csv'}"])


@pytest.mark.e2e
def test_a_run_is_profiled_as_it_was_trained(trained, fails):
    message = fails(["profile", str(trained), "--model.init_args.network.init_args.widths.base=8"])
    assert "--model.init_args.network.init_args.widths.base: changes networks that are named by configs" in message


@pytest.mark.e2e
def test_batches_that_cannot_be_trained_do_not_end_the_search(capsys):
    """One patch of 32 voxels leaves one value per channel at depth 5, too few for a batch norm."""
    small = "--model.init_args.network.init_args.widths.base=4"
    main(["profile", "segment_volumes,pocket", small, "--batch=2", "--patch=32x32x32", "--fit=0.025"])
    out, err = capsys.readouterr()
    assert "Expected more than 1 value per channel" in err
    found = re.search(r"32x32x32 +(\d+) +2 ", out)
    assert found is not None
    assert int(found[1]) >= 2


def made_up(*networks):
    """Three variants of each network with two batches, the larger first."""
    rows = [
        Row(0, Candidate(name, variant), batch, (8, 8), precision, {"train_mib": 1.0 + batch + number, **SMALL})
        for name, precision in networks
        for number, variant in enumerate(("full", "pocket", "half"))
        for batch in (4, 1)
    ]
    candidates = tuple(dict.fromkeys(row.candidate for row in rows))
    return CostTables(Plan("t", (Grid("", candidates, patches=((8, 8),)),)), rows)


def test_precisions_that_differ_are_named_with_their_networks():
    costs = made_up(("U-Net", "32-true"), ("HRNet", "bf16-mixed"))
    title = next(table.title for table in costs.tables() if "Predicted" in table.title)
    assert "32-true: U-Net full, U-Net pocket, U-Net half; bf16-mixed: HRNet full, HRNet pocket, HRNet half" in title


def test_each_variant_has_a_curve_of_its_own(tmp_path, monkeypatch):
    charts = []

    def chart(series, _x, _y, title):
        charts.append((title, series))
        return "<svg/>"

    monkeypatch.setattr("lightning_pocket.costs.page.line_chart", chart)
    write_page(tmp_path / "page.html", made_up(("U-Net", "32-true")), [], "", "pocket profile")
    saved = [series for title, series in charts if "saved" in title]
    assert saved
    for series in saved:
        assert sorted(series) == ["U-Net half", "U-Net pocket"]
        assert all([x for x, _ in points] == [1, 4] for points in series.values())
