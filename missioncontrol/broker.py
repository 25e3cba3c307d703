"""Kombu's Redis transport, where strangers may have written to the queue: what is no task of ours is dropped.

Kombu and Celery take what the queue holds for their own: an item that is no JSON, lacks a member, or stands under a key
of another type ends the worker. What reaches Celery from here has the shape of a task, and its body was sealed by one
of our processes (missioncontrol.sealed_tasks).
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import redis
from kombu.transport import redis as kombu_redis
from kombu.transport.virtual import Empty

from apps.lib import passed
from apps.lib.border import MALFORMED, REFUSED, is_spoilt
from missioncontrol.sealed_tasks import CONTENT_TYPE

NAME = "celery"
"""Under which the queue's junk is counted."""
PLAIN: dict[str, tuple[Any, ...]] = {
    "eta": (None,),
    "group": (None,),
    "retries": (None, 0),
    "timelimit": (None, [None, None]),
    "shadow": (None,),
    "stamps": (None, {}),
    "stamped_headers": (None, []),
}
"""What the headers of our tasks say, which are neither delayed nor retried nor part of anything."""


class Channel(kombu_redis.Channel):
    """Reads the queue."""

    def _brpop_read(self, **options: Any) -> bool:
        try:
            return bool(super()._brpop_read(**options))
        except (json.JSONDecodeError, UnicodeDecodeError):
            passed.count(MALFORMED, NAME)
            return True
        except redis.ResponseError as error:
            if not is_spoilt(error):
                raise
            self._clear()
            raise Empty from None

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        try:
            super()._put(queue, message, **kwargs)
        except redis.ResponseError as error:
            if not is_spoilt(error):
                raise
            self._clear(queue)
            super()._put(queue, message, **kwargs)

    def get_table(self, exchange: str) -> list[Any]:
        """The queues bound to ``exchange``: three words each, whatever else the set holds."""
        try:
            found = super().get_table(exchange)
        except (redis.ResponseError, UnicodeDecodeError) as error:
            if isinstance(error, redis.ResponseError) and not is_spoilt(error):
                raise
            with self.conn_or_acquire() as client:
                client.delete(self.keyprefix_queue % exchange)
            passed.count(MALFORMED, NAME)
            return []
        return [words for words in found if len(words) == 3]

    def _clear(self, *queues: str) -> None:
        """Delete queues that are no lists."""
        names = [self._q_for_pri(queue, step) for queue in queues or self.active_queues for step in self.priority_steps]
        with self.conn_or_acquire() as client:
            for name in names:
                if client.type(name) not in {b"list", b"none"}:
                    client.delete(name)
                    passed.count(MALFORMED, NAME)


class Transport(kombu_redis.Transport):
    """Hands tasks over."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        why = refusal(message)
        if why is None:
            super()._deliver(message, queue)
        else:
            passed.count(why, NAME)


def refusal(message: Any) -> str | None:
    """Under which metric a message is dropped; None for one that Celery may see.

    Its headers are not under the seal, so they may say no more than ours do: which task, and when it is too late.
    """
    match message:
        case {
            "body": str(),
            "content-type": kind,
            "headers": {"task": str(), "id": str(), **headers},
            "properties": {"delivery_tag": str(), "delivery_info": {}},
        }:
            usual = all(headers.get(name) in plain for name, plain in PLAIN.items())
            expires = headers.get("expires")
            if not usual or not (expires is None or (isinstance(expires, str) and _is_time(expires))):
                return MALFORMED
            return None if kind == CONTENT_TYPE else REFUSED
    return MALFORMED


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
