"""Names on Redis that more than one process uses: the wire between siblings that never import each other.

Only names and the meaning of what is stored under them; each side encodes and decodes for itself.
Times in values are wall-clock seconds. All values are UTF-8 JSON unless said otherwise.
"""

from __future__ import annotations

from typing import Final

# -- configuration: control → gateway workers ---------------------------------------------------
CONFIG_CHANNEL: Final = "mc:config"
"""Pub/sub. The number of the newest published revision, as decimal text."""
CONFIG_CURRENT: Final = "mc:config:current"
"""String. The newest ``Document`` (apps.gateway.core.config) as JSON."""
GATEWAY_WORKERS: Final = "mc:gateway:workers"
"""Hash, worker id → {"revision", "digest", "at", "pid", "node", "dropped"}; refreshed every 2 s.
The acknowledgement of a revision: readers ignore an entry whose ``at`` is over 10 s old."""

# -- health: monitor → gateway workers, live feed ------------------------------------------------
HEALTH_CHANNEL: Final = "mc:health"
"""Pub/sub. One verdict: {"instance": "<service>/<name>", "state", "at", "version"}."""
HEALTH_STATE: Final = "mc:health:state"
"""Hash, "<service>/<name>" → the verdict last published, plus "checked_at", "latency_ms", "detail"."""

# -- breakers: gateway workers → each other, monitor, live feed ----------------------------------
BREAKER_STATE: Final = "mc:breaker:state"
"""Hash, "<service>|<worker>" → {"state", "since", "forced", "calls", "failure_rate", "slow_rate",
"retry_at", "at", "ejected", "panic", "in_flight", "limit"}; ``state`` is closed, open or half_open; rates are 0..1;
refreshed on change and every 2 s. ``ejected`` is a list of {"instance", "since", "until", "reason"}; ``panic``: too few
instances look fit, so all are tried; ``limit`` is how many requests may be in flight now."""
BREAKER_TRANSITIONS: Final = "mc:breaker:transitions"
"""Stream (about 10,000 kept): service, worker, from, to, reason, at."""
BREAKER_OPENED: Final = "mc:breaker:opened"
"""Pub/sub. A worker opened a breaker and its peers follow: {"service", "worker", "until", "at"}."""

# -- limits: gateway workers ---------------------------------------------------------------------
LIMIT_PREFIX: Final = "mc:limit:"
"""String per (policy, consumer): GCRA's theoretical arrival time, microseconds."""

# -- events --------------------------------------------------------------------------------------
EVENT_STREAM_PREFIX: Final = "mc:events:"
"""Stream per domain (an event type's first segment): field ``e`` is the CloudEvent as JSON
(structured mode), ``t`` its type. Services write and read the same streams (services/kit/bus)."""
EVENT_DOMAINS: Final = "mc:events"
"""Set of the domains seen, so that a pattern whose first segment is a wildcard finds its streams."""
OUTBOX_CHANNEL: Final = "mc:outbox"
"""Pub/sub. A nudge, empty: rows wait in the outbox. The relay also polls, so a lost nudge costs 1 s."""

# -- live feed: the aggregator → web processes ---------------------------------------------------
LIVE_LEADER: Final = "mc:live:leader"
"""String with expiry: the web process whose aggregator builds the frames."""
LIVE_FRAMES: Final = "mc:live:frames"
"""Stream (a few minutes kept), ids ``<epoch>-<seq>``: epoch, seq, kind (snapshot or delta), body
({"at", "patch"?, "state"?}); every 60th delta carries the whole state too."""
LIVE_WATCHED: Final = "mc:live:watched"
"""String with expiry: some web process has browsers, so the leader builds frames."""
LIVE_WAKE: Final = "mc:live:wake"
"""Pub/sub. A nudge, empty: a browser has come to a process that does not lead."""

# -- processes without a port --------------------------------------------------------------------
HEARTBEAT_PREFIX: Final = "mc:alive:"
"""String with expiry per process (worker, beat, relay) and for ``MONITOR``: {"at", "pid"}; present means ready."""
MONITOR: Final = "monitor"
"""The name under which rounds of health checks show that they are held."""
