"""The process that resolves options of `pocket fit`: reads lists of them from standard input, writes JSON."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import nn

from lightning_pocket.commands.settings_process import print_settings
from lightning_pocket.costs.recipe import Recipe
from lightning_pocket.errors import PocketError
from lightning_pocket.networks.base import Network
from lightning_pocket.storage import read_json, to_json
from lightning_pocket.tasks import BaseTask

from .resolve import Resolved

_PLAIN = (bool, int, float, str, type(None))
_CLASSIFICATION = "val/accuracy"
_NETWORK = "model.init_args.network.init_args"
#: Settings that can differ where networks are the same, such as five doublings where there are four downsamplings. They
#: do nothing but size layers, and so the layers tell; every other setting of a network counts by itself, because some,
#: such as the initializer, leave no trace in the layers.
_JUDGED_BY_LAYERS = (f"{_NETWORK}.widths.doublings", f"{_NETWORK}.widths.ceiling")
#: What changes no number of a trial. These are fewer than a run may continue with: workers of the loader change the
#: time of a step, recomputed levels the memory, and the largest component the tested masks.
_IRRELEVANT = ("run_dir", "trainer.default_root_dir", "trainer.enable_progress_bar", "trainer.logger")


def main() -> None:
    """Answer on standard output, with one line of JSON."""
    answers = [asdict(resolve_one(options)) for options in json.loads(sys.stdin.read())]
    sys.stdout.write(f"\n{json.dumps(answers)}\n")


def resolve_one(options: Sequence[str]) -> Resolved:
    """Resolve one list of options of ``pocket fit``."""
    try:
        settings = print_settings(options)
        recipe = Recipe.from_settings(settings)
        with torch.device("meta"):
            task = _task(recipe)
    except PocketError as error:
        return Resolved(problem=str(error))
    except Exception as error:  # whatever a class of the settings raises is a problem of the settings
        return Resolved(problem=_reason(error))
    return Resolved(
        settings,
        _identity(settings, task.network),
        sum(parameter.numel() for parameter in task.network.parameters() if parameter.requires_grad),
        task.metric_names,
        _CLASSIFICATION in task.metric_names,
    )


def _task(recipe: Recipe) -> BaseTask:
    """Return the task as a training makes it, sized after the data; its weights are not allocated."""
    divisor = recipe.make_network().divisor
    given = recipe.settings["model"]
    network = given["init_args"]["network"]
    sized = {"in_channels": recipe.in_channels, "out_channels": recipe.num_classes}
    cache = (recipe.settings.get("data") or {}).get("init_args", {}).get("cache")
    known = read_json(Path(cache) / "dataset.json") if cache else {}
    described = {
        "channels": known.get("channels") or [f"channel_{index}" for index in range(recipe.in_channels)],
        "classes": known.get("classes") or [f"class_{index}" for index in range(recipe.num_classes)],
        "patch_size": list(recipe.patch_size or divisor),
    }
    init_args = given["init_args"] | {
        "network": network | {"init_args": (network.get("init_args") or {}) | sized},
        "dataset": described,
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(BaseTask, "model")
    parsed = parser.parse_object({"model": given | {"init_args": init_args}})
    task: BaseTask = parser.instantiate(parsed)["model"]
    return task


def _identity(settings: Mapping[str, Any], network: Network) -> str:
    """Return a hash of what the numbers of a trial depend on: its settings, and the layers of its network."""
    kept = {key: value for key, value in _flat(settings) if not _is_below(key, (*_IRRELEVANT, *_JUDGED_BY_LAYERS))}
    text = to_json({"settings": kept, "network": _layers(network)})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; those of lists stay in one piece."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _is_below(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _layers(network: nn.Module) -> list[list[Any]]:
    """Return every module with its class, what it says of itself, and its plain attributes."""
    return [
        [name, f"{type(module).__module__}.{type(module).__qualname__}", module.extra_repr(), _attributes(module)]
        for name, module in network.named_modules()
    ]


def _attributes(module: nn.Module) -> dict[str, str]:
    kept = {key: value for key, value in vars(module).items() if not key.startswith("_") and _is_plain(value)}
    shapes = {f"parameter {key}": tuple(p.shape) for key, p in module.named_parameters(recurse=False)}
    return {key: repr(value) for key, value in (kept | shapes).items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _reason(error: Exception) -> str:
    """Return why a class refused its settings: our own error where one is among the causes."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, PocketError):
        cause = cause.__cause__ or cause.__context__
    return str(cause or next(iter(str(error).strip().splitlines()), type(error).__name__))


if __name__ == "__main__":
    main()
