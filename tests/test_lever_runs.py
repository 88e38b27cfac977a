"""Runs with each lever: trained, interrupted, continued, tested."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import quick_options
from interruption import kill_after

from lightning_pocket.cli import main
from lightning_pocket.tasks import load_task

#: Some batches an epoch, the last of them smaller.
SHORT = ["--data.init_args.patches_per_epoch=5", "--data.init_args.batch_size=2", "--config=no_augmentation"]
LEVERS = {
    "channels_last": [],
    "keep_memory": [],
    "fused": [],
    "checkpoint_activations": [],
    "compile": [],
}


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand in for torch.compile, which takes half a minute; tell what it was called with."""
    asked: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: (asked.append(function), function)[1])
    return asked


def content(run: Path) -> dict[str, Any]:
    return dict(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True))


def tensors(run: Path) -> list[torch.Tensor]:
    checkpoint = content(run)
    moments = [value for entry in checkpoint["optimizer_states"][0]["state"].values() for value in entry.values()]
    return [*checkpoint["state_dict"].values(), *moments]


@pytest.fixture(scope="module")
def plain(blobs_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("plain") / "run"
    main(["fit", *quick_options(blobs_cache, run), *SHORT])
    return run


@pytest.mark.e2e
@pytest.mark.parametrize("preset", LEVERS)
def test_a_killed_run_ends_bit_equal_and_learns_what_a_plain_one_does(
    plain: Path, options: list[str], tmp_path: Path, preset: str, compiler: list[Any]
) -> None:
    arguments = ["fit", *options, *SHORT, f"--config={preset}"]
    killed, whole = tmp_path / "killed", plain
    kill_after([*arguments, f"--run_dir={killed}"])
    main([*arguments, f"--run_dir={killed}"])
    if preset in ("channels_last", "fused"):  # the others compute what a plain run does to the last bit
        whole = tmp_path / "whole"
        main([*arguments, f"--run_dir={whole}"])
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole), tensors(killed), strict=True))
    assert bool(compiler) == (preset == "compile")
    keys = content(killed)["state_dict"].keys()
    assert list(keys) == list(content(plain)["state_dict"])  # no _orig_mod
    task = load_task(killed / "checkpoints" / "last.ckpt")
    x = torch.randn(1, 1, 8, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(task.runner(x), task.network(x), rtol=1e-3, atol=1e-4)
        expected = load_task(plain / "checkpoints" / "last.ckpt").runner(x)
    torch.testing.assert_close(task.runner(x).detach(), expected, rtol=0.05, atol=0.05)
    main(["test", f"--run_dir={killed}"])


@pytest.mark.e2e
def test_what_does_not_change_the_result_may_change(options: list[str], tmp_path: Path) -> None:
    kill_after(["fit", *options, *SHORT])
    main(["fit", *options, *SHORT, "--config=checkpoint_activations"])
    assert content(tmp_path / "run")["epoch"] == 2


@pytest.mark.e2e
def test_a_compiler_that_fails_in_the_first_backward_does_not_stop_a_run(
    options: list[str], tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(_context: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(_context: Any, *_gradients: torch.Tensor) -> Any:
            raise RuntimeError("the compiler found no compiler")

    def compile_(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        return lambda x: [Broken.apply(output) for output in function(x)]

    monkeypatch.setattr(torch, "compile", compile_)
    main(["fit", *options, *SHORT, "--config=compile"])
    assert "torch.compile failed, going on without it: RuntimeError: the compiler found no compiler" in caplog.messages
    assert all(torch.equal(a, b) for a, b in zip(tensors(tmp_path / "run"), tensors(plain), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.init_args.optimizer.class_path=torch.optim.RMSprop", "--config=fused"], "fused"),
        (["--config=fused", "--model.init_args.optimizer.init_args.foreach=true"], "cannot be `True` together"),
        (["--config=bfloat16", "--data.init_args.patch_size=[8,16,16]"], "wrong gradients on this CPU"),
    ],
)
def test_what_cannot_work_is_one_line(
    options: list[str],
    fails: Callable[[list[str]], str],
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    found = fails(["fit", *options, *SHORT, *arguments])
    assert message in found
    assert len(found.splitlines()) <= 2
