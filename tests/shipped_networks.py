"""Build the networks in configs/networks with the presets in configs/presets, as the command line does."""

import json
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import nn

from lightning_pocket.networks import Network
from lightning_pocket.storage import load_yaml

ROOT = Path(__file__).parents[1]


def network_overlay(preset: str) -> dict[str, Any]:
    """Return what a preset says of the network."""
    content = load_yaml((ROOT / "configs" / "presets" / f"{preset}.yaml").read_text(encoding="utf-8"))
    return content["model"]["init_args"]["network"]


class Holder:
    """Takes a network as a task does."""

    def __init__(self, network: Network) -> None:
        self.network = network


def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Holder, "holder", sub_configs=True)
    return parser


def arguments(name: str, *presets: str, **settings: Any) -> list[str]:
    """Return the command line of a shipped network, overlaid with presets and single settings."""
    overlays = [json.dumps(network_overlay(preset)) for preset in presets]
    init_args = {"in_channels": 1, "out_channels": 2, **settings}
    return [
        f"--holder.network={ROOT / 'configs' / 'networks' / name}.yaml",
        *(f"--holder.network={overlay}" for overlay in overlays),
        *(
            f"--holder.network.init_args.{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in init_args.items()
        ),
    ]


def build(name: str, *presets: str, device: str = "meta", **settings: Any) -> Network:
    config = parser().parse_args(arguments(name, *presets, **settings))
    with torch.device(device):
        return parser().instantiate(config).holder.network


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
