"""Health and metrics, asked over a real socket."""

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import NoReturn

import pytest
from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.registry import Collector

from commonplace import http
from commonplace.errors import CommonplaceError


class Component:
    reason = ""

    def ready(self) -> str:
        return self.reason


@pytest.fixture
def component() -> Component:
    return Component()


@pytest.fixture
def server(component: Component) -> Iterator[http.Server]:
    registry = CollectorRegistry()
    Counter("commonplace_things", "Things.", registry=registry).inc(3)
    server = http.serve("127.0.0.1:0", registry, component.ready)
    yield server
    server.close()


def ask(server: http.Server, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{server.address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_ready_says_why_not(server: http.Server, component: Component) -> None:
    assert ask(server, "/readyz") == (200, "ok\n")
    component.reason = "3 of 5 hosts are starting"
    assert ask(server, "/readyz") == (503, "not ready: 3 of 5 hosts are starting\n")
    assert ask(server, "/livez") == (200, "ok\n")


def test_metrics_are_prometheus_text(server: http.Server) -> None:
    status, text = ask(server, "/metrics")
    assert status == 200
    assert "commonplace_things_total 3.0" in text


def test_what_cannot_be_answered_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Collector):
        def collect(self) -> NoReturn:
            raise KeyError("CUSTOM_LICENSE")

        def describe(self) -> list[Metric]:
            return []

    registry = CollectorRegistry()
    registry.register(Broken())
    server = http.serve("127.0.0.1:0", registry, Component().ready)
    try:
        assert ask(server, "/metrics")[0] == 500
        assert ask(server, "/livez") == (200, "ok\n")
    finally:
        server.close()
    assert "/metrics could not be answered" in caplog.text
    assert "KeyError: 'CUSTOM_LICENSE'" in caplog.text


def test_an_ipv6_address_is_listened_on_and_told_in_its_brackets() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as e:
        pytest.skip(f"no IPv6 here: {e}")
    server = http.serve("[::1]:0", CollectorRegistry(), lambda: "")
    try:
        assert server.address.startswith("[::1]:")
        assert ask(server, "/livez") == (200, "ok\n")
    finally:
        server.close()


def test_another_path_is_not_found(server: http.Server) -> None:
    assert ask(server, "/secret")[0] == 404


def test_a_port_in_use_is_one_line_with_what_to_do(server: http.Server) -> None:
    with pytest.raises(CommonplaceError, match=f"--http {server.address}: cannot listen: .*another port") as caught:
        http.serve(server.address, CollectorRegistry(), lambda: "")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
