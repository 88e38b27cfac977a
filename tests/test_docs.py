"""What README and docs show runs as written."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from mask_datasets import write_pairs

from lightning_pocket.cli import main
from lightning_pocket.launch import configs_folder, find_config
from lightning_pocket.networks import Network

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.e2e
def test_the_commands_of_the_readme_run(blobs, tmp_path, monkeypatch, capsys):
    data = shutil.copytree(blobs, tmp_path / "data" / "hippocampus")
    names = sorted(path.name for path in (data / "imagesTr").iterdir())
    (data / "index.csv").write_text("file,fold\n" + "".join(f"{name},{i % 5}\n" for i, name in enumerate(names)))
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks(ROOT / "README.md", "bash") for line in block.splitlines()]
    commands = [
        shlex.split(line.replace("$DATA", str(data)), comments=True)[1:] for line in commands if "pocket " in line
    ]
    assert [command[0] for command in commands] == [
        "check",
        "prepare",
        "plan",
        "fit",
        "fit",
        "test",
        "test",
        "compare",
        "report",
        "infer",
        "evaluate",
        "prepare",
        "fit",
    ]
    write_pairs(tmp_path / "IMAGES")
    commands[-1] += ["--trainer.max_epochs=1", "--model.init_args.network.init_args.widths.base=4"]  # for time alone
    for place in (0, 10, 11):  # and not to wait for processes of their own three times
        commands[place].append("--workers=1")
    for command in commands:
        main(command)
    assert "runs/full" not in capsys.readouterr().err
    assert (tmp_path / "runs" / "pocket" / "test" / "cases.csv").is_file()


def test_the_network_of_the_docs_works():
    page = ROOT / "docs" / "extending.md"
    scope: dict[str, type[Network]] = {}
    exec(blocks(page, "python")[0], scope)
    network = scope["TwoLayers"](1, 3, spatial_dims=2)
    assert network(torch.zeros(1, 1, 4, 5)).shape == (1, 3, 4, 5)
    for block in blocks(page, "yaml"):
        assert yaml.safe_load(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_configs_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"--config ([\w/]+)", text):
        if name not in {"mine", "a", "b"}:
            assert configs_folder() in find_config(name).parents, name


def test_every_option_of_the_docs_exists(capsys):
    """Options of the data commands named in the table of settings."""
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    known = capsys.readouterr().out
    for option in re.findall(
        r"^\| `(--\w+)`", (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    ):
        assert option in known
