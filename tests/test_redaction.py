"""What leaves the machine: no secret, and no name of a home folder."""

import pytest

from lightning_pocket.reports.redaction import redact


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setenv("HOME", "/srv/people/ann")
    monkeypatch.setenv("PGPASSWORD", "correct-horse")
    monkeypatch.setenv("HUB_TOKEN", "t0k3n-of-ann")
    monkeypatch.setenv("SHORT_TOKEN", "seg")
    monkeypatch.setenv("OLDPWD", "/data/here")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/srv/people/ann/runs/a", "~/runs/a"),
        ("/srv/people/ann", "~"),
        ("/srv/people/anna/runs", "/srv/people/anna/runs"),
        ("--run_dir=/home/bob/runs --x=/Users/eve", "--run_dir=~/runs --x=~"),
        ("/data/home/bob", "/data/home/bob"),
        ("postgresql://ann:pw@db/sweeps?password=x&ssl=1", "postgresql://***@db/sweeps?password=***&ssl=1"),
        ("https://github.com/a/b.git", "https://github.com/a/b.git"),
        ("pocket fit --db_password hunter2 --lr 1", "pocket fit --db_password *** --lr 1"),
        ("pocket fit --hub.token=abc --num_tokens=3", "pocket fit --hub.token=*** --num_tokens=3"),
        ("the token was lost", "the token was lost"),
        ("-t0k3n-of-ann- correct-horse", "-***- ***"),
        ("segmentation in /data/here", "segmentation in /data/here"),
    ],
)
def test_text(given, shown):
    assert redact(given) == shown


def test_settings_keep_their_shape_and_types():
    settings = {
        "model": {"num_tokens": 3, "lr": 1e-3, "on": True, "author": "ann", "bypass": 1},
        "hub": {"api_key": "abc", "PASSWORD": "x", "hub_token": 5, "token": None, "auth": ["/home/bob", "b"]},
        "list": ("/srv/people/ann/a", 1),
    }
    assert redact(settings) == {
        "model": settings["model"],
        "hub": {"api_key": "***", "PASSWORD": "***", "hub_token": "***", "token": None, "auth": ["~", "b"]},
        "list": ["~/a", 1],
    }


def test_the_root_is_no_home(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert redact("/data/cache") == "/data/cache"
