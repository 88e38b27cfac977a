"""Propose patch size, batch size and network depth for a prepared data set."""

from __future__ import annotations

from pathlib import Path

from lightning_pocket.data.cache import Cache
from lightning_pocket.data.plan import make_plan, to_yaml
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.tables import print_table
from lightning_pocket.storage import write_text


def plan(
    cache: str,
    output: str = "plan.yaml",
    max_depth: int = 5,
    max_patch: int = 128,
    batch_voxels: int = 4194304,
    fresh: bool = False,
) -> None:
    """Propose patch size, batch size and network depth for a prepared data set.

    The result is an overlay for training: `pocket fit --config EXPERIMENT --config plan.yaml`.

    Args:
        cache: Folder that `pocket prepare` wrote.
        output: YAML file to write.
        max_depth: Most times that the network lowers the resolution.
        max_patch: Longest side of a patch in voxels.
        batch_voxels: Voxels of all patches in a batch; the default is two patches of 128 x 128 x 128.
        fresh: Overwrite a file that differs.

    Raises:
        PocketError: If the cache cannot be used, or the file exists with another content.
    """
    opened = Cache.open(cache)
    proposed = make_plan(opened, max_depth, max_patch, batch_voxels)
    text = to_yaml(proposed, opened, max_patch, batch_voxels)
    path = Path(output)
    if path.is_dir():
        raise PocketError(f"output: {path} is a folder; name the file to write, such as {path / 'plan.yaml'}.")
    if path.exists() and not fresh and path.read_text(encoding="utf-8") != text:
        raise PocketError(f"{path}: exists with another content; use --fresh to overwrite it or another --output.")
    write_text(path, text)
    rows = [
        ("patch D x H x W (voxels)", " x ".join(map(str, proposed.patch_size))),
        ("batch (patches)", proposed.batch_size),
        ("depth", proposed.depth),
        ("strides", proposed.strides or "2 everywhere"),
        ("kernels", proposed.kernel_sizes or "3 everywhere"),
    ]
    print_table(("plan", "value"), rows, title=f"{path}")
