"""The system of a chaos run: brokers, a service with its outbox, Mission Control with its relay, and a group of two
consumers. Rules of routing send each key's events to one of the brokers."""

from __future__ import annotations

import itertools
import json
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from missioncontrol.launch.layout import SECRETS
from services.kit.env import BROKERS
from tests import postgres
from tests.brokers import Broker
from tests.chaos.parts import Part, Program
from tests.chaos.stores import GROUP, VARIABLE, set_goal
from tests.waiting import free_port

KEYS = 60
"""Of each publisher."""
LEASE_S = 5.0
LOGGED = "SELECT COUNT(DISTINCT position) FROM events_event WHERE type LIKE 'chaos.%'"


@dataclass
class Counts:
    """What a lane's databases hold."""

    handled: int = 0
    parked: int = 0
    logged: int = 0
    """In the event store: Mission Control's own, and those of the service by way of the archive."""


@dataclass
class Verdict:
    """What became of all that was accepted."""

    accepted: int = 0
    lost: int = 0
    not_in_log: int = 0
    out_of_order: int = 0
    double_effects: int = 0
    holes: int = 0
    redelivered: int = 0
    suppressed: int = 0
    parked: int = 0
    redriven: int = 0

    def __add__(self, other: Verdict) -> Verdict:
        both = {name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__}
        return Verdict(**both)

    @property
    def clean(self) -> bool:
        """Nothing lost, in order, once, and all that was parked handled in the end."""
        return not (self.lost or self.not_in_log or self.out_of_order or self.double_effects or self.holes) and (
            self.parked == self.redriven
        )


