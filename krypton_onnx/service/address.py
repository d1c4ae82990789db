"""Where the service listens."""

import contextlib
import socket
from collections.abc import Iterator

from krypton_onnx.errors import KryptonError


@contextlib.contextmanager
def bound_to(host: str, port: int) -> Iterator[socket.socket]:
    """An address that is the service's; who connects is heard as soon as it listens.

    Args:
        host: name or address; the service is reached by that of one interface, or, with 0.0.0.0, by all.
        port: 0 for any that is free.

    Raises:
        KryptonError: it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise KryptonError(
            f"The service cannot listen on {host}, port {port} ({error.strerror or error}): choose another --host or "
            "--port."
        ) from error
    with bound:
        yield bound


def url_of(bound: socket.socket) -> str:
    """``http://127.0.0.1:8080``."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
