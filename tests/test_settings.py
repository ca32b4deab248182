"""Settings: precedence, origins, errors that name what was wrong, secrets."""

import inspect
from pathlib import Path

import msgspec
import pytest

from commonplace import settings as s
from commonplace.errors import ExitCode, SettingsError


def loaded(
    tmp_path: Path, *, system: str = "", named: str = "", env: dict[str, str] | None = None, **flags: dict[str, object]
) -> tuple[s.Settings, dict[str, s.Setting]]:
    """Settings from texts of the two files, variables and flags; and each setting by its dotted name."""
    environ = dict(env or {})
    system_config = tmp_path / "system.toml"
    if system:
        system_config.write_text(system)
    if named:
        (tmp_path / "named.toml").write_text(named)
        environ[s.CONFIG_VARIABLE] = str(tmp_path / "named.toml")
    found, origins = s.load_with_origins(flags=flags, environ=environ, system_config=system_config)
    return found, {f"{o.section}.{o.key}": o for o in origins}


def refused(tmp_path: Path, **sources: object) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, **sources)  # type: ignore[arg-type]  # passed through
    assert caught.value.exit_code == ExitCode.USAGE
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_stand_where_nobody_said_otherwise(tmp_path: Path) -> None:
    found, origins = loaded(tmp_path)
    assert found == s.Settings()
    assert {o.origin for o in origins.values()} == {"default"}


def test_each_source_overrides_the_one_before_and_is_named_as_origin(tmp_path: Path) -> None:
    file = "[agent]\nheartbeat_interval_s = {}\n"
    variable = {"COMMONPLACE__AGENT__HEARTBEAT_INTERVAL_S": "13"}
    flags: dict[str, object] = {"heartbeat_interval_s": "14"}
    cases = [
        (loaded(tmp_path, system=file.format(11)), 11, "system.toml"),
        (loaded(tmp_path, system=file.format(11), named=file.format(12)), 12, "named.toml"),
        (loaded(tmp_path, named=file.format(12), env=variable), 13, "COMMONPLACE__AGENT__HEARTBEAT_INTERVAL_S"),
        (loaded(tmp_path, env=variable, agent=flags), 14, "flag"),
    ]
    for (found, origins), value, origin in cases:
        assert found.agent.heartbeat_interval_s == value
        assert origins["agent.heartbeat_interval_s"].origin.endswith(origin)


def test_config_argument_stands_in_for_the_variable(tmp_path: Path) -> None:
    path = tmp_path / "argument.toml"
    path.write_text("[topics]\npool = 'ssd'\n")
    environ = {s.CONFIG_VARIABLE: str(tmp_path / "absent.toml")}
    assert s.load(path, environ=environ, system_config=tmp_path / "absent").topics.pool == "ssd"


def test_flag_that_was_not_given_overrides_nothing(tmp_path: Path) -> None:
    found, _ = loaded(tmp_path, env={"COMMONPLACE__TOPICS__POOL": "ssd"}, topics={"pool": None})
    assert found.topics.pool == "ssd"


