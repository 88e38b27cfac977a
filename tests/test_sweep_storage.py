"""Where studies are kept: passwords that stay hidden, and studies that are not taken for others."""

import html
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from sweep_stand_in import GRID
from sweep_studies import trained, write

from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.sweeps.study_storage import open_storage, redact, storage_url

pytestmark = pytest.mark.usefixtures("stand_in")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql+psycopg://me:se@c/ret@host/db", "postgresql+psycopg://me:***@host/db"),
        ("mysql://host/db?user=me&password=secret&x=1", "mysql://host/db?user=me&password=***&x=1"),
        ("postgresql://host/db", "postgresql://host/db"),
    ],
)
def test_passwords_are_never_shown(url, shown):
    assert redact(url) == shown


def test_a_storage_that_cannot_be_used_is_one_line_without_the_password(fails, monkeypatch):
    assert "SQLite may give one trial to several workers" in fails(["sweep", write(GRID), "--storage=sqlite:///a.db"])
    assert "expected a URL" in fails(["sweep", write(GRID), "--storage=nonsense"])
    said = fails(["sweep", write(GRID), "--storage=me:secret@host/db"])
    assert "--storage ***@host/db: expected a URL" in said

    def refuse(url, *_, **__):
        raise RuntimeError(f"connection to {url} failed: the password 'secret' is wrong\nmore")

    monkeypatch.setattr(optuna.storages, "RDBStorage", refuse)
    monkeypatch.setenv("POCKET_SWEEP_STORAGE", "postgresql://me:secret@nowhere/db")
    line = fails(["sweep", write(GRID)])
    assert "--storage postgresql://me:***@nowhere/db: cannot be reached" in line
    assert "secret" not in line
    Path("url").write_text("postgresql://me:hidden@nowhere/db\n", encoding="utf-8")
    assert storage_url("@url") == "postgresql://me:hidden@nowhere/db"
    with pytest.raises(PocketError, match="the file cannot be read"):
        storage_url("@nothing")


def test_the_password_reaches_no_file_of_the_study(stand_in, monkeypatch):
    """A database that works: the journal file stands for it."""

    def open_elsewhere(url, _, grace_s):
        assert url == "postgresql://me:secret@nowhere/db"
        return open_storage(None, stand_in / "elsewhere", grace_s)

    monkeypatch.setattr("lightning_pocket.sweeps.start.open_storage", open_elsewhere)
    monkeypatch.setenv("POCKET_SWEEP_STORAGE", "postgresql://me:secret@nowhere/db")
    main(["sweep", write(GRID), "--trials=1"])
    assert len(trained()) == 1, "the training did not see it either"
    held = [path for root in ("runs", "elsewhere") for path in Path(root).rglob("*") if path.is_file()]
    assert len(held) > 5
    assert not [path for path in held if b"secret" in path.read_bytes()]
    assert "postgresql://me:***@nowhere/db" in Path("runs/study/study.json").read_text(encoding="utf-8")


@pytest.fixture
def databases(stand_in, monkeypatch):
    """Databases that work: a journal file, named by the host, stands for each."""

    def open_elsewhere(url, folder, grace_s):
        place = folder if url is None else stand_in / "databases" / url.rpartition("@")[2].partition("/")[0]
        return open_storage(None, place, grace_s)

    monkeypatch.setattr("lightning_pocket.sweeps.start.open_storage", open_elsewhere)


FIRST, SECOND = "--storage=postgresql://me:secret@first/db", "--storage=postgresql://me:secret@second/db"


@pytest.mark.usefixtures("databases")
def test_a_study_of_the_journal_is_never_hidden_by_one_in_a_database(fails, monkeypatch):
    main(["sweep", write(GRID), "--trials=1"])
    said = "--storage postgresql://me:***@first/db: the study of runs/study is in its file study.journal"
    for command in (["sweep", write(GRID)], ["sweep", "status", "runs/study"], ["sweep", "plot", "runs/study"]):
        assert said in fails([*command, FIRST])
    monkeypatch.setenv("POCKET_SWEEP_STORAGE", FIRST.partition("=")[2])
    assert said in fails(["sweep", write(GRID)])
    Path("runs/other").mkdir()
    shutil.copy("runs/study/study.journal", "runs/other")
    assert "runs/other is in its file study.journal" in fails(["sweep", write(GRID), "--output=runs/other"])
    assert not Path("databases").exists()


@pytest.mark.usefixtures("databases")
def test_a_study_of_a_database_is_never_hidden_by_another_one(fails, capsys):
    main(["sweep", write(GRID), "--trials=1", FIRST])
    for command in (["sweep", write(GRID)], ["sweep", "status", "runs/study"]):
        assert "runs/study: the study is in postgresql://me:***@first/db. Give --storage" in fails(command)
        assert "holds no study 'study'; that of runs/study is in postgresql://me:***@first/db" in fails(
            [*command, SECOND]
        )
    assert not Path("runs/study/study.journal").exists()
    main(["sweep", write(GRID), "--trials=1", FIRST.replace("me:secret", "you:secret")])
    assert len(trained()) == 1, "the same database by another user's name"
    main(["sweep", "status", "runs/study", FIRST])
    assert "1 of 1 trials have ended" in capsys.readouterr().out


@pytest.mark.usefixtures("databases")
def test_a_folder_of_the_same_name_does_not_take_a_study_over(fails, stand_in):
    main(["sweep", write(GRID), "--trials=1", FIRST])
    line = fails(["sweep", write(GRID), "--trials=1", "--output=elsewhere/study", FIRST])
    assert "--storage postgresql://me:***@first/db: its study 'study' is of another folder" in line
    assert str(stand_in / "runs" / "study") in line
    assert "optuna delete-study --study-name study" in line
    assert not Path("elsewhere/study/study.json").exists()
    main(["sweep", write(GRID), "--trials=1", "--output=elsewhere/study", SECOND])
    line = fails(["sweep", "status", "elsewhere/study", FIRST])
    assert "is of another folder" in line, "both are called study"
    assert len(trained()) == 2


@pytest.mark.parametrize("given", ["@url", ""])
def test_an_empty_storage_is_not_the_journal(fails, given):
    Path("url").write_text(" \n", encoding="utf-8")
    assert f"--storage {given}: is empty, expected a URL" in fails(["sweep", write(GRID), f"--storage={given}"])
    assert not Path("runs").exists()


def test_a_folder_that_holds_something_else_is_refused(fails):
    Path("full").mkdir()
    Path("full/letter.txt").write_text("dear", encoding="utf-8")
    assert "does not look like a study, it holds letter.txt" in fails(["sweep", write(GRID), "--output=full"])
    assert "no study here" in fails(["sweep", "best", "full"])


def test_help_and_status_import_no_torch():
    main(["sweep", write(GRID), "--trials=1"])
    code = (
        "import sys; from lightning_pocket.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'scipy'} & set(sys.modules) or 'nothing heavy')"
    )
    for arguments in (["sweep", "--help"], ["sweep", "status", "runs/study"]):
        command = [sys.executable, "-c", code, *arguments]
        result = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
        assert result.stdout.endswith("nothing heavy\n"), result.stdout


@pytest.mark.usefixtures("databases")
def test_the_page_names_the_database_without_its_password():
    main(["sweep", write(GRID | {"trials": 1}), FIRST])
    written = Path("runs/study/index.html").read_text(encoding="utf-8")
    assert "--output=runs/study '--storage=postgresql://me:***@first/db'" in html.unescape(written)
