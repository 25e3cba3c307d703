"""Names on Redis that more than one process uses: the wire between siblings that never import each other.

Only names and the meaning of what is stored under them. What is said there has its shape in apps.lib.messages, goes
sealed (services.kit.seal) and is read through apps.lib.border; nudges, locks, counts and events are as they are said
here.
"""

from __future__ import annotations

from typing import Final

from services.kit.events import routing

# -- configuration: control → gateway workers ---------------------------------------------------
CONFIG_CHANNEL: Final = "mc:config"
"""Pub/sub. The number of the newest published revision, as decimal text."""
CONFIG_CURRENT: Final = "mc:config:current"
"""String. The newest ``Document`` (apps.gateway.core.config) as JSON, signed (services.kit.signature)."""
GATEWAY_WORKERS: Final = "mc:gateway:workers"
"""Hash, worker id → ``WorkerBeat``; refreshed every 2 s.
The acknowledgement of a revision: readers ignore an entry whose ``at`` is over 10 s old."""

# -- health: monitor → gateway workers, live feed ------------------------------------------------
HEALTH_CHANNEL: Final = "mc:health"
"""Pub/sub. One ``Verdict``."""
HEALTH_STATE: Final = "mc:health:state"
"""Hash, "<service>/<name>" → the ``Verdict`` last published, with what the last check found."""
CHECKS_CHANNEL: Final = "mc:checks"
"""Pub/sub. A nudge, empty: somebody changed how instances are checked. The monitor looks every 5 s too."""
MONITOR_LEASE: Final = "mc:health:lease"
"""String with expiry: the worker that holds rounds of health checks."""

# -- breakers: gateway workers → each other, monitor, live feed ----------------------------------
BREAKER_STATE: Final = "mc:breaker:state"
"""Hash, "<service>|<worker>" → ``BreakerReport``; refreshed on change and every 2 s."""
BREAKER_TRANSITIONS: Final = "mc:breaker:transitions"
"""Stream (about 10,000 kept): field ``m`` is a ``BreakerTransition``."""
BREAKER_OPENED: Final = "mc:breaker:opened"
"""Pub/sub. ``BreakerOpened``."""

# -- limits: gateway workers ---------------------------------------------------------------------
LIMIT_PREFIX: Final = "mc:limit:"
"""String per (policy, consumer): GCRA's theoretical arrival time, microseconds."""

# -- events --------------------------------------------------------------------------------------
OUTBOX_CHANNEL: Final = "mc:outbox"
"""Pub/sub. A nudge, empty: rows wait in the outbox. The relay also polls, so a lost nudge costs 5 s."""

LOG_CHANNEL: Final = "mc:log"
"""Pub/sub. A nudge, empty: events got positions, so that readers of the log find something new."""
SUBSCRIPTIONS_CHANNEL: Final = "mc:subscriptions"
"""Pub/sub. A nudge, empty: somebody changed a subscription, or wants letters tried. Relays look every 5 s too."""
ROUTES_CURRENT: Final = routing.CURRENT
ROUTES_CHANNEL: Final = routing.CHANNEL
"""Rules of routing, which services follow too: their kit says what they are."""

# -- live feed: the aggregator → web processes ---------------------------------------------------
LIVE_LEADER: Final = "mc:live:leader"
"""String with expiry: the web process whose aggregator builds the frames."""
LIVE_FRAMES: Final = "mc:live:frames"
"""Stream (a few minutes kept), ids ``<epoch>-<seq>``: field ``m`` is a ``Frame``, sealed for its id by the control
plane's own key; every 60th delta carries the whole state too."""
LIVE_WATCHED: Final = "mc:live:watched"
"""String with expiry: some web process has browsers, so the leader builds frames."""
LIVE_WAKE: Final = "mc:live:wake"
"""Pub/sub. A nudge, empty: a browser has come to a process that does not lead."""

# -- processes without a port --------------------------------------------------------------------
HEARTBEAT_PREFIX: Final = "mc:alive:"
"""String with expiry per process (worker, beat, relay) and for ``MONITOR``: ``Alive``; present means ready."""
MONITOR: Final = "monitor"
"""The name under which rounds of health checks show that they are held."""

TYPES: Final = {
    CONFIG_CURRENT: "string",
    ROUTES_CURRENT: "string",
    GATEWAY_WORKERS: "hash",
    HEALTH_STATE: "hash",
    MONITOR_LEASE: "string",
    BREAKER_STATE: "hash",
    BREAKER_TRANSITIONS: "stream",
    LIVE_LEADER: "string",
    LIVE_FRAMES: "stream",
    LIVE_WATCHED: "string",
}
"""The type of each key of ours with a fixed name: one of another type is nobody's and is cleared away."""
