"""The command line's frame: help, usage errors, common options, forms of output."""

import json
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from cli import CALL, assert_one_line, environment, run
from commonplace.cli import common, output
from commonplace.cli.main import COMMANDS, LazyCommands


def leaves(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    members = (
        {n: command.get_command(None, n) for n in command.list_commands(None)} if hasattr(command, "commands") else {}
    )
    if not members:
        return [(path, command)]
    return [leaf for name, member in members.items() for leaf in leaves(member, (*path, name))]


LEAVES = leaves(LazyCommands(name="commonplace"))


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_every_command_has_help_an_example_and_the_common_options(path: tuple[str, ...], command: Any) -> None:
    assert command.help, f"{path} does not say what it does"
    assert "commonplace " + path[0] in (command.epilog or ""), f"{path} has no example"
    options = {option for param in command.params for option in param.opts}
    assert {"--bootstrap-servers", "--config", "--log-level", "--prefix", "--pool"} <= options


def test_root_help_lists_every_command() -> None:
    answer = run("--help")
    assert answer.returncode == 0
    hidden = {path[0] for path, command in LEAVES if command.hidden}
    for name in COMMANDS:
        assert (f"\n  {name} " in answer.stdout) == (name not in hidden)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["topic", "list"], ["No such command 'topic'", "'topics'"]),
        (["topics", "lst"], ["'list'", "commonplace topics --help"]),
        (["topics", "list", "--nope"], ["--nope"]),
        (["topics", "list", "-o", "xml"], ["xml", "yaml"]),
        (["flavor", "delete"], ["'NAME'", "commonplace flavor delete --help"]),
        (["flavor", "set", "x", "--resource", "VGPU"], ["--resource VGPU", "CLASS=N"]),
        (["flavor", "set", "x"], ["flavor 'x'", "resources"]),
        (["flavor", "set", "x", "--resource", f"VCPU={'9' * 5_000}"], ["--resource VCPU", "CLASS=N"]),
        (["flavor", "set", "x", "--vcpus", "1", "--cell", f"cpus={'9' * 5_000}"], ["flavor 'x'", "cpus"]),
        (["sim", "show", "²"], ["²", "neither a seed nor a file"]),
        (["sim", "show", "9" * 5_000], ["neither a seed nor a file"]),
        (["schema", "host"], ["'host'", "hosts"]),
        (["schema", "-o", "table"], ["-o table", "json or yaml"]),
        (["-o", "name", "schema", "claims"], ["-o name", "json or yaml"]),
        (["config", "show", "--config", "/nowhere.toml"], ["/nowhere.toml"]),
        (["config", "show", "--pool", "a/b"], ["topics.pool", "a/b"]),
        (["broker", "--embedded", "--port", "1"], ["--embedded", "--port"]),
    ],
)
def test_usage_error_is_one_line_and_exit_code_2(arguments: list[str], parts: list[str]) -> None:
    assert_one_line(run(*arguments), 2, *parts)


REPORTS = (
    "demo",
    "replay x.csv --format csv --hosts 1",
    "sim run --seeds 1",
    "bench loop",
    "bench rank",
    "bench fold",
    "bench catchup",
    "bench burst",
    "bench conflicts",
)


