"""Health and metrics over HTTP: /livez (the process answers), /readyz (it serves, or why not), /metrics (Prometheus).

Plain HTTP, meant for loopback or a network of the operator's own; nothing secret is shown, nothing can be changed.
"""

import logging
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from socketserver import BaseServer
from threading import Thread
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from commonplace.errors import CommonplaceError

_LOG: Final = logging.getLogger(__name__)

REQUEST_TIMEOUT_S: Final = 5.0
"""A client that says nothing for so long is hung up on, so that it holds no thread."""

PLAIN: Final = "text/plain; charset=utf-8"


class Server:
    """A running server; `address` is HOST:PORT as bound, also where port 0 was asked for."""

    def __init__(self, server: ThreadingHTTPServer, host: str) -> None:
        self._server = server
        self.address = f"{host}:{server.server_address[1]}"
        self._thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(address: str, registry: CollectorRegistry, ready: Callable[[], str]) -> Server:
    """Serve on HOST:PORT, port 0 for any free one; `ready` answers "" or the reason why not, from another thread.

    Raises `CommonplaceError` when the address can't be listened on.
    """
    host, _, port = address.rpartition(":")

    class Handler(_Handler):
        answers: dict[str, Callable[[], tuple[int, str, bytes]]] = {  # noqa: RUF012 - read only
            "/livez": lambda: (200, PLAIN, b"ok\n"),
            "/readyz": lambda: _readiness(ready()),
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
        }

    try:
        server = _Listener(host.strip("[]"), int(port), Handler)
    except (OSError, OverflowError) as e:
        raise CommonplaceError(
            f"--http {address}: cannot listen: {getattr(e, 'strerror', None) or e}; name another port, or 0 for any"
        ) from e
    return Server(server, host)


def _readiness(reason: str) -> tuple[int, str, bytes]:
    return (503, PLAIN, f"not ready: {reason}\n".encode()) if reason else (200, PLAIN, b"ok\n")


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        super().__init__((host, port), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no event."""


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server_version = "commonplace"
    sys_version = ""
    answers: dict[str, Callable[[], tuple[int, str, bytes]]]
    server: BaseServer

    def do_GET(self) -> None:
        answer = self.answers.get(self.path.partition("?")[0])
        try:
            status, kind, body = answer() if answer else (404, PLAIN, b"there are /livez, /readyz and /metrics\n")
        except Exception:  # noqa: BLE001 (whatever a figure raised, the client is told and the log has it)
            _LOG.exception("%s could not be answered", self.path)
            status, kind, body = 500, PLAIN, b"this could not be answered; the log says why\n"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not logged."""
