"""Cross-validation without a finished one: locks, and the help."""

import subprocess
import sys

from lightning_pocket.cli import main
from lightning_pocket.run_folder import RunFolder


def test_the_other_processes_of_a_training_need_no_lock(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    with run.locked():
        lock = run.path / ".lock"
        held = lock.read_bytes()
        monkeypatch.setenv("NODE_RANK", "1")
        with run.locked():
            assert lock.read_bytes() == held  # the first process's, not taken over
        assert lock.is_file()  # nor released


def test_a_lock_is_not_foreign_and_survives_nothing(options, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("left by a killed process")
    main(["fit", *options, "--trainer.max_epochs=1"])
    main(["fit", *options, "--trainer.max_epochs=1", "--fresh"])
    assert not (tmp_path / "run" / ".lock").exists()


def test_help_is_light():
    code = (
        "import sys; from lightning_pocket.cli import main\n"
        "for command in ('crossval', 'postprocess'):\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit as stop: print('status', stop.code)\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.count("status 0") == 2
    assert result.stdout.endswith("False\n")
    assert "--jobs" in result.stdout
