"""A workspace and a report on W&B, made of the same panels."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lightning_pocket.errors import PocketError

from .panels import Chapter

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

NAME = "lightning_pocket"
_COLUMNS = 24  # of the grid of a report


def make_workspace(entity: str, project: str, parts: Sequence[Chapter]) -> Workspace:
    """Return a workspace: a section for each chapter, the first ones open.

    Args:
        entity: Team or user.
        project: Its project.
        parts: The panels.
    """
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(name=part.title, panels=list(part.panels), is_open=index < 3) for index, part in enumerate(parts)
    ]
    return ws.Workspace(entity=entity, project=project, name=NAME, sections=sections)


def make_report(entity: str, project: str, parts: Sequence[Chapter]) -> Report:
    """Return a report: a heading, how to read it and a grid of panels for each chapter.

    Args:
        entity: Team or user.
        project: Its project.
        parts: The panels.
    """
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents()]
    for part in parts:
        width = _COLUMNS // min(3, len(part.panels))
        for index, panel in enumerate(part.panels):
            place = divmod(index, _COLUMNS // width)
            panel.layout = wr.Layout(x=place[1] * width, y=8 * place[0], w=width, h=8)
        runs = wr.Runset(entity=entity, project=project)
        blocks += [wr.H2(part.title), wr.P(part.text), wr.PanelGrid(runsets=[runs], panels=list(part.panels))]
    return wr.Report(entity=entity, project=project, title=f"{project}: full and pocket networks", blocks=blocks)


def to_json(workspace: Workspace) -> str:
    """Return a workspace as JSON, as W&B stores it; needs neither login nor network."""
    content = json.loads(workspace._to_model().model_dump_json(by_alias=True, exclude_none=True))
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def default_entity(timeout_s: int) -> str:
    """Return the team or user whose projects are meant where none is named.

    Args:
        timeout_s: Longest wait for the service, in seconds.

    Raises:
        PocketError: If nobody is logged in, or the service cannot be reached.
    """
    import wandb

    with clear_errors(timeout_s):
        entity = os.environ.get("WANDB_ENTITY") or wandb.Api(timeout=timeout_s).default_entity
    return str(entity or "")


def save_workspace(workspace: Workspace, view: str | None, timeout_s: int) -> str:
    """Save a workspace.

    Args:
        workspace: What to save.
        view: Address of a workspace of this project that it replaces; None adds a new one.
        timeout_s: Longest wait for the service, in seconds.

    Returns:
        Its address.

    Raises:
        PocketError: If nobody is logged in, the service cannot be reached or refuses it, or there is no such view.
    """
    import wandb_workspaces.workspaces as ws

    with clear_errors(timeout_s):
        if view is not None:
            saved = ws.Workspace.from_url(view)
            saved.sections = workspace.sections
            workspace = saved
        workspace.save()
        return str(workspace.url)


def save_report(report: Report, timeout_s: int) -> str:
    """Save a report and return its address.

    Args:
        report: What to save.
        timeout_s: Longest wait for the service, in seconds.

    Raises:
        PocketError: If nobody is logged in, or the service cannot be reached or refuses it.
    """
    with clear_errors(timeout_s):
        report.save()
        return str(report.url)


@contextlib.contextmanager
def clear_errors(timeout_s: int) -> Iterator[None]:
    """Turn what W&B raises into one line, and keep it from printing.

    Args:
        timeout_s: Longest wait for an answer, in seconds.

    Raises:
        PocketError: If nobody is logged in, or the service cannot be reached or refuses something.
    """
    import wandb

    wandb.setup(wandb.Settings(silent=True, x_disable_viewer=True))
    if not wandb.login(prompt=False, verify=False):
        raise PocketError("W&B: nobody is logged in. Log in with `wandb login`, or take --dry_run.")
    try:
        wandb.Api(timeout=timeout_s)  # asks who we are; what follows has longer limits of its own
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except Exception as error:  # its clients raise errors of several packages
        said = " ".join(str(error).split())[:300].rstrip(".")
        raise PocketError(f"W&B: {said}. Check --project, the login and the network, or take --dry_run.") from error
