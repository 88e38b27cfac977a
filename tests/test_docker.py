"""The images and the compose file without Docker: everything that they name exists and fits together."""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from importlib import metadata, util
from itertools import pairwise
from pathlib import Path

import pytest
from docker_files import DOCKER, ROOT, ancestry, compose, in_context, pins, read, read_stages, replay

from lightning_pocket.cli import main

PAGE = ROOT / "docs" / "docker.md"
PINNED = re.compile(r"[\w./-]+:\d+(\.\d+)+[\w.-]*@sha256:[0-9a-f]{64}")
TARGETS = {"cpu", "cuda", "dashboard"}
#: Written by make-secrets.sh, into no image and no repository.
SECRETS = ("secrets/database_password", "secrets/pg_service.conf")


def programs() -> set[str]:
    """Return the commands that the images have: ours, Optuna's, and those of what the images add."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optuna = {entry.name for entry in metadata.distribution("optuna").entry_points}
    assert "optuna-dashboard" in pins(ROOT / "constraints.txt")
    return {*project["scripts"], *optuna, "optuna-dashboard", "python"}


def test_every_stage_and_path_of_the_dockerfile_exists():
    stages = read_stages()
    assert list(stages)[-1] == "cpu"  # what a build without --target gives
    assert set(stages) >= TARGETS
    seen: set[str] = set()
    for name, stage in stages.items():
        assert stage.base in seen or PINNED.fullmatch(stage.base), stage.base
        for text in stage.all("COPY"):
            *sources, target = text.split()
            if sources[0].startswith("--from="):
                assert sources.pop(0).removeprefix("--from=") in seen
            else:
                assert all((ROOT / source).exists() for source in sources), text
                assert all(source == "." or in_context(source) for source in sources), text
            assert len(sources) == 1 or target.endswith("/")
        seen.add(name)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_an_image_runs_a_known_command_as_an_ordinary_user_with_a_health_check(target):
    stages = ancestry(read_stages(), target)
    user = next(text for stage in stages for text in reversed(stage.all("USER")))
    assert user == "${UID}:${GID}"
    assert "UID=1000" in stages[1].all("ARG")
    assert stages[0].all("RUN") == []  # all that root does is done before
    for name in ("CMD", "HEALTHCHECK"):
        command = json.loads(re.search(r"\[.*\]", stages[0].all(name)[-1])[0])
        assert command[0] in programs()
    copied = [text.split() for text in stages[0].all("COPY")]
    assert copied[0][0] == f"--from=packages-{target}"
    assert all(words[1:] in (["/opt/pocket"] * 2, ["/install", "/opt/pocket"]) for words in copied)
    assert [text for stage in stages for text in stage.all("WORKDIR")] == ["/workspace"]


def test_all_that_is_installed_is_pinned_and_what_pyproject_asks_for():
    ours, theirs = pins(DOCKER / "constraints.txt"), pins(ROOT / "constraints.txt")
    assert all(ours[name] == theirs[name] for name in set(ours) & set(theirs))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, stage in read_stages().items():
        for command in (text for text in stage.all("RUN") if "--constraint" in text):
            words = shlex.split(command)
            given = {
                words.index(word) + 1 for word in words if word in {"--constraint", "--requirement", "--index-url"}
            }
            values = {words[i + 1] for i, word in enumerate(words[:-1]) if word.startswith("--") and i + 1 in given}
            packages = {word.partition("[")[0] for word in words[2:] if not word.startswith("--")} - values
            assert packages - {"constraints.txt", "docker/constraints.txt"} <= {*ours, *theirs}, name
    for command in read_stages()["requirements"].all("RUN"):
        arguments = shlex.split(command.partition(" > ")[0])[1:]
        output = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        expected = project["dependencies"] + [
            line for extra in ("sweep", "wandb") for line in project["optional-dependencies"][extra]
        ]
        assert output.stdout.splitlines() == expected
        assert {re.split(r"[^\w-]", line)[0].lower().replace("_", "-") for line in expected} <= set(theirs)


def test_the_build_sees_what_the_wheel_needs_and_nothing_else():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [project["project"]["readme"], *project["project"]["license-files"], *wheel["packages"]]
    needed += [*wheel.get("force-include", {}), "pyproject.toml"]
    assert all(in_context(path) and (ROOT / path).exists() for path in needed)
    assert in_context("lightning_pocket/data/cache.py")
    allowed = re.findall("(?m)^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"))
    assert all((ROOT / path).exists() for path in allowed)
    private = [".git/config", ".env", "docker/.env", "cache/mine/a.npy", "runs/a/last.ckpt", "tests/test_docker.py"]
    private += [
        *(f"docker/{name}" for name in SECRETS),
        "lightning_pocket/data/__pycache__/cache.pyc",
        "netrc",
        "configs/.env",
    ]
    assert not [path for path in private if in_context(path)]


def test_the_services_name_only_what_exists(capsys):
    main(["--help"])
    commands = re.findall(r"(?m)^  (\w+) ", capsys.readouterr().out)
    content = compose()
    assert set(content["services"]) == {"database", "tables", "dashboard", "worker", "worker-gpu"}
    for name, service in content["services"].items():
        if "build" in service:
            context = (DOCKER / service["build"]["context"]).resolve()
            assert (context, context / service["build"]["dockerfile"]) == (ROOT, DOCKER / "Dockerfile")
            assert service["image"] == f"lightning-pocket:{service['build']['target']}"
            assert service["build"]["target"] in TARGETS
            arguments = {text.split("=")[0] for text in read_stages()["runtime"].all("ARG")}
            assert set(service["build"]["args"]) == arguments
            assert service["command"][0] in programs()
            assert service["command"][0] != "pocket" or service["command"][1] in commands
        else:
            assert PINNED.fullmatch(service["image"]), name
        assert set(service.get("secrets", [])) <= set(content["secrets"])
        for value in service["environment"].values():
            if str(value).startswith("/run/secrets/"):
                assert value.removeprefix("/run/secrets/") in service["secrets"]
        for mount in service.get("volumes", []):
            if isinstance(mount, str):
                assert mount.split(":")[0] in content["volumes"]
            else:
                assert mount["read_only"]
    assert {volume["file"].removeprefix("./") for volume in content["secrets"].values()} == set(SECRETS)
    workers = [content["services"][name] for name in ("worker", "worker-gpu")]
    assert [(worker["profiles"], worker["build"]["target"]) for worker in workers] == [
        (["cpu"], "cpu"),
        (["gpu"], "cuda"),
    ]
    for worker in workers:
        assert worker["volumes"][0] == "results:/workspace"
        assert worker["command"][3:] == ["--cache", Path(worker["volumes"][1]["target"]).relative_to("/workspace").name]
        assert (ROOT / "sweeps" / f"{worker['command'][2]}.yaml").is_file()


def test_services_wait_for_what_can_come_true():
    services, stages = compose()["services"], read_stages()
    waits = [(name, *pair) for name, service in services.items() for pair in service.get("depends_on", {}).items()]
    assert {(name, other) for name, other, _ in waits} == {
        ("tables", "database"),
        ("dashboard", "tables"),
        ("worker", "tables"),
        ("worker-gpu", "tables"),
    }
    for _, other, how in waits:
        if how["condition"] == "service_healthy":
            check = services[other].get("healthcheck", {})
            image = ancestry(stages, services[other]["build"]["target"]) if "build" in services[other] else []
            assert "test" in check or (not check and any(stage.all("HEALTHCHECK") for stage in image))
        else:
            assert how["condition"] == "service_completed_successfully"
            assert services[other]["restart"] == "no"
        assert "profiles" not in services[other]  # a service of another profile is never started


def test_ports_are_on_loopback_and_those_that_the_programs_listen_on():
    services = compose()["services"]
    assert {name for name, service in services.items() if "ports" in service} == {"dashboard"}
    (port,) = services["dashboard"]["ports"]
    assert re.fullmatch(r"127\.0\.0\.1:\d+:8080", port)
    command = services["dashboard"]["command"]
    assert command[command.index("--port") + 1] == "8080"
    assert command[-1] == services["worker"]["environment"]["POCKET_SWEEP_STORAGE"]
    host, database = re.fullmatch(r"postgresql\+psycopg://pocket@(\w+):5432/(\w+)", command[-1]).groups()
    assert host in services
    assert services[host]["environment"]["POSTGRES_DB"] == database


def test_settings_have_one_default():
    text = read("compose.yaml")
    used = re.findall(r"\$\{(\w+):-([^}]*)\}", text)
    assert len(used) == text.count("${")  # none without a default: `down` needs them as well
    assert set(used) == set(re.findall(r"(?m)^(\w+)=(.*)$", read("example.env")))


def leaks(text: str) -> list[str]:
    """Return what looks like a credential: a password in a URL, or a telling name with a value."""
    told = re.findall(r"\w+://[^\s/:@]+:[^\s@]+@", text)
    for name, value in re.findall(r"(?im)\b(\w*(?:password|secret|token|api_?key)\w*)\s*[=:]\s*([^\s#]+)", text):
        if not value.startswith(("/run/secrets/", '"$(od', "%s", "$")) and name not in {"secrets", "database_password"}:
            told.append(f"{name}={value}")
    return told


def test_no_credential_stands_in_a_file():
    files = [ROOT / ".dockerignore", *(path for path in DOCKER.iterdir() if path.is_file() and path.name != ".env")]
    assert {path.name for path in files} >= {"Dockerfile", "compose.yaml", "example.env", "make-secrets.sh"}
    assert {
        path.name: leaks(path.read_text(encoding="utf-8")) for path in files if leaks(path.read_text("utf-8"))
    } == {}
    for planted in ("ENV WANDB_API_KEY=abc", "  POSTGRES_PASSWORD: pocket", "postgresql://pocket:pw@database/pocket"):
        assert leaks(planted)


def test_secrets_are_made_once_readable_for_containers_and_unknown_to_git(tmp_path):
    shutil.copytree(DOCKER, tmp_path / "docker", ignore=shutil.ignore_patterns("secrets*", ".env"))
    for _ in range(2):
        subprocess.run(["sh", "docker/make-secrets.sh"], cwd=tmp_path, check=True, capture_output=True, umask=0o077)
        password = (tmp_path / "docker" / SECRETS[0]).read_text(encoding="utf-8")
        made = tmp_path / "docker" / SECRETS[1]
        assert made.read_text(encoding="utf-8") == f"[pocket]\npassword={password}"
    assert re.fullmatch("[0-9a-f]{48}\n", password)
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700
    assert all(stat.S_IMODE((tmp_path / "docker" / name).stat().st_mode) == 0o644 for name in SECRETS)
    shutil.rmtree(made.parent)
    subprocess.run(["sh", "docker/make-secrets.sh"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "docker" / SECRETS[0]).read_text(encoding="utf-8") != password
    service = compose()["services"]["worker"]["environment"]["PGSERVICE"]
    assert made.read_text(encoding="utf-8").startswith(f"[{service}]\n")
    if shutil.which("git"):
        subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
        paths = [f"docker/{name}" for name in (*SECRETS, ".env")]
        ignored = subprocess.run(
            ["git", "check-ignore", *paths], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert ignored.stdout.split() == paths


@pytest.mark.e2e
@pytest.mark.skipif(util.find_spec("hatchling") is None, reason="needs hatchling: pip install -c constraints.txt")
def test_the_package_of_the_image_works_in_an_empty_folder(tmp_path):
    """The steps of the stages ``tools`` and ``package``, and the copy of ``cpu``, below a folder in place of ``/``."""
    stages = read_stages()
    replayed = replay(tmp_path, [*stages["tools"].steps, *stages["package"].steps, *stages["cpu"].steps])
    assert replayed == ["COPY", "COPY", "COPY", "RUN", "COPY"]
    pocket = tmp_path / "opt" / "pocket" / "bin" / "pocket"
    assert pocket.read_text(encoding="utf-8").startswith(f"#!{tmp_path}/opt/pocket/bin/python")
    (empty := tmp_path / "workspace").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in (*(json.loads(text) for text in stages["cpu"].all("CMD")), ["pocket", "--version"]):
        subprocess.run([pocket, *command[1:]], cwd=empty, env=environment, check=True, capture_output=True)
    code = (
        "from lightning_pocket.launch import configs_folder, find_config; import lightning_pocket\n"
        "print(lightning_pocket.__file__, find_config('defaults'), len(list(configs_folder().rglob('*.yaml'))))"
    )
    python = pocket.with_name("python")
    result = subprocess.run(
        [python, "-c", code], cwd=empty, env=environment, check=True, capture_output=True, text=True
    )
    module, config, count = result.stdout.split()
    assert {Path(module).is_relative_to(tmp_path), Path(config).is_relative_to(tmp_path)} == {True}
    assert int(count) == sum(len(list((ROOT / folder).rglob("*.yaml"))) for folder in ("configs", "sweeps"))


def test_the_commands_of_the_page_name_what_exists():
    text = PAGE.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in blocks.splitlines() if line.strip()]
    services = compose()["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", [])}
    for words in lines:
        for option, known in (("--target", TARGETS), ("--profile", profiles)):
            assert {value for name, value in pairwise(words) if name == option} <= known, words
        for name, value in pairwise(words):
            assert name != "--file" or (ROOT / value).is_file(), words
        for image in (word for word in words if word.startswith("lightning-pocket:")):
            assert image.partition(":")[2] in TARGETS, words
        for script in (word for word in words if word.startswith("docker/") and word != "docker/.env"):
            assert (ROOT / script).is_file(), words
    builds = [words for words in lines if words[:2] == ["docker", "build"]]
    assert {words[words.index("--target") + 1] for words in builds} >= {"cpu", "cuda"}
    ups = [words for words in lines if words[:2] == ["docker", "compose"] and "up" in words]
    assert {words[words.index("--profile") + 1] for words in ups} == profiles
