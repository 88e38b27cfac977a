"""Make the dashboard of a project on Weights & Biases: a workspace and a report."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_pocket.dashboard.panels import Device, Metrics, Score, chapters
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import check_writable, write_text

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace


def dashboard(
    project: str = "lightning-pocket",
    score: Score = "dice",
    device: Device = "gpu",
    view: str | None = None,
    report: bool = True,
    dry_run: bool = False,
    output: str | None = None,
    timeout_s: int = 20,
) -> None:
    """Make the dashboard of a project on W&B from the runs that are there, and those to come.

    Args:
        project: Project, as ENTITY/NAME or as NAME, which is then that of WANDB_ENTITY or of your account.
        score: What networks are judged by: dice of segmentations, accuracy or auc of classifications.
        device: Where the runs train, which decides what their peak memory is called.
        view: Address of a saved workspace of the project that is to be replaced; by default a new one is added.
        report: Whether to save a report with the same panels too.
        dry_run: Write the workspace as JSON and save nothing; needs neither login nor network.
        output: File for the JSON of the workspace; a dry run prints it by default.
        timeout_s: Longest wait for an answer of the service, in seconds.

    Raises:
        PocketError: If wandb-workspaces is not installed, the file cannot be written, or the service cannot be reached
            or refuses something.
    """
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise PocketError(
            'wandb-workspaces is not installed. Install it with `pip install "lightning-pocket[dashboard]"`.'
        )
    if output is not None:
        check_writable("--output", Path(output), "workspace.json")
    entity, name = _parse(project)
    from lightning_pocket.dashboard.workspace import default_entity, make_workspace

    metrics = Metrics(score, device)
    if not dry_run and not entity:
        entity = default_entity(timeout_s)
    workspace = make_workspace(entity, name, chapters(metrics))
    _write(workspace, output, dry_run)
    if not dry_run:
        _save(workspace, metrics, view, report, timeout_s)


def _write(workspace: Workspace, output: str | None, dry_run: bool) -> None:
    from lightning_pocket.dashboard.workspace import to_json

    if output is not None:
        write_text(Path(output), to_json(workspace))
        print(f"written: {output}")
    elif dry_run:
        print(to_json(workspace), end="")


def _save(workspace: Workspace, metrics: Metrics, view: str | None, report: bool, timeout_s: int) -> None:
    from lightning_pocket.dashboard.workspace import make_report, save_report, save_workspace

    url = save_workspace(workspace, view, timeout_s)
    print(f"workspace: {url}\n`pocket dashboard --view '{url}'` replaces it.")
    if report:
        made = make_report(workspace.entity, workspace.project, chapters(metrics))
        print(f"report: {save_report(made, timeout_s)}")


def _parse(project: str) -> tuple[str, str]:
    """Return entity, empty where none is named, and name."""
    entity, _, name = project.rpartition("/")
    if not name or "/" in entity or set(project) & set("\\#?%: "):
        raise PocketError(
            f"--project {project}: expected ENTITY/NAME or NAME, as in the address of the project on W&B."
        )
    return entity, name