@pytest.mark.parametrize(
    ("written", "says"), [(b'{"flavor": "m\xfc"}', "not UTF-8 at byte 13"), (b"[" * 5_000, "nested too deep")]
)
def test_requests_for_a_plan_that_cannot_be_read_are_refused_from_a_file_and_from_stdin(
    written: bytes, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "requests.json"
    file.write_bytes(written)
    assert_one_line(run("plan", str(file)), 2, str(file), says)
    with file.open("rb") as stdin:
        piped = subprocess.run(
            [*CALL, "plan", "-"],
            stdin=stdin,
            env=environment({}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert_one_line(piped, 2, "stdin", says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("plan /no/such/file", "/no/such/file: cannot be read: No such file or directory"),
        (
            "sim run --schedules 0",
            "'--schedules': Input should be greater than or equal to 1. See `commonplace sim run",
        ),
        ("submit --flavor f --count 0", "'--count': Input should be greater than or equal to 1. See"),
        ("completion tcsh", "'SHELL': 'tcsh' is not one of 'bash', 'zsh', 'fish'. See"),
    ],
)
def test_what_cannot_be_meant_is_told_alike_whoever_finds_it(arguments: str, says: str) -> None:
    assert_one_line(run(*arguments.split()), 2, says)


@pytest.mark.parametrize("group", [(), ("host",), ("topics",), ("sim",)])
def test_lists_of_commands_show_a_whole_sentence_of_each(group: tuple[str, ...]) -> None:
    listed = run(*group, "--help").stdout.partition("Commands:")[2].partition("Example")[0]
    ends = [entry[-1] for entry in re.split(r"\n  (?=[a-z])", listed.rstrip())[1:]]
    assert ends
    assert set(ends) == {"."}


@pytest.mark.parametrize("arguments", REPORTS)
def test_a_report_is_not_asked_for_by_name_and_nothing_is_begun_for_it(arguments: str) -> None:
    assert_one_line(run(*arguments.split(), "-o", "name"), 2, "-o name", "json")


def test_group_without_a_subcommand_shows_its_help() -> None:
    answer = run("topics")
    assert answer.returncode == 2
    assert "verify" in answer.stderr


def test_unknown_key_in_a_variable_is_one_line_with_the_nearest() -> None:
    answer = run("config", "show", env={"COMMONPLACE__AGENT__HEARTBEAT": "3"})
    assert_one_line(answer, 2, "COMMONPLACE__AGENT__HEARTBEAT", "agent.heartbeat_interval_s")


def test_config_show_says_where_each_value_came_from_and_masks_secrets(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[agent]\nsettled_max = 7\n")
    answer = run(
        *("-b", "k:9", "config", "show", "--origin", "-o", "json", "--pool", "ssd"),
        env={"COMMONPLACE_CONFIG": str(file), "COMMONPLACE__KAFKA__SASL_PASSWORD": "hunter2"},
    )
    shown = {row["setting"]: (row["value"], row["origin"]) for row in json.loads(answer.stdout)}
    assert shown["kafka.bootstrap.servers"] == ("k:9", "flag")
    assert shown["topics.pool"] == ("ssd", "flag")
    assert shown["agent.settled_max"] == (7, str(file))
    assert shown["kafka.sasl.password"] == ("********", "COMMONPLACE__KAFKA__SASL_PASSWORD")
    assert shown["scheduler.mode"] == ("strict", "default")
    assert "hunter2" not in answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ACKS", "1", "acks = 1 contradicts acks = all"),
        ("ENABLE_AUTO_COMMIT", "true", "enable.auto.commit = true contradicts"),
        ("GROUP_ID", "mine", "group.id = mine contradicts group.id = commonplace.default.replicas"),
        ("ENABLE_PARTITION_EOF", "false", "enable.partition.eof = false contradicts"),
    ],
)
def test_config_show_complains_of_what_a_component_would_refuse_at_its_start(
    variable: str, value: str, says: str
) -> None:
    answer = run("config", "show", "--origin", env={f"COMMONPLACE__KAFKA__{variable}": value})
    assert answer.returncode == 2
    assert f"COMMONPLACE__KAFKA__{variable}" in answer.stdout
    (line,) = answer.stderr.splitlines()
    assert says in line


def test_config_show_has_nothing_against_settings_that_say_the_same() -> None:
    assert run("config", "show", env={"COMMONPLACE__KAFKA__ACKS": "-1"}).returncode == 0


def test_common_options_stand_before_or_after_the_command_and_the_later_wins() -> None:
    answer = run("--pool", "a", "config", "--prefix", "x", "show", "--pool", "b", "-o", "json")
    shown = {row["setting"]: row["value"] for row in json.loads(answer.stdout)}
    assert (shown["topics.prefix"], shown["topics.pool"]) == ("x", "b")


def test_no_broker_is_one_line_and_exit_code_6() -> None:
    assert_one_line(run("topics", "verify", "-b", "127.0.0.1:1"), 6, "no broker at 127.0.0.1:1", "commonplace broker")


def test_librdkafka_setting_that_does_not_exist_is_one_line() -> None:
    answer = run("topics", "verify", env={"COMMONPLACE__KAFKA__NO_SUCH": "1"})
    assert_one_line(answer, 2, "no.such")


def test_schema_names_every_record_and_refers_to_nothing_missing() -> None:
    text = run("schema").stdout
    page = json.loads(text)
    assert {"Build", "Claim", "Decision", "Flavor", "Snapshot", "Delta", "Start"} <= set(page["$defs"])
    assert set(page["properties"]) >= {"hosts", "claims", "requests", "decisions", "control"}
    references = {part.split('"')[0] for part in text.split("#/$defs/")[1:]}
    assert references <= set(page["$defs"])


def test_schema_is_json_or_yaml_and_no_table() -> None:
    page = json.loads(run("schema", "claims").stdout)
    assert json.loads(run("schema", "claims", "-o", "json").stdout) == page
    block = run("schema", "claims", "-o", "yaml").stdout
    assert yaml.safe_load(block) == page
    assert "\ntitle: Records of commonplace by topic\n" in block  # JSON reads as YAML too


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    answer = run("completion", shell)
    assert answer.returncode == 0
    assert "_COMMONPLACE_COMPLETE" in answer.stdout


def test_completion_knows_commands_of_groups() -> None:
    words = {"COMP_WORDS": "commonplace topics ver", "COMP_CWORD": "2"}
    assert run(env={"_COMMONPLACE_COMPLETE": "complete_bash", **words}).stdout.split() == ["verify"]


def test_nothing_is_coloured_off_a_terminal_or_with_no_color() -> None:
    answer = run("topics", "--help")
    assert "\x1b" not in answer.stdout + answer.stderr
    assert "\x1b" not in on_terminal("config", "show", env={"NO_COLOR": "1"})


def on_terminal(*arguments: str, env: dict[str, str]) -> str:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(CALL[0], [*CALL, *arguments], environment(env))
    read = b""
    try:
        while chunk := os.read(terminal, 65536):
            read += chunk
    except OSError:  # Linux says EIO at the end of a terminal's other side
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return read.decode()


# --- forms of output -----------------------------------------------------------------------------------------------

ROWS = [
    {"name": "a", "free_mb": 5, "up": True, "labels": {"zone": "x", "odd": "no"}, "note": None},
    {"name": "b\x1b[31m", "free_mb": 1234, "up": False, "labels": {}, "note": "two: words"},
]


@pytest.fixture(autouse=True)
def _nothing_given() -> None:
    common.forget()


def printed(capsys: pytest.CaptureFixture[str], form: common.Output, data: object, **options: Any) -> str:
    output.emit(data, form=form, **options)
    return capsys.readouterr().out


def test_table_aligns_numbers_right_and_hides_wide_columns(capsys: pytest.CaptureFixture[str]) -> None:
    columns = ["name", "free_mb", "up", output.Column("note", "remark", wide=True)]
    assert printed(capsys, "table", ROWS, columns=columns).splitlines() == [
        "NAME        FREE MB   UP",
        "a                 5   yes",
        r"b\x1b[31m      1234   no",
    ]
    assert printed(capsys, "wide", ROWS, columns=columns).splitlines()[0].endswith("UP    REMARK")


def test_a_table_shows_floats_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    values = [1234567.0, 98765432.1, 0.25, 12.0]
    told = [line.strip() for line in printed(capsys, "table", [{"bytes": one} for one in values]).splitlines()]
    assert told == ["BYTES", "1234567", "98765432", "0.25", "12"]


def test_table_of_nothing_still_has_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "table", [], columns=["name", "free_mb"]) == "NAME   FREE MB\n"


