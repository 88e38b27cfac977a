"""The command line before any command runs."""

import subprocess
import sys
from importlib import import_module

import pytest

from lightning_pocket.cli import _functions, main
from lightning_pocket.errors import PocketError
from lightning_pocket.launch import Run, configs_folder, find_config


def test_help_is_quick_because_it_imports_nothing_heavy():
    code = (
        "import sys; from lightning_pocket.cli import main; main(['--help']); "
        "heavy = {'torch', 'torchio', 'pytorch_lightning', 'SimpleITK', 'jsonargparse', 'numpy'} & set(sys.modules); "
        "print('heavy:', heavy or 'nothing')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert "heavy: nothing" in result.stdout
    for command in ("fit", "test", "check", "prepare", "plan", "demo", "infer", "evaluate"):
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize(
    "command", ["check", "prepare", "plan", "compare", "synthesize", "demo", "infer", "evaluate", "shrink"]
)
def test_help_of_light_commands_does_not_import_torch(command):
    code = (
        "import sys; from lightning_pocket.cli import main\n"
        f"try: main([{command!r}, '--help'])\n"
        "except SystemExit as stop: print('status', stop.code)\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout.endswith("status 0\nFalse\n")
    assert "Args:" not in result.stdout


def test_what_the_help_lists_can_be_run():
    for name in _functions():
        assert callable(getattr(import_module(f"lightning_pocket.commands.{name}"), name))


def test_a_misspelt_command_is_suggested(fails):
    assert "Did you mean `pocket prepare`?" in fails(["prepar"])


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out.startswith("lightning_pocket ")


@pytest.mark.parametrize("path", sorted(configs_folder().rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_found_by_its_name_from_any_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = path.relative_to(configs_folder()).with_suffix("").as_posix()
    assert find_config(name) == path
    assert find_config(f"{name}.yaml") == path


def test_a_file_comes_before_a_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pocket").write_text("seed_everything: 1\n")
    assert find_config("pocket").read_text(encoding="utf-8") == "seed_everything: 1\n"


def test_a_config_that_does_not_exist_is_suggested():
    with pytest.raises(PocketError, match="Did you mean pocket"):
        find_config("pockett")


def test_a_run_is_its_arguments():
    run = Run(("a.yaml", "b"), {"trainer.max_epochs": 3, "fresh": True, "run_dir": "runs/x", "x": None, "y": [1, 2]})
    assert run.argv() == [
        "fit",
        "--config=a.yaml",
        "--config=b",
        "--trainer.max_epochs=3",
        "--fresh=true",
        "--run_dir=runs/x",
        "--x=null",
        "--y=[1, 2]",
    ]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("formulas --depths 3", "formulas: error: depths: expected a list such as [3]; found 3\n"),
        ("formulas --depths 3,4", "depths: expected a list such as [3,4]; found 3,4\n"),
        ("formulas --depths few", "depths: expected a list, in brackets and separated by commas; found few\n"),
        ("prepare x --output y --window 3", "window: expected a list such as [3]; found 3\n"),
        ("prepare x --output y --spacing 1.5", "; expected a list such as [1.5]; found 1.5\n"),
    ],
)
def test_an_option_that_takes_a_list_says_how_to_write_one(command, expected, capsys):
    with pytest.raises(SystemExit):
        main(command.split())
    said = capsys.readouterr().err
    assert expected in said
    assert "<class" not in said
