"""A TCP proxy in front of a server, for what networks do: be slow, swallow, refuse, and break at the worst byte.

It runs in a thread with an event loop of its own, so that tests stay synchronous. A fault is in force for all
connections, open ones too, when the call that sets it returns.

Not covered: packets. The kernel acknowledges what the proxy swallows, and accepts connections during a black hole, so
that neither TCP_USER_TIMEOUT nor a connect timeout is put to the test.
"""

import asyncio
import math
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from tests.servers.processes import LOOPBACK, free_port

COMMIT = re.compile(rb"COMMIT;?\0", re.IGNORECASE)
"""Postgres: the whole text of a simple query, or of a statement to be parsed."""
LPUSH = re.compile(rb"\$5\r\nLPUSH\r\n", re.IGNORECASE)
"""Redis: a word of a command, alone or in a pipeline."""
COMPLETE_UPLOAD = re.compile(rb"POST /[^ ]*[?&]uploadId=[^ ]+ HTTP/1\.1\r\n")
"""S3: CompleteMultipartUpload."""

READ_BYTES = 65_536
LONGEST_MATCH_BYTES = 4096
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
CONTROL_TIMEOUT_S = 10


@dataclass(frozen=True)
class Faults:
    """What is wrong at the moment: nothing."""

    latency_s: float = 0.0
    bytes_per_s: float = math.inf
    piece_bytes: int = READ_BYTES
    pause_s: float = 0.0
    limit_bytes: int | None = None
    cut_after: re.Pattern[bytes] | None = None
    cuts_left: int = 0


@dataclass(eq=False)
class Connection:
    """A client's connection and ours to the server."""

    from_client: asyncio.StreamReader
    to_client: asyncio.StreamWriter
    from_server: asyncio.StreamReader
    to_server: asyncio.StreamWriter
    said: bytes = b""
    """The last of what the client said, in which a match may have begun."""
    is_doomed: bool = False
    replied_bytes: int = 0

    def heard(self, chunk: bytes, pattern: re.Pattern[bytes]) -> bool:
        """Whether the chunk completes a match."""
        said = self.said + chunk
        match = pattern.search(said)
        self.said = said[match.end() if match else -LONGEST_MATCH_BYTES :]
        return match is not None

    def still_allowed(self, limit_bytes: int | None) -> int | None:
        """How much of a reply may pass; None for all of it."""
        return None if limit_bytes is None else limit_bytes - self.replied_bytes

    def end(self) -> None:
        """Let the client read what it was sent, and then see an end; the server is reset."""
        self.to_client.close()
        _reset(self.to_server)

    def cut(self) -> None:
        """Reset the client; the server may read what it was sent, and then sees an end."""
        _reset(self.to_client)
        self.to_server.close()

    def reset(self) -> None:
        """Reset both, as far as they are open."""
        _reset(self.to_client)
        _reset(self.to_server)