def test_json_and_yaml_hold_the_same_data(capsys: pytest.CaptureFixture[str]) -> None:
    tricky = [*ROWS, {"": [[], {}, [[1, "no"], {"a": {"b": ["- x", "# y", "1.5", "null", "ü\u2028"]}}], 1.5, "x: y"]}]
    assert json.loads(printed(capsys, "json", tricky)) == tricky
    assert yaml.safe_load(printed(capsys, "yaml", tricky)) == tricky
    assert yaml.safe_load(printed(capsys, "yaml", {"a": []})) == {"a": []}


def test_names_are_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "name", [{"id": "a"}, {"id": "b"}], name="id") == "a\nb\n"


class Thing(msgspec.Struct, omit_defaults=True):
    name: str
    count: int = 1


def test_records_show_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(printed(capsys, "json", [Thing("a")])) == [{"name": "a", "count": 1}]
    assert printed(capsys, "table", Thing("a")) == "name    a\ncount   1\n"


def test_stream_is_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for count in (1, 2):
        output.emit_line(Thing("a", count), form="json")
    assert [json.loads(line)["count"] for line in capsys.readouterr().out.splitlines()] == [1, 2]


HOSTILE = "a\u009b2J\u202e\x7f\U000e0001\nhost-2   enabled"


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml", "name"])
def test_what_others_named_cannot_drive_the_terminal(form: common.Output, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": HOSTILE, "Zürich": ["Ω", {HOSTILE: HOSTILE}]}]
    output.emit(rows, form=form)
    output.emit(rows[0], form=form)
    output.emit_line(rows[0], form=form)
    told = capsys.readouterr().out
    assert [c for c in told if not c.isprintable() and c != "\n"] == []
    assert form in ("json", "yaml") or not any(line.startswith("host-2") for line in told.splitlines())
    assert form in ("yaml", "name") or "Ω" in told


def test_json_without_what_drives_a_terminal_reads_back_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(printed(capsys, "json", {HOSTILE: [HOSTILE, "\ud800"]})) == {HOSTILE: [HOSTILE, "\ud800"]}


def test_lines_for_a_person_stay_the_lines_that_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_line(Thing("a"), lines=["no valid host: \x1b[2J\nplaced a", "  host-1"], form="table")
    output.say("said\n\u009b2J")
    told = capsys.readouterr()
    assert told.out == "no valid host: \\x1b[2J\\nplaced a\n  host-1\n"
    assert told.err == "said\n\\x9b2J\n"


def test_an_error_that_names_what_others_wrote_cannot_drive_the_terminal() -> None:
    assert_one_line(run("flavor", "set", "x", "--resource", "\u009b2J"), 2, r"\x9b2J")


def test_a_path_that_cannot_be_used_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    answer = run("demo", "--work-dir", str(taken))
    assert answer.returncode == 1
    assert f"commonplace: {taken}: File exists" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    "arguments",
    ["submit --flavor m1.tiny --timeout inf", "audit --slack-s inf", "requests --since nan", "confirm x --timeout 0"],
)
def test_a_time_that_no_clock_can_count_is_a_usage_error(arguments: str) -> None:
    answer = run(*arguments.split())
    assert_one_line(answer, 2, "Invalid value", "--help")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_also_of_a_group(name: str) -> None:
    assert f"commonplace {name}" in (LazyCommands(name="commonplace").get_command(None, name).epilog or "")


@pytest.mark.parametrize("arguments", [("aggregate", "set", "a\udcff"), ("aggregate", "set", "a", "--zone", "\udcff")])
def test_a_name_that_is_not_utf_8_is_one_line_and_no_traceback(arguments: tuple[str, ...]) -> None:
    assert_one_line(run(*arguments), 2, r"\udcff' is not UTF-8: write it so")
