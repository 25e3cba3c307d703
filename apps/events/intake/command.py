"""``manage.py events publish``: what the REST API takes, from arguments, a file or standard input."""

from __future__ import annotations

import getpass
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from django.db import transaction

from apps.events.intake import actions
from services.kit.events.cloudevent import EventError

HELP = "Publish one event from arguments, or many from JSON lines: drafts, or CloudEvents (lines with a specversion)."
MAX_LINE = 2 * 1024 * 1024
"""Bytes of one event as it is written."""
AT_ONCE = 500
"""Lines in one transaction."""


def add(commands: Any) -> None:
    """The subcommand ``publish``."""
    parser = commands.add_parser("publish", help=HELP, description=HELP)
    parser.set_defaults(handle=run)
    parser.add_argument("type", nargs="?", help="of one event; without it, lines are read")
    parser.add_argument("data", nargs="?", default="{}", help="its data, a JSON object")
    parser.add_argument("--subject", default="")
    parser.add_argument("--key", default="", help="its partition key")
    parser.add_argument("--id", default="", help="made up when left out")
    parser.add_argument("--file", default="-", help="JSON lines to publish; - is standard input")
    parser.add_argument("--as", dest="login", default="", help="publish as client/LOGIN (default: you on this machine)")


def run(said: Namespace, out: Any) -> None:
    """EventError or Refused for the first that can't be published; those in the chunks before it are."""
    options = vars(said)
    login = options["login"] or getpass.getuser()
    chunk: list[tuple[int, dict[str, Any]]] = []
    for number, item in _items(options):
        if chunk and (len(chunk) == AT_ONCE or ("specversion" in chunk[-1][1]) != ("specversion" in item)):
            _publish(chunk, login, out)
            chunk = []
        chunk.append((number, item))
    if chunk:
        _publish(chunk, login, out)


def _publish(chunk: list[tuple[int, dict[str, Any]]], login: str, out: Any) -> None:
    items = [item for _, item in chunk]
    with transaction.atomic():
        outcomes = actions.take(items, login, whole="specversion" in items[0])
        for (number, _), one in zip(chunk, outcomes, strict=True):
            if one.problem is not None:
                raise EventError(f"Line {number}: {one.problem.detail}")
    for one in outcomes:
        event = one.event
        assert event is not None  # noqa: S101 - or it had a problem
        where = "" if event.position is None else f" at {event.position}"
        out.write(f"{event.event_id}{where}{' (was there)' if one.repeated else ''}")


def _items(options: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    if options["type"]:
        draft = {"type": options["type"], "data": _json(options["data"], "The data")}
        said = {"subject": options["subject"], "partitionkey": options["key"], "id": options["id"]}
        yield 1, draft | {name: value for name, value in said.items() if value}
        return
    if options["file"] == "-":
        yield from _lines(sys.stdin.buffer)
        return
    try:
        with Path(options["file"]).open("rb") as file:
            yield from _lines(file)
    except OSError as error:
        raise EventError(f"{options['file']} can't be read: {error.strerror}.") from None


def _lines(file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise EventError(f"Line {number} is longer than {MAX_LINE:,} bytes.")
        if not line.strip():
            continue
        item = _json(line, f"Line {number}")
        if not isinstance(item, dict):
            raise EventError(f"Line {number} is no JSON object.")
        yield number, item


def _json(raw: bytes | str, what: str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError(f"{what} is not JSON: {error}.") from None
