"""What `agent` and `fleet` say to a person who got something wrong."""

from pathlib import Path

import pytest

import cli


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["agent", "--name", "a b"], 2, "--name 'a b'"),
        (["agent", "--name", "a", "--driver", "static"], 2, "--driver static needs --file"),
        (["agent", "--name", "a", "--driver", "static", "--file", "missing.toml"], 2, "missing.toml"),
        (["agent", "--name", "a", "--driver", "host", "--file", "missing.toml"], 2, "missing.toml"),
        (["agent", "--name", "a", "-b", "127.0.0.1:1"], 6, "no broker at 127.0.0.1:1"),
        (["fleet"], 2, "0 hosts"),
        (["fleet", "--hosts", "3", "--shape", "huge"], 2, "host shape 'huge'"),
        (["fleet", "--hosts", "3", "-b", "127.0.0.1:1"], 6, "no broker at 127.0.0.1:1"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], code: int, part: str) -> None:
    cli.assert_one_line(cli.run(*arguments), code, part)


def test_an_unknown_key_of_the_host_driver_is_named(tmp_path: Path) -> None:
    (file := tmp_path / "driver.toml").write_text("disk = 1\n")
    cli.assert_one_line(cli.run("agent", "--name", "a", "--file", str(file)), 2, str(file), "disk")
