"""A small open-loop HTTP client: requests leave on a timetable, and latency counts from when each was due.

A client that waits for an answer before it sends the next request measures a slow server kindly; this one does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Check = Callable[[int, bytes], None]


@dataclass(frozen=True)
class Answered:
    """Seconds from when a request was due to its answer, and the status; 0 where the connection failed."""

    seconds: float
    status: int


class Connection:
    """One kept connection to a loopback port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes, headers: str = "") -> tuple[int, bytes]:
        """Status and body of an answer; the connection is made anew where it has ended."""
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        try:
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(answer.split("content-length:")[1].split("\r\n")[0])
            return int(answer[9:12]), await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            raise

    def close(self) -> None:
        """End the connection."""
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


async def open_loop(
    port: int,
    path: str,
    bodies: Sequence[bytes],
    rate: float,
    seconds: float,
    *,
    connections: int = 32,
    check: Check | None = None,
    until: Callable[[], bool] | None = None,
) -> list[Answered]:
    """Send ``rate`` requests a second for a time; ``until`` ends it earlier."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(connections):
        free.put_nowait(Connection(port))
    found: list[Answered] = []

    async def send(due: float, body: bytes) -> None:
        connection = await free.get()
        try:
            status, answer = await connection.post(path, body)
            if check is not None:
                check(status, answer)
        except (OSError, asyncio.IncompleteReadError):
            status = 0
        finally:
            free.put_nowait(connection)
        found.append(Answered(time.perf_counter() - due, status))

    begin, tasks = time.perf_counter(), set()
    for number in range(int(rate * seconds)):
        due = begin + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if until is not None and until():
            break
        task = asyncio.create_task(send(due, bodies[number % len(bodies)]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    while not free.empty():
        free.get_nowait().close()
    return found
