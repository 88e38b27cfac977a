"""The dashboard of a project on W&B: what its panels name is what runs log, and what is saved is what was meant."""

import json
import subprocess
import sys

import pytest
from wandb_reader import OfflineRun
from wandb_stub import KEY

from lightning_pocket.cli import main

pytest.importorskip("wandb_workspaces")
wandb = pytest.importorskip("wandb")

pytestmark = pytest.mark.usefixtures("wandb_machine")

SECTIONS = [
    *["Accuracy against size", "Full and pocket", "Folds and seeds", "Sweeps", "Learning curves", "Memory and time"],
    "Cases",
]
#: Where panels name what runs log.
FIELDS = {"metrics", "xAxis", "yAxis", "accessor", "targetKey", "mediaKeys", "tableName", "groupBy"}


def written(tmp_path, *options):
    main(["dashboard", "--project=team/pocket", "--dry_run", f"--output={tmp_path / 'workspace.json'}", *options])
    return json.loads((tmp_path / "workspace.json").read_text(encoding="utf-8"))


def sections(view):
    return view["spec"]["section"]["panelBankConfig"]["sections"]


def named(node):
    """Yield everything that panels name."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in FIELDS:
                yield from value if isinstance(value, list) else [value]
            else:
                yield from named(value)
    elif isinstance(node, list):
        for entry in node:
            yield from named(entry)


def lookup(tree, path):
    """Return whether a dotted path, whose keys may have dots and slashes, leads to something."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        key = ".".join(parts[:count])
        if isinstance(tree, dict) and key in tree:
            return count == len(parts) or lookup(tree[key], ".".join(parts[count:]))
    return False


@pytest.mark.e2e
def test_every_panel_shows_what_a_run_logs(options, tmp_path):
    main(["fit", *options, "--config=wandb"])
    main(["test", f"--run_dir={tmp_path / 'run'}"])
    run = OfflineRun(tmp_path / "run")
    history = {key for row in run.history for key in row}
    names = {name for section in sections(written(tmp_path, "--device=cpu")) for name in named(section) if name}
    assert {"test/dice", "val/dice.max", "pictures/test", "profile/parameters"} <= {n.split(":")[-1] for n in names}
    unknown = []
    for name in sorted(names):
        kind, _, key = name.replace("config.", "config:", 1).replace("summary_metrics.", "summary:", 1).rpartition(":")
        if kind == "config" or ".value" in key:
            first, _, rest = key.partition(".value")
            found = lookup(run.config, first + rest)
        elif kind == "run":
            found = key in {"createdAt", "group"}
        else:
            found = lookup(run.summary, key) or key in history or name == "group"
        unknown += [] if found else [name]
    assert unknown == []
    tables = [panel for panel in sections(written(tmp_path))[-1]["panels"] if panel["viewType"] == "Weave"]
    assert '"val": "test/cases"' in json.dumps(tables)
    assert run.table("test/cases")["data"]


def test_a_file_that_cannot_be_written_is_told_in_a_line(tmp_path, fails):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for output, said in (("file/w.json", "cannot be written"), ("", "is a folder")):
        assert said in fails(["dashboard", "--dry_run", f"--output={tmp_path / output}"])


def test_a_dry_run_needs_neither_login_nor_network(tmp_path, capsys):
    view = written(tmp_path)
    assert (view["entity"], view["project"]) == ("team", "pocket")
    assert [section["name"] for section in sections(view)] == SECTIONS
    kinds = {panel["viewType"] for section in sections(view) for panel in section["panels"]}
    wanted = {"Scatter Plot", "Bar Chart", "Run History Line Plot", "Parallel Coordinates Plot", "Media Browser"}
    assert wanted | {"Parameter Importance", "Run Comparer"} <= kinds
    assert "workspace.json" in capsys.readouterr().out
    main(["dashboard", "--dry_run"])
    assert json.loads(capsys.readouterr().out)["project"] == "lightning-pocket"


