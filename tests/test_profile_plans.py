"""Files of profiles and names on the command line: what is read, what is refused."""

from __future__ import annotations

import json

import pytest

from lightning_pocket.costs.plan import parse_batches, parse_patches, parse_targets
from lightning_pocket.costs.plan_file import is_plan, read_plan
from lightning_pocket.errors import PocketError
from lightning_pocket.launch import configs_folder


def test_figure_3_asks_for_the_paper_s_batches_on_both_sizes():
    plan = read_plan("pocketnet_figure3")
    assert [grid.batches for grid in plan.grids] == [(1, 4, 8, 16, 32)] * 2
    assert [grid.patches for grid in plan.grids] == [((128, 128, 128),), ((5, 240, 240),)]
    assert plan.published == {"train_mib": (28.3, 87.7), "train_step_ms": (25.0, 43.2)}
    assert plan.in_channels == 4


@pytest.mark.parametrize("path", sorted((configs_folder() / "profiles").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_profile_can_be_read(path):
    assert is_plan(path.stem)
    assert is_plan(str(path))
    assert read_plan(path.stem) == read_plan(str(path))
    assert not is_plan("segment_volumes")


MINIMAL = {
    "title": "Mine",
    "variants": {"full": ["full"]},
    "groups": [
        {"title": "g", "patches": [[8, 8, 8]], "batches": [1], "networks": {"U": {"configs": ["segment_volumes"]}}}
    ],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "no key 'titel'. Did you mean title?"),
        ({"variants": {}}, "variants is empty"),
        ({"groups": []}, "groups is empty"),
        ({"measure": 1}, "measure is 1, expected bool"),
        ({"published": {"train_mib": [1.0]}}, "the lowest and the highest"),
        ({"groups": [MINIMAL["groups"][0] | {"patches": [[0, 8, 8]]}]}, r"patches: has \[0, 8, 8\]"),
        ({"groups": [MINIMAL["groups"][0] | {"batches": [0]}]}, "batches: has 0"),
        ({"groups": [MINIMAL["groups"][0] | {"cpu": {"batch": [1]}}]}, "no key 'batch'"),
        ({"groups": [{"title": "g"}]}, "has no networks"),
    ],
)
def test_mistakes_in_a_profile_are_named(tmp_path, changes, message):
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(MINIMAL | changes))
    with pytest.raises(PocketError, match=message):
        read_plan(str(path))


def test_sizes_of_the_command_line():
    assert parse_batches("1, 4,8") == (1, 4, 8)
    assert parse_patches("32x32x32,256X256") == ((32, 32, 32), (256, 256))
    for text in ("", "0", "2,x", "-1"):
        with pytest.raises(PocketError, match="--batch"):
            parse_batches(text)
    for text in ("32", "32x", "0x8", "8x0x8", "axb"):
        with pytest.raises(PocketError, match="--patch"):
            parse_patches(text)


def test_what_is_no_network_is_named(tmp_path):
    with pytest.raises(PocketError, match="Add an experiment: segment_volumes,full"):
        parse_targets(["full", "pocket"], [])
    (tmp_path / "dataset.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PocketError, match="is prepared data, no network"):
        parse_targets([str(tmp_path)], [])
    with pytest.raises(PocketError, match="Did you mean pocketnet_figure3"):
        parse_targets(["pocketnet_figur3"], [])
