"""Many commands to Redis and their answers at once: what redis-py does around each answer costs as much as ten of them.

Not by a script either. One that writes more than once is a transaction in the server's file, and a Redis 7.0 without a
user ``default`` refuses transactions when it reads that file again: all of it would be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis
import redis.asyncio
from redis.exceptions import ResponseError

Command = tuple[str | bytes, ...]


async def exchange(client: redis.asyncio.Redis, commands: Sequence[Command]) -> list[bytes | int | Exception]:
    """Send them in order; the answers, each of which may be an error of the server's. They are commands that answer
    by a text or a number. RedisError or OSError when nothing is known of any of them."""
    pool: Any = client.connection_pool
    connection = await pool.get_connection()
    try:
        await connection.send_packed_command(b"".join(map(_packed, commands)))
        return await _answers(connection, len(commands))
    except BaseException:
        # What was not read is nobody else's answer.
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)


def _packed(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type] # Its types know one argument only.
    return packed


async def _answers(connection: Any, count: int) -> list[bytes | int | Exception]:
    # It has what came together with an answer that was read.
    reader = connection._parser._reader
    answers: list[bytes | int | Exception] = []
    while len(answers) < count:
        answer = reader.gets()
        if type(answer) is not bytes and type(answer) is not int and not isinstance(answer, Exception):
            # No whole one has come yet.
            try:
                answer = await connection.read_response()
            except ResponseError as error:
                answer = error
        answers.append(answer)
    return answers