class FaultProxy:
    """Passes connections to its port on to a server, as badly as it was told to; `counts` says what it did."""

    def __init__(self, host: str, port: int) -> None:
        self.port = free_port()
        self.counts: Counter[str] = Counter()
        self._upstream = (host, port)
        self._faults = Faults()
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._flowing = asyncio.Event()
        self._listener: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self.heal()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def heal(self) -> None:
        """Take all faults back: what was held flows, what was cut stays cut."""
        self._do(self._heal())

    def latency(self, seconds: float) -> None:
        """Let each reply come later. One read of at most 64 KiB waits at a time, so that long replies get slow too."""
        self._do(self._change(latency_s=seconds))

    def bandwidth(self, bytes_per_s: float) -> None:
        """Pass so much in each direction."""
        self._do(self._change(bytes_per_s=bytes_per_s, piece_bytes=max(1, min(READ_BYTES, int(bytes_per_s / 10)))))

    def slicer(self, piece_bytes: int, pause_s: float = 0.001) -> None:
        """Pass everything in small pieces."""
        self._do(self._change(piece_bytes=piece_bytes, pause_s=pause_s))

    def limit(self, reply_bytes: int) -> None:
        """Pass so many bytes of replies to each connection from now on, then end it as if all had been said."""
        self._do(self._limit(reply_bytes))

    def cut_after(self, pattern: bytes | re.Pattern[bytes], times: int = 1) -> None:
        """Let the server hear what matches, and cut when it replies: done, and the client does not know.

        Each of the next `times` matches costs its connection. The reply is the first that comes after the match, so
        that what matches should be carried out in one round trip: of a statement that is parsed first and executed
        later, only the parsing is.
        """
        self._do(self._change(cut_after=re.compile(pattern), cuts_left=times))

    def black_hole(self) -> None:
        """Pass nothing and close nothing. What is sent meanwhile arrives after `heal`, as after a partition."""
        self._do(self._black_hole())

    def refuse(self) -> None:
        """Refuse new connections; open ones live on."""
        self._do(self._refuse())

    def reset_all(self) -> None:
        """Reset the connections that are open now."""
        self._do(self._reset_all())

    def _do(self, change: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(change, self._loop).result(CONTROL_TIMEOUT_S)

    async def _change(self, **faults: Any) -> None:
        self._faults = replace(self._faults, **faults)

    async def _limit(self, reply_bytes: int) -> None:
        for connection in self._connections:
            connection.replied_bytes = 0
        await self._change(limit_bytes=reply_bytes)

    async def _heal(self) -> None:
        self._faults = Faults()
        self._flowing.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, LOOPBACK, self.port, limit=READ_BYTES)

    async def _black_hole(self) -> None:
        self._flowing.clear()

    async def _refuse(self) -> None:
        if self._listener:
            self._listener.close()
        self._listener = None

    async def _reset_all(self) -> None:
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.counts["reset"] += len(tasks)

    async def _close(self) -> None:
        await self._refuse()
        await self._reset_all()

    def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.counts["accepted"] += 1
        task = self._loop.create_task(self._serve(from_client, to_client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            await self._flowing.wait()
            server = await asyncio.open_connection(*self._upstream)
            await self._carry(Connection(from_client, to_client, *server))
        except OSError:
            self.counts["unreachable"] += 1
        finally:
            _reset(to_client)

    async def _carry(self, connection: Connection) -> None:
        self._connections.add(connection)
        try:
            with suppress(OSError):
                await asyncio.gather(self._carry_requests(connection), self._carry_replies(connection))
        finally:
            connection.reset()
            self._connections.discard(connection)

    async def _carry_requests(self, connection: Connection) -> None:
        while chunk := await connection.from_client.read(READ_BYTES):
            self._doom_if_matched(connection, chunk)
            await self._send(connection.to_server, chunk, "request_bytes")
        connection.to_server.write_eof()

    def _doom_if_matched(self, connection: Connection, chunk: bytes) -> None:
        faults = self._faults
        if faults.cuts_left and faults.cut_after and connection.heard(chunk, faults.cut_after):
            self._faults = replace(faults, cuts_left=faults.cuts_left - 1)
            connection.is_doomed = True

    async def _carry_replies(self, connection: Connection) -> None:
        while (chunk := await connection.from_server.read(READ_BYTES)) and await self._reply(connection, chunk):
            pass
        connection.end()

    async def _reply(self, connection: Connection, chunk: bytes) -> bool:
        """Pass on what may pass; whether more may."""
        await asyncio.sleep(self._faults.latency_s)
        await self._flowing.wait()
        if connection.is_doomed:
            self.counts["cut"] += 1
            connection.cut()
            return False
        allowed = chunk[: connection.still_allowed(self._faults.limit_bytes)]
        connection.replied_bytes += len(allowed)
        await self._send(connection.to_client, allowed, "reply_bytes")
        self.counts["limited"] += len(allowed) < len(chunk)
        return len(allowed) == len(chunk)

    async def _send(self, writer: asyncio.StreamWriter, chunk: bytes, counted_as: str) -> None:
        while chunk:
            await self._flowing.wait()
            faults = self._faults
            piece, chunk = chunk[: faults.piece_bytes], chunk[faults.piece_bytes :]
            self.counts[counted_as] += len(piece)
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(faults.pause_s + len(piece) / faults.bytes_per_s)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN, and without what was not sent yet; nothing where it is closed already."""
    if not writer.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        writer.transport.abort()
