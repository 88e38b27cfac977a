"""The folder that `pocket shrink` writes: a run with the reduced network, and the files of that network."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_pocket.compact import CompactNetwork, save_compact
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.shrinking import RECORD
from lightning_pocket.run_folder import RunFolder
from lightning_pocket.storage import partial_path, read_json, sha256, write_json, write_text
from lightning_pocket.studies.crossval import RECORD as CROSSVAL
from lightning_pocket.tasks.loading import read_checkpoint


@dataclass(frozen=True)
class Source:
    """A trained network.

    Args:
        checkpoint: Its file.
        run: The run that it belongs to, None where it lies alone.
    """

    checkpoint: Path
    run: RunFolder | None

    @classmethod
    def find(cls, given: str) -> Source:
        """Return what a user names: a checkpoint, or a run, which stands for its last one.

        Raises:
            PocketError: If it is the folder of a cross-validation.
        """
        path = Path(given)
        if (path / CROSSVAL).is_file():
            raise PocketError(f"{path}: is a cross-validation, of several networks. Name the run of one fold.")
        checkpoint = RunFolder(path).last if path.is_dir() else path
        run = RunFolder(checkpoint.parent.parent)
        return cls(checkpoint, run if run.config.is_file() else None)


def check_output(output: Path, fresh: bool) -> None:
    """Refuse a folder that must not be written.

    Args:
        output: What will be written.
        fresh: Whether a folder of this kind may be replaced.

    Raises:
        PocketError: If it is a file, or holds something else, or may not be replaced.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise PocketError(f"--output {output}: is a file. Name a folder that is new.")
    ours = (output / RECORD).is_file()
    if (ours and fresh) or not any(output.iterdir()):
        return
    if ours:
        raise PocketError(f"--output {output}: holds a network that was shrunk before. Replace it with --fresh.")
    raise PocketError(f"--output {output}: is not empty, and was not written by this command. Name a new folder.")


def write_run(output: Path, source: Source, network: CompactNetwork, record: Mapping[str, Any]) -> None:
    """Write everything under another name, and rename it.

    Args:
        output: Folder that :func:`check_output` has accepted; replaced where it is there.
        source: What was reduced.
        network: The reduced network.
        record: What was done, as plain values.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(output)
    try:
        _fill(partial, output, source, network, dict(record))
        if output.exists():
            shutil.rmtree(output)
        partial.replace(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(folder: Path, output: Path, source: Source, network: CompactNetwork, record: dict[str, Any]) -> None:
    save_compact(network, folder)
    run = RunFolder(folder)
    run.last.parent.mkdir()
    torch.save(_checkpoint(read_checkpoint(source.checkpoint), network), run.last)
    origin = {"checkpoint": str(source.checkpoint.resolve()), "sha256": sha256(source.checkpoint)}
    record = {"shrunk_from": origin} | record
    write_json(folder / RECORD, record)
    if source.run is not None:
        write_text(run.config, yaml.safe_dump(_config(source.run, output, network), sort_keys=False))
        if source.run.manifest.is_file():
            parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
            changed = {"parameters": parameters, "deployed_parameters": parameters, "shrunk_from": origin}
            write_json(run.manifest, read_json(source.run.manifest) | changed)


def _checkpoint(content: dict[str, Any], network: CompactNetwork) -> dict[str, Any]:
    """Return a checkpoint of the same task with the reduced network; what trained the network before is left out."""
    others = {name: value for name, value in content["state_dict"].items() if not name.startswith("network.")}
    own = {f"network.{name}": value for name, value in network.state_dict().items()}
    settings = content["hyper_parameters"] | {"network": _entry(network)}
    empty: dict[str, Any] = {"optimizer_states": [], "lr_schedulers": [], "callbacks": {}}
    return content | empty | {"state_dict": others | own, "hyper_parameters": settings}


def _entry(network: CompactNetwork) -> dict[str, Any]:
    """Return the network as a config names it."""
    kind = type(network)
    return {
        "class_path": f"{kind.__module__.rpartition('.')[0]}.{kind.__name__}",
        "init_args": {
            "architecture": network.architecture.to_dict(),
            "in_channels": network.in_channels,
            "out_channels": network.out_channels,
        },
    }


def _config(run: RunFolder, output: Path, network: CompactNetwork) -> dict[str, Any]:
    """Return the settings of the run with the reduced network; sizes are left to the data, as always."""
    settings: dict[str, Any] = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    entry = _entry(network)
    entry["init_args"] = {"architecture": entry["init_args"]["architecture"]}
    settings["model"]["init_args"]["network"] = entry
    return settings | {"run_dir": str(output)}
