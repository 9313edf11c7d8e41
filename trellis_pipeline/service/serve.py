"""Running the service: uvicorn around the application, until somebody says stop.

SIGTERM and Ctrl-C end it in good order: no new requests, a few seconds for those under way, and what was
being generated goes on with the next start.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.generator import Generator
from trellis_pipeline.service.app import Service, build_service
from trellis_pipeline.service.faults import FaultPlan
from trellis_pipeline.service.options import ServiceOptions, check_bind
from trellis_pipeline.stopping import STOPPING, stop_requests

GRACE_SECONDS = 5


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. port: 0 for any free one. Raises ConfigError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(f"the service cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listener


class Server(uvicorn.Server):
    """uvicorn with two changes: a signal that was obeyed is not raised once more, so that the caller goes on,
    and a service that cannot open its folder ends the server with an error that can be asked for.

    announce: called with the server's address, `http://HOST:PORT`, when it serves.
    """

    def __init__(self, config: uvicorn.Config, service: Service, announce: Callable[[str], None]) -> None:
        super().__init__(config)
        self.service = service
        self._announce = announce
        service.keep_failure = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        if self.service.failure is not None:
            self.should_exit = True
        elif self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            self._announce(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until somebody says stop. Raises the service's own error where it could not begin."""
        super().run(sockets)
        if self.service.failure is not None:
            raise self.service.failure

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Only the main thread may listen to signals; elsewhere, set `should_exit`."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with stop_requests():  # what is heard here is obeyed here: nobody shall insist on it afterwards
            before = {number: signal.signal(number, self.handle_exit) for number in STOPPING}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)


def make_server(
    options: ServiceOptions,
    generator: Generator,
    faults: FaultPlan | None = None,
    *,
    announce: Callable[[str], None] = lambda _address: None,
    grace_seconds: int = GRACE_SECONDS,
) -> Server:
    """A server that has not begun. grace_seconds: for requests under way when it ends.

    Raises ConfigError where it would be open to the network without keys.
    """
    check_bind(options)
    app = build_service(options, generator, faults)
    config = uvicorn.Config(
        app,
        log_config=None,
        # Query strings hold signatures, so nobody writes requests down.
        access_log=False,
        lifespan="on",
        server_header=False,
        # Behind a proxy, `public_url` says what links look like; headers that anybody can send do not.
        proxy_headers=False,
        timeout_graceful_shutdown=grace_seconds,
        timeout_keep_alive=30,
        ws="none",
    )
    return Server(config, app.state.service, announce)


def serve(
    options: ServiceOptions,
    generator: Generator,
    *,
    faults: FaultPlan | None = None,
    announce: Callable[[str], None] = lambda _address: None,
    grace_seconds: int = GRACE_SECONDS,
) -> None:
    """Serve until SIGTERM or Ctrl-C. announce: told the address when it serves; the API is at its `/v1`.

    Raises ConfigError for an address or a folder that is refused or taken, StorageUnavailable for a folder
    that cannot be used.
    """
    server = make_server(options, generator, faults, announce=announce, grace_seconds=grace_seconds)
    with bind(options.host, options.port) as listener:
        server.run(sockets=[listener])