@dataclass
class System:
    """See the module. ``events`` are published by each of its two publishers."""

    brokers: dict[str, Broker]
    """Redis is one of them: rules are heard there."""
    folder: Path
    events: int
    poison_every: int
    database: postgres.Server | None
    parts: list[Part] = field(default_factory=list)
    _env: dict[str, str] = field(default_factory=dict)
    _engines: dict[str, Engine] = field(default_factory=dict)

    def prepare(self) -> None:
        """Databases, and the parts, not started yet."""
        self.folder.mkdir()
        (self.folder / "cause").touch()
        set_goal(self.folder, 0)
        stores = {name: self._store(name) for name in ("service", "consumer", "control")}
        self._engines = {name: _engine(url) for name, url in stores.items()}
        home = self.folder / "home"
        home.mkdir()
        env = {name.upper(): secrets.token_hex(32) for name in SECRETS} | {
            "MC_HOME": str(home),
            "MC_BUS_DEFAULT": next(iter(self.brokers)),
            "MC_BUS_KEYS": VARIABLE,
            "CLICKHOUSE_URL": f"http://127.0.0.1:{free_port()}",
            "OTEL_SDK_DISABLED": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        }
        env |= {BROKERS[kind]: broker.url for kind, broker in self.brokers.items()}
        if self.database is not None:
            env["DATABASE_URL"] = stores["control"]
        self._env = env
        self._run("manage.py", "migrate", "-v0")

        place, kinds = str(self.folder), ",".join(self.brokers)
        numbers = [kinds, str(KEYS), str(self.poison_every)]
        member = ("-m", "tests.chaos.member", stores["consumer"], place)
        programs: Mapping[str, tuple[str, ...]] = {
            "service": ("-m", "tests.chaos.service", stores["service"], place, *numbers),
            "publisher": ("-m", "tests.chaos.control", place, *numbers),
            "relay": ("manage.py", "relay"),
            "consumer one": (*member, "one", str(LEASE_S)),
            "consumer two": (*member, "two", str(LEASE_S)),
        }
        self.parts = [Part(kind, kind, broker) for kind, broker in self.brokers.items()]
        if self.database is not None:
            self.parts.append(Part("database", "PostgreSQL", self.database))
        for name, argv in programs.items():
            program = Program(self.folder / f"{name.replace(' ', '-')}.log", env, *argv)
            self.parts.append(Part(name.split()[0], name, program))

    def direct(self) -> None:
        """Publish the rules."""
        self._run("-m", "tests.chaos.operator", "rules", ",".join(self.brokers))

    def _run(self, *argv: str) -> None:
        """A program that ends well."""
        log = self.folder / "once.log"
        program = Program(log, self._env, *argv)
        program.start()
        assert program.process is not None
        assert program.process.wait(300) == 0, log.read_text()

    def _store(self, name: str) -> str:
        if self.database is None:
            return f"sqlite:///{self.folder / 'home' / 'control' if name == 'control' else self.folder / name}.sqlite3"
        database = f"chaos_{name}"
        administered = create_engine(_driver(self.database.url), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with administered.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {database}"))
        return make_url(self.database.url).set(database=database).render_as_string(hide_password=False)

    # -- looking -----------------------------------------------------------------------------------

    def _number(self, store: str, query: str) -> int:
        """An answer, 0 while the database does not give any."""
        try:
            with self._engines[store].connect() as connection:
                return int(connection.execute(text(query)).scalar_one())
        except SQLAlchemyError:
            return 0

    def counts(self) -> Counts:
        """As it is now."""
        return Counts(
            self._number("consumer", "SELECT COUNT(*) FROM seen"),
            self._number("consumer", "SELECT COUNT(*) FROM parked"),
            self._number("control", LOGGED),
        )

    def redrive(self) -> int:
        """Have an operator ask for everything that is parked; how much that is."""
        with self._engines["consumer"].connect() as connection:
            rows = connection.execute(text("SELECT source, event_id FROM parked ORDER BY id")).all()
        file = self.folder / "redrive.json"
        file.write_text(json.dumps([{"source": row.source, "event_id": row.event_id} for row in rows]))
        self._run("-m", "tests.chaos.operator", "redrive", str(file))
        return len(rows)

    def unsent(self) -> str:
        """Who has not accepted or sent everything yet, for a person."""
        recorded = self._number("service", "SELECT last FROM recorded")
        return f"{recorded} recorded by the service; {self.counts()} of {2 * self.events}"

    def verdict(self, parked: int) -> dict[str, Verdict]:
        """Count everything, when all is quiet, by broker. ``parked`` were before their cause went; what is counted in
        deliveries stands with the first."""
        with self._engines["consumer"].connect() as connection:
            rows = connection.execute(text("SELECT source, key, n FROM seen ORDER BY id")).all()
            left = int(connection.execute(text("SELECT COUNT(*) FROM parked")).scalar_one())
            holes = int(connection.execute(text("SELECT COALESCE(SUM(missing), 0) FROM heard")).scalar_one())
        heard: dict[tuple[str, str], list[int]] = {}
        for source, key, n in rows:
            heard.setdefault((source, key), []).append(n)
        kinds = list(self.brokers)
        verdicts = {kind: Verdict() for kind in kinds}
        for source, prefix in (("tests", "s"), ("mission-control", "c/")):
            for key in range(KEYS):
                verdict, numbers = verdicts[kinds[key % len(kinds)]], heard.pop((source, f"{prefix}{key}"), [])
                wanted = range(key, self.events, KEYS)
                verdict.accepted += len(wanted)
                verdict.lost += len(set(wanted) - set(numbers))
                verdict.double_effects += len(numbers) - len(set(numbers))
                verdict.out_of_order += sum(later < earlier for earlier, later in itertools.pairwise(numbers))
        assert not heard, f"effects of what nobody published: {list(heard)[:5]}"
        told: Counter[str] = Counter()
        for line in (self.folder / "deliveries").read_text().splitlines():
            for word in line.split():
                what, _, count = word.partition("=")
                told[what] += int(count)
        verdicts["log and rows"] = Verdict(
            not_in_log=2 * self.events - self.counts().logged,
            holes=holes,
            suppressed=told["duplicate"],
            redelivered=max(sum(told.values()) - told["later"] - told["held"] - 2 * self.events, told["duplicate"]),
            parked=parked,
            redriven=parked - left,
        )
        return verdicts

    def ripen(self) -> None:
        """Wait until what the group needs outlives a kill."""
        for broker in self.brokers.values():
            for group in (GROUP, "archive"):
                broker.ripen(group)


def _driver(url: str) -> str:
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def _engine(url: str) -> Engine:
    return create_engine(_driver(url) if not url.startswith("sqlite") else url, poolclass=NullPool)