def test_what_is_shown_follows_score_and_device(tmp_path):
    text = json.dumps(written(tmp_path, "--score=auc", "--device=cpu"))
    assert "test/auc" in text
    assert "profile/peak_rss_mib" in text
    assert "dice" not in text
    assert "pictures/" not in text
    text = json.dumps(written(tmp_path))
    assert "profile/peak_cuda_mib" in text
    assert "rss" not in text


def test_a_workspace_and_a_report_are_saved(wandb_service, capsys):
    main(["dashboard", "--project=team/pocket"])
    printed = capsys.readouterr()
    (made,) = wandb_service.asked("UpsertView2")
    assert (made["entityName"], made["projectName"], made["type"]) == ("team", "pocket", "project-view")
    spec = json.loads(made["spec"])
    assert [s["name"] for s in spec["section"]["panelBankConfig"]["sections"]] == SECTIONS
    (report,) = wandb_service.asked("upsertView")
    content = json.loads(report["spec"])
    heads = [block["children"][0]["text"] for block in content["blocks"] if block["type"] == "heading"]
    assert heads == SECTIONS
    grids = [block for block in content["blocks"] if block["type"] == "panel-grid"]
    assert [len(grid["metadata"]["panelBankSectionConfig"]["panels"]) for grid in grids] == [3, 5, 3, 3, 3, 3, 3]
    for grid in grids:  # no panel covers another
        places = [panel["layout"] for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]]
        cells = [(p["x"] + i, p["y"] + j) for p in places for i in range(p["w"]) for j in range(p["h"])]
        assert len(cells) == len(set(cells))
    workspace, hint, link = printed.out.splitlines()
    assert workspace.startswith(f"workspace: {wandb_service.url}/team/pocket?nw=")
    assert link.startswith(f"report: {wandb_service.url}/team/pocket/reports/")
    assert printed.err == ""
    assert not any(KEY in text for text in wandb_service.sent)

    wandb_service.queries.clear()
    view = workspace.partition(": ")[2]
    main(["dashboard", "--project=team/pocket", f"--view={view}", "--score=accuracy", "--report=false"])
    assert view in hint
    (changed,) = wandb_service.asked("UpsertView2")
    assert changed["id"] == "Vmlldzox"
    assert changed["name"] == made["name"]
    assert "test/accuracy" in changed["spec"]
    assert "test/dice" not in changed["spec"]
    assert wandb_service.asked("upsertView") == []


def test_the_entity_is_that_of_the_account_where_none_is_named(wandb_service, capsys, monkeypatch):
    main(["dashboard", "--report=false"])
    assert f"{wandb_service.url}/team/lightning-pocket?nw=" in capsys.readouterr().out
    monkeypatch.setenv("WANDB_ENTITY", "others")
    main(["dashboard", "--report=false"])
    assert f"{wandb_service.url}/others/lightning-pocket?nw=" in capsys.readouterr().out


def test_what_cannot_be_saved_is_one_clear_error(wandb_service, fails, monkeypatch):
    wandb_service.refuse = "permission denied"
    assert "permission denied. Check --project" in fails(["dashboard", "--project=team/pocket"])
    assert "expected ENTITY/NAME or NAME" in fails(["dashboard", "--project=a/b/c"])
    wandb_service.stop()
    wandb.teardown()
    assert "take --dry_run" in fails(["dashboard", "--project=team/pocket", "--timeout_s=1"])
    monkeypatch.delenv("WANDB_API_KEY")
    wandb.teardown()
    assert "nobody is logged in. Log in with `wandb login`" in fails(["dashboard", "--project=team/pocket"])
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert 'pip install "lightning-pocket[dashboard]"' in fails(["dashboard"])


def test_the_command_waits_for_no_torch():
    code = "import sys; from lightning_pocket.cli import main; main(['dashboard', '--dry_run', '--output=w.json'])"
    code += "; print({'torch', 'pytorch_lightning'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout.splitlines()[-1] == "set()"
