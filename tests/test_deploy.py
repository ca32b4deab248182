"""What deploy/ and docker-compose.yml say, held against the command line, the settings and Kafka itself.

Images and compose are not run: no container engine where the tests run. Units are rated and verified, not started.
"""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import cli
from commonplace import settings
from commonplace.errors import ExitCode
from commonplace.kafka.broker import PROPERTIES
from commonplace.kafka.jars import KAFKA_VERSION

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
# In tenths of systemd's scale of 10: what is left is the network, which is the service's purpose.
EXPOSURE_MAX = 12


# --- systemd --------------------------------------------------------------------------------------------------------


def entries(unit: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("no systemd-analyze here")
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unit_is_hardened(unit: Path, analyze: str) -> None:
    command = [analyze, "security", "--no-pager", "--offline=true", f"--threshold={EXPOSURE_MAX}", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unit_has_no_unknown_setting(unit: Path, analyze: str, tmp_path: Path) -> None:
    # The program is not installed where tests run; all else is as shipped.
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE))
    instance = str(copy).replace("@.", "@1.")
    done = subprocess.run([analyze, "verify", instance], capture_output=True, text=True, timeout=60, check=False)
    complaints = [line for line in done.stderr.splitlines() if unit.name.split(".")[0].rstrip("@") in line]
    assert complaints == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unit_is_not_restarted_when_fenced_or_unusable(unit: Path) -> None:
    (codes,) = entries(unit, "RestartPreventExitStatus")
    assert {int(code) for code in codes.split()} == {ExitCode.DENIED, ExitCode.USAGE}
    assert entries(unit, "Restart") == ["always"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unit_is_started_for_as_long_as_no_broker_answers(unit: Path) -> None:
    # systemd counts every start, also those that ended with exit code 6; 0 is no limit
    assert entries(unit, "StartLimitIntervalSec") == ["0"]
    (between_s,) = entries(unit, "RestartSec")
    assert int(between_s) >= 2


def test_the_address_that_the_operations_page_gives_a_replica_is_read_by_its_unit() -> None:
    (line,) = re.findall(
        r"^for i in 1 2; do echo (\S+) > (\S+); done$", (ROOT / "docs" / "operations.md").read_text(), re.M
    )
    assignment, file = (word.replace("$i", "1") for word in line)
    assert f"-{file}".replace("-1", "-%i") in entries(DEPLOY / "commonplace-scheduler@.service", "EnvironmentFile")
    environ = dict([assignment.split("=", 1)])
    told = settings.load(DEPLOY / "commonplace.toml", environ=environ, system_config=Path("/nonexistent"))
    assert told.scheduler.http == "127.0.0.1:9101"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unit_runs_a_command_that_can_be_meant(unit: Path) -> None:
    (start,) = entries(unit, "ExecStart")
    program, *words = shlex.split(start.replace("%l", "node-1").replace("%i", "1"))
    assert program == "/opt/commonplace/bin/commonplace"
    cli.parse(words)


def test_a_command_without_what_it_needs_would_be_found() -> None:
    with pytest.raises(typer.TyperException, match="name"):
        cli.parse(["agent", "--driver", "host"])


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_file_holds_the_defaults_it_says_it_holds() -> None:
    loaded = settings.load(DEPLOY / "commonplace.toml", environ={}, system_config=Path("/nonexistent"))
    _, origins = settings.load_with_origins(DEPLOY / "commonplace.toml", environ={}, system_config=Path("/nonexistent"))
    defaults = settings.Settings()
    named = [setting for setting in origins if setting.origin != "default"]
    assert len(named) >= 15
    for setting in named:
        if setting.section != "kafka" and setting.key != "http":
            assert setting.value == getattr(getattr(defaults, setting.section), setting.key), setting
    assert loaded.kafka == defaults.kafka


# --- source distribution --------------------------------------------------------------------------------------------


def test_the_source_distribution_holds_what_its_tests_import_and_read() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    always = {"pyproject.toml", "README.md", "LICENSE"}  # hatchling's own rule
    held = {name.removeprefix("/") for name in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]}
    text = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    named = re.findall(r'ROOT / "([^"/]+)"', text) + re.findall(r"^(?:from|import) (\w+)", text, re.M)
    wanted = {name for name in named if (ROOT / name).exists()}
    assert {"bench", "docker-compose.yml", "docs"} <= wanted
    assert wanted - held - always == set()


# --- containers -----------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    pairs = [line.strip().partition(" ") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, " ".join(rest.split())) for word, _, rest in pairs]


def test_image_is_built_in_two_stages_from_a_named_base() -> None:
    words = instructions()
    assert [rest for word, rest in words if word == "FROM"] == ["${BASE} AS build", "${BASE}"]
    (base,) = [rest for word, rest in words if word == "ARG"]
    assert re.fullmatch(r"BASE=python:3\.\d+-slim", base)


