"""Counts round trips where they happen: on the connection between a client and the server.

:class:`Wire` is a Unix socket that hands everything on to the server's own socket, and reads the
messages as they pass. A round trip ends with the server's ReadyForQuery, whatever was sent before
it: one query, several in one message, or a pipeline that ends in Sync.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

_PORT = ".s.PGSQL.5432"
_LENGTH = struct.Struct("!I")
_CODE = struct.Struct("!II")
_ENCRYPTION = {80877103, 80877104}  # SSLRequest, GSSENCRequest: answered with a single byte
_CANCEL = 80877102
_CHUNK = 1 << 16


@dataclass
class Traffic:
    """What passed since :meth:`Wire.reset`.

    :ivar trips: how many times the client waited for the server.
    :ivar queries: the texts of the simple queries and of the statements to parse, in order.
    :ivar sent: bytes from the client.
    """

    trips: int = 0
    queries: list[str] = field(default_factory=list)
    sent: int = 0


class Wire:
    """A socket directory for clients: ``host=<directory>`` in their connection string.

    :param upstream: the server's own socket directory.
    """

    def __init__(self, upstream: Path) -> None:
        self._upstream = str(upstream / _PORT)
        self._lock = threading.Lock()
        self._traffic = Traffic()
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self.directory = Path(tempfile.mkdtemp(prefix="audit-wire-"))

    def __enter__(self) -> Wire:
        self._listener.bind(str(self.directory / _PORT))
        self._listener.listen()
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for open_one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                open_one.shutdown(socket.SHUT_RDWR)
            open_one.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def reset(self) -> Traffic:
        """Return what passed since the last call, and begin anew."""
        with self._lock:
            passed, self._traffic = self._traffic, Traffic()
        return passed

    @staticmethod
    def _start(target: Callable[..., None], *arguments: socket.socket) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._upstream)
            self._sockets += [client, server]
            self._start(self._from_client, client, server)
            self._start(self._from_server, server, client)

    def _from_client(self, client: socket.socket, server: socket.socket) -> None:
        pending, started = b"", False
        for chunk in _chunks(client):
            pending += chunk
            with self._lock:
                self._traffic.sent += len(chunk)
            if not started:
                started, pending = _skip_start(pending)
            if started:
                pending = self._read(pending, self._note_sent)
            if not _handed_on(server, chunk):
                break
        _hang_up(server)

    def _from_server(self, server: socket.socket, client: socket.socket) -> None:
        pending = b""
        for chunk in _chunks(server):
            pending += chunk
            # Counted before it is handed on: whoever has the answer finds it counted.
            pending = self._read(pending, self._note_received)
            if not _handed_on(client, chunk):
                break
        _hang_up(client)

    @staticmethod
    def _read(pending: bytes, note: Callable[[bytes, bytes], None]) -> bytes:
        """Give every whole message to ``note``, and return the beginning of the next one."""
        place = 0
        while len(pending) - place >= 5:
            end = place + 1 + _LENGTH.unpack_from(pending, place + 1)[0]
            if end > len(pending):
                break
            note(pending[place : place + 1], pending[place + 5 : end])
            place = end
        return pending[place:]

    def _note_sent(self, kind: bytes, body: bytes) -> None:
        if kind == b"Q":
            text = body[:-1]
        elif kind == b"P":
            text = body.split(b"\0", 2)[1]
        else:
            return
        with self._lock:
            self._traffic.queries.append(text.decode(errors="replace"))

    def _note_received(self, kind: bytes, _: bytes) -> None:
        if kind == b"Z":
            with self._lock:
                self._traffic.trips += 1


def _chunks(source: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            chunk = source.recv(_CHUNK)
        except OSError:
            return
        if not chunk:
            return
        yield chunk


def _handed_on(target: socket.socket, chunk: bytes) -> bool:
    try:
        target.sendall(chunk)
    except OSError:
        return False  # it has gone, or we are closed
    return True


def _hang_up(target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _skip_start(pending: bytes) -> tuple[bool, bytes]:
    """Pass over the messages without a type that open a connection."""
    while len(pending) >= _CODE.size:
        length, code = _CODE.unpack_from(pending)
        if len(pending) < length:
            break
        pending = pending[length:]
        if code not in _ENCRYPTION:
            return code != _CANCEL, pending
    return False, pending
