"""From a URL to a broker. What the URL's query may say is in docs/settings.md."""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast
from urllib.parse import urlsplit

from .base import Transport
from .secure import BrokerError

BROKERS: Final = {
    "redis": ("redis_streams", "RedisStreams"),
    "rediss": ("redis_streams", "RedisStreams"),
    "amqp": ("rabbitmq", "RabbitMQ"),
    "amqps": ("rabbitmq", "RabbitMQ"),
    "kafka": ("kafka", "Kafka"),
    "kafkas": ("kafka", "Kafka"),
}
"""Scheme → module and class. A module is imported when its broker is asked for: its driver may not be installed."""


def connect(url: str, *, keep: int = 0) -> Transport:
    """The broker at ``url``; no connection is made yet. ``keep`` bounds a log that we trim ourselves (Redis); 0 is its
    default. BrokerError for a URL that can't be one."""
    scheme = urlsplit(url).scheme
    if scheme not in BROKERS:
        known = ", ".join(f"{name}://" for name in BROKERS)
        raise BrokerError(f"A broker's URL begins with one of {known}, not {scheme or 'nothing'}://.")
    module, name = BROKERS[scheme]
    try:
        made = getattr(import_module(f".{module}", __package__), name)
    except ModuleNotFoundError as error:
        raise BrokerError(f"The bus is at a {scheme}:// URL, but the package {error.name} isn't installed.") from None
    options = {"keep": keep} if keep and module == "redis_streams" else {}
    return cast(Transport, made(url, **options))