def test_image_runs_as_a_numbered_user_that_is_not_root_and_has_a_health_check() -> None:
    words = instructions()
    (user,) = [rest for word, rest in words if word == "USER"]
    assert int(user.split(":")[0]) > 0
    assert [word for word, _ in words].index("USER") > [word for word, _ in words].index("COPY")
    assert any(word == "HEALTHCHECK" and "/livez" in rest for word, rest in words)
    assert ("ENTRYPOINT", '["commonplace"]') in words


def test_the_container_of_the_operations_page_is_heard_from_outside_and_by_its_own_health_check() -> None:
    (run,) = re.findall(r"^docker run (.*)$", (ROOT / "docs" / "operations.md").read_text().replace("\\\n", " "), re.M)
    command = run.partition(" commonplace ")[2].split()
    cli.parse(command)
    assert command[command.index("--http") + 1] == "0.0.0.0:8080"
    assert any(word == "HEALTHCHECK" and "127.0.0.1:8080/livez" in rest for word, rest in instructions())


def test_image_copies_only_what_exists_and_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists()
        assert name in kept


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_compose_has_a_broker_topics_two_schedulers_and_a_fleet(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"broker", "topics", "scheduler-1", "scheduler-2", "fleet"}
    assert set(compose["volumes"]) == {"broker-data"}


def test_compose_builds_an_image_in_one_service_and_pulls_it_in_none(compose: dict[str, Any]) -> None:
    ours = {name: service for name, service in compose["services"].items() if name != "broker"}
    assert [name for name, service in ours.items() if "build" in service] == ["topics"]
    assert (ROOT / ours["topics"]["build"]["dockerfile"]).exists()
    assert len({service["image"] for service in ours.values()}) == 1
    assert {service.get("pull_policy") for name, service in ours.items() if name != "topics"} == {"never"}


def test_compose_runs_commands_that_exist(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name != "broker":
            cli.parse([str(word) for word in service["command"]])


def test_compose_gives_replicas_names_of_their_own(compose: dict[str, Any]) -> None:
    for name in ("scheduler-1", "scheduler-2"):
        command = compose["services"][name]["command"]
        assert command[command.index("--name") + 1] == name


def test_compose_components_write_nothing_and_reach_the_broker_by_its_listener(compose: dict[str, Any]) -> None:
    advertised = compose["services"]["broker"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    for name, service in compose["services"].items():
        if name != "broker":
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            address = service["environment"]["COMMONPLACE__KAFKA__BOOTSTRAP_SERVERS"]
            assert f"INTERNAL://{address}" in advertised


def test_compose_settings_are_known_to_commonplace(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name != "broker":
            settings.load(environ=service["environment"], system_config=Path("/nonexistent"))


def test_compose_starts_components_after_the_topics_and_topics_after_the_broker(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["topics"]["depends_on"] == {"broker": {"condition": "service_healthy"}}
    for name in ("scheduler-1", "scheduler-2", "fleet"):
        assert services[name]["depends_on"] == {"topics": {"condition": "service_completed_successfully"}}


def test_compose_broker_sets_all_that_a_single_node_needs(compose: dict[str, Any]) -> None:
    broker = compose["services"]["broker"]
    assert broker["image"] == f"apache/kafka:{KAFKA_VERSION}"
    given = broker["environment"]
    # Any variable replaces the image's whole configuration: what the local broker needs, this one needs too.
    own = {"inter.broker.listener.name", "listener.security.protocol.map", "process.roles"}
    local_only = {"broker.session.timeout.ms", "broker.heartbeat.interval.ms"}  # for tests that kill it
    for name, value in PROPERTIES.items():
        if name not in own | local_only:
            assert given.get(f"KAFKA_{name.upper().replace('.', '_')}") == value, name
    listeners = re.findall(r"(\w+)://", given["KAFKA_LISTENERS"])
    mapped = re.findall(r"(\w+):PLAINTEXT", given["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"])
    assert sorted(listeners) == sorted(mapped) == ["CONTROLLER", "INTERNAL", "OUTSIDE"]
    assert given["KAFKA_CONTROLLER_QUORUM_VOTERS"].split("@")[0] == given["KAFKA_NODE_ID"]


def test_compose_publishes_the_broker_on_loopback_only(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


# --- ACLs: the script's own checks; tests/test_acls.py tries them on a broker ----------------------------------------


def acls(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["/bin/sh", str(DEPLOY / "kafka-acls.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["agent"],
        ["janitor", "User:x"],
        ["agent", "x"],
        ["agent", "User:it's"],
        ["--pool", "a;rm", "agent", "User:x"],
        ["--prefix"],
    ],
)
def test_acl_script_refuses_what_it_cannot_print_safely(words: list[str]) -> None:
    done = acls(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr


def test_acl_script_prints_lines_that_a_shell_reads_back() -> None:
    lines = acls("--prefix", "cp", "--pool", "ssd", "agent", "User:CN=agent, O=Example").stdout.splitlines()
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert words[words.index("--allow-principal") + 1] == "User:CN=agent, O=Example"
        topics = [words[i + 1] for i, word in enumerate(words) if word == "--topic"]
        assert all(topic.startswith("cp.ssd.") or topic in ("cp.control", "cp.") for topic in topics)