@pytest.mark.parametrize(
    ("sources", "parts"),
    [
        ({"named": "[agent]\nheartbeat_interval = 3\n"}, ["named.toml", "agent.heartbeat_interval", "_interval_s"]),
        ({"env": {"COMMONPLACE__SCHEDULER__LEASE": "3"}}, ["COMMONPLACE__SCHEDULER__LEASE", "scheduler.lease_ms"]),
        ({"named": "[agent]\nlease_ms = 3\n"}, ["agent.lease_ms", "known is"]),
        ({"named": "[agent]\nclaim_timeout_ms = 3\n"}, ["agent.claim_timeout_ms", "scheduler.claim_timeout_ms"]),
        ({"named": "[agents]\nx = 3\n"}, ["named.toml", "[agents]", "[agent]"]),
        ({"env": {"COMMONPLACE__TOPIC__POOL": "x"}}, ["COMMONPLACE__TOPIC__POOL", "[topic]", "[topics]"]),
        ({"named": "agent = 3\n"}, ["named.toml", "[agent] must be a table"]),
        ({"named": "[agent\n"}, ["named.toml", "not valid TOML"]),
        ({"named": f"agent = {'[' * 5_000}{']' * 5_000}"}, ["named.toml", "nested too deep"]),
        ({"named": f"[agent]\nlease_ms = {'9' * 5_000}"}, ["named.toml", "not valid TOML", "5000 digits"]),
        ({"named": f"[kafka.{'.'.join('a' * 5_000)}]\nx = []"}, ["named.toml", "nested too deep"]),
        ({"named": f"agent = [{{ {'.'.join('a' * 5_000)} = 1 }}]"}, ["named.toml", "nested too deep"]),
        ({"env": {"COMMONPLACE_CONFIG": "/nowhere/x.toml"}}, ["/nowhere/x.toml", "cannot be read"]),
        (
            {"named": "[scheduler]\nqueue_max = -1\n"},
            ["named.toml", "scheduler.queue_max", "-1", "it must be at least 1"],
        ),
        (
            {"named": "[scheduler]\nqueue_max = '9'\n"},
            ["scheduler.queue_max = '9': it must be a whole number, not text"],
        ),
        ({"named": "[scheduler]\nmode = 'loose'\n"}, ["scheduler.mode", "loose"]),
        ({"named": "[topics]\npool = 'a b'\n"}, ["topics.pool", "a b", "letters, digits"]),
        ({"named": "[scheduler]\nhttp = '9100'\n"}, ["scheduler.http", "HOST:PORT"]),
        ({"named": "[kafka]\n'client.id' = []\n"}, ["kafka.client.id", "text, a number or a boolean"]),
    ],
)
def test_bad_setting_is_refused_naming_source_and_key(
    tmp_path: Path, sources: dict[str, object], parts: list[str]
) -> None:
    message = refused(tmp_path, **sources)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "small", "large"),
    [
        ("[agent]\nsnapshot_interval_s = 900", "agent.snapshot_interval_s", "topics.hosts_max_compaction_lag_ms"),
        ("[topics]\nrequests_retention_ms = 172800000", "requests_retention_ms", "topics.decisions_retention_ms"),
        ("[agent]\nheartbeat_interval_s = 60", "agent.heartbeat_interval_s", "scheduler.liveness_timeout_s"),
        ("[scheduler]\nlease_margin_ms = 300000", "scheduler.lease_margin_ms", "scheduler.lease_ms"),
        ("[scheduler]\nclaim_timeout_ms = 400000", "scheduler.claim_timeout_ms", "scheduler.lease_ms"),
        ("[agent]\nreport_bytes_max = 1000000", "agent.report_bytes_max", "limits.record_bytes_max"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path: Path, text: str, small: str, large: str) -> None:
    message = refused(tmp_path, named=text)
    assert "named.toml" in message
    assert small in message
    assert large in message


def test_librdkafka_settings_pass_through_with_their_dotted_names(tmp_path: Path) -> None:
    found, _ = loaded(
        tmp_path,
        named="[kafka]\nbootstrap.servers = 'k:1'\n'socket.keepalive.enable' = true\nstatistics.interval.ms = 5\n",
        env={"COMMONPLACE__KAFKA__CLIENT_ID": "me"},
    )
    assert found.kafka == {
        "bootstrap.servers": "k:1",
        "socket.keepalive.enable": "true",
        "statistics.interval.ms": "5",
        "client.id": "me",
    }
    assert found.bootstrap == "k:1"


def test_secret_is_read_from_its_file_and_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    found, origins = loaded(tmp_path, env={"COMMONPLACE__KAFKA__SASL_PASSWORD_FILE": str(secret)})
    assert found.kafka["sasl.password"] == "hunter2"
    assert s.masked(origins["kafka.sasl.password_file"]) == str(secret)
    assert "kafka.sasl.password" not in origins


def test_repr_of_settings_holds_no_secret() -> None:
    text = repr(s.Settings(kafka={"sasl.password": "hunter2"}))
    assert "sasl.password" in text
    assert "hunter2" not in text


def test_later_source_replaces_a_secret_whatever_its_form(tmp_path: Path) -> None:
    file = f"[kafka]\n'sasl.password_file' = '{tmp_path}/absent'\n"
    found, origins = loaded(tmp_path, named=file, env={"COMMONPLACE__KAFKA__SASL_PASSWORD": "new"})
    assert found.kafka["sasl.password"] == "new"
    assert s.masked(origins["kafka.sasl.password"]) == s.MASK


def test_secret_file_that_is_missing_is_named(tmp_path: Path) -> None:
    message = refused(tmp_path, named=f"[kafka]\n'ssl.key.password_file' = '{tmp_path}/absent'\n")
    assert "kafka.ssl.key.password_file" in message
    assert "absent" in message


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("sasl.password", True),
        ("ssl.key.password", True),
        ("ssl.keystore.password", True),
        ("ssl.key.pem", True),
        ("sasl.oauthbearer.client.secret", True),
        ("sasl.oauthbearer.config", True),
        ("sasl.password_file", False),
        ("sasl.username", False),
        ("ssl.ca.pem", False),
        ("bootstrap.servers", False),
    ],
)
def test_secrets_are_known_by_name(key: str, secret: bool) -> None:
    assert s.is_secret(key) is secret


def test_every_setting_has_its_reason_below_it() -> None:
    for section in s.SECTIONS.values():
        lines = [line.strip() for line in inspect.getsource(section).splitlines()]
        for field in msgspec.structs.fields(section):
            at = next(i for i, line in enumerate(lines) if line.startswith(f"{field.name}: "))
            assert lines[at + 1].startswith('"""'), f"{section.__name__}.{field.name} has no reason below it"


def test_every_number_has_a_unit_or_counts_something() -> None:
    units = ("_s", "_ms", "_max", "_default", "_partitions", "_factor", "_jitter")
    for section in s.SECTIONS.values():
        for field in msgspec.structs.fields(section):
            if isinstance(field.default, int | float) and not isinstance(field.default, bool):
                assert field.name.endswith(units), f"{section.__name__}.{field.name}"
