"""What terminates TLS before a Postgres, as poolers do: the Postgres that pip installs cannot itself."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ml_platform_tests.servers.certificates import Certificates

_SSL_REQUEST = bytes((0, 0, 0, 8, 4, 210, 22, 47))
"""https://www.postgresql.org/docs/current/protocol-message-formats.html"""


@contextmanager
def tls_terminator(port: int, backend: int, tls: Certificates) -> Iterator[None]:
    """Listen at a port and pass on to another what comes encrypted; what does not is refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    with socket.create_server(("127.0.0.1", port)) as listener:
        threading.Thread(target=_accept, args=(listener, context, backend), daemon=True).start()
        yield


def _accept(listener: socket.socket, context: ssl.SSLContext, backend: int) -> None:
    with suppress(OSError):  # closed
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, context, backend), daemon=True).start()


def _serve(client: socket.socket, context: ssl.SSLContext, backend: int) -> None:
    with client, suppress(OSError):
        if client.recv(len(_SSL_REQUEST), socket.MSG_WAITALL) != _SSL_REQUEST:
            return
        client.sendall(b"S")
        with (
            context.wrap_socket(client, server_side=True) as secured,
            socket.create_connection(("127.0.0.1", backend)) as server,
        ):
            back = threading.Thread(target=_pass_on, args=(server, secured), daemon=True)
            back.start()
            _pass_on(secured, server)
            back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
