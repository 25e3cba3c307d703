"""The live feed of this process: who builds the frames, how they reach every process, when nothing need be built.

One process leads, by a lock on Redis; it builds the state each tick, publishes one delta to a Redis stream,
and every process (the leader too) follows the stream and hands the frames to its hub. A frame's stream id is
``<epoch>-<seq>``, so Redis itself refuses a second leader's frame for the same tick. With Redis away each process
builds for its own browsers, who see what is unknown as unknown. With nobody watching nothing is built.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any, cast

import redis
import redis.asyncio
from django.conf import settings

from apps.dashboard import state
from apps.dashboard.frames import Delta, Document, Snapshot, diff
from apps.dashboard.hub import Hub
from apps.dashboard.pollers import Pollers
from apps.lib import kv
from apps.lib.border import out_of_reach, stream_time
from apps.lib.clock import monotonic, wall
from apps.lib.messages import Frame
from apps.lib.wire import (
    BREAKER_OPENED,
    CONFIG_CHANNEL,
    HEALTH_CHANNEL,
    LIVE_FRAMES,
    LIVE_LEADER,
    LIVE_WAKE,
    LIVE_WATCHED,
)

log = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between deltas while somebody watches."""
EARLY = 0.2
"""Least seconds between two ticks when something happened that can't wait."""
IDLE = 2.0
"""Seconds between looks at the lock while nobody watches."""
LEASE = 4.0
"""Seconds for which a leader that says nothing more still leads."""
WATCHED = 5
"""Seconds for which a process's word that it has browsers counts."""
ANSWER = 2.0
"""Seconds that Redis has for an answer: longer than that, and it is away."""
BLOCK = 2.0
"""Seconds that it may wait for the next frame first."""
RESTART = 1.0
"""Seconds until a part that failed by a fault of ours begins anew."""
KEYFRAME = 60
"""Every so many deltas carries the whole state too, for a process that comes later."""
KEPT = 400
"""Frames kept in the stream."""
FRESH = 30.0
"""Seconds for which a frame is news: an older one is said again by a stranger, or was read too late to matter."""

# Takes or renews the lock, and says whether anybody watches: one round trip a tick. What has another type or outlives
# any lease of ours is no lock of ours.
HOLD = """
for _, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if (kind ~= 'string' and kind ~= 'none') or redis.call('PTTL', key) == -1
    or redis.call('PTTL', key) > tonumber(ARGV[4]) * 1000 then redis.call('DEL', key) end
end
local holder = redis.call('GET', KEYS[1])
local mine = 0
if holder == false then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]); mine = 1
elseif holder == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]); mine = 1 end
if ARGV[3] == '1' then redis.call('SET', KEYS[2], '1', 'EX', ARGV[4]) end
return {mine, redis.call('EXISTS', KEYS[2])}
"""
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Feed:
    """Start it once per process on the serving loop, and stop it before the loop ends."""

    def __init__(self, redis_url: str) -> None:
        self.hub = Hub()
        self.pollers = Pollers()
        self._name = secrets.token_hex(8)
        self._redis_url = redis_url
        self._redis: redis.asyncio.Redis | None = None
        self._wake = asyncio.Event()
        self._wake_others = False
        self._tasks: list[asyncio.Task[None]] = []
        self._newest: Snapshot | None = None
        """What this process built last, while it leads; None while another does."""
        self._stopping = False

    # -- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to follow, listen and, when the lock is free, lead."""
        if self._tasks:
            return
        # Its own timeouts would now and then lose the cancellation by which the tasks end.
        self._redis = kv.async_client(self._redis_url, socket_timeout=None)
        self._tasks = [self._begin(work) for work in (self._follow, self._lead, self._listen)]

    async def stop(self) -> None:
        """End the tasks, give the lock back and close what was opened."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self.pollers.close()
        if self._redis is not None:
            try:
                async with asyncio.timeout(TICK):
                    await self._redis.eval(RELEASE, 1, LIVE_LEADER, self._name)
            except (redis.RedisError, OSError):
                pass  # The lease ends by itself.
            await self._redis.aclose()
            self._redis = None

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        task = asyncio.create_task(work(), name=f"live {work.__name__.strip('_')}")
        task.add_done_callback(lambda ended: self._ended(ended, work))
        return task

    def _ended(self, task: asyncio.Task[None], work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """None of the three ends by itself: say what went wrong, aloud, and go on in a moment."""
        if task.cancelled() or self._stopping or (error := task.exception()) is None:
            return
        log.critical("A part of the live feed failed and begins anew: %s", task.get_name(), exc_info=error)
        self.hub.counts["failures"] += 1
        task.get_loop().call_later(RESTART, self._replace, task, work)

    def _replace(self, task: asyncio.Task[None], work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if not self._stopping:
            self._tasks[self._tasks.index(task)] = self._begin(work)

    @property
    def running(self) -> bool:
        """Whether all of its tasks are alive."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def ready_for_browser(self) -> bool:
        """A browser has come: have frames built, and wait a moment for one that is fresh; whether there is one."""
        if self.hub.age() > 2 * TICK:
            self._wake_others = True
            self._wake.set()
        return await self.hub.fresh(within=3 * TICK, patience=5 * TICK)

    def recent_state(self, within: float = 3.0) -> Document | None:
        """The state of the newest frame when it is younger than ``within`` seconds. Any thread may ask."""
        snapshot = self.hub.history.snapshot
        return snapshot.state if snapshot is not None and self.hub.age() <= within else None

    def counts(self) -> dict[str, int]:
        """What has happened since the start, for the metric and the page."""
        passed_over = settings.WIRE.passed_over + settings.INNER.passed_over
        return {
            "browsers": len(self.hub.subscribers),
            "passed_over": passed_over,
            **self.hub.counts,
            **self.pollers.counts,
        }

    # -- leading ----------------------------------------------------------------------------

    async def _lead(self) -> None:
        while True:
            started = monotonic()
            watched_here = bool(self.hub.subscribers) or self._wake_others
            self._wake.clear()
            try:
                leads, watched = await self._hold(watched_here)
                if not leads:
                    self._newest = None
                elif watched:
                    await self._tick(shared=True)
            except redis.ResponseError as error:
                # Another leader's frame is there already (a pause longer than the lease): it leads now. Or what is
                # there is no stream of ours.
                log.warning("The live feed hands over: %s", error)
                self._newest = None
                watched = True
                await self._clear()
            except (redis.RedisError, OSError):
                watched = watched_here
                if watched:
                    await self._tick(shared=False)
            took = monotonic() - started
            if watched and took > TICK:
                self.hub.counts["late_ticks"] += 1
            await self._pause(started, TICK if watched else IDLE)

    async def _hold(self, watched_here: bool) -> tuple[bool, bool]:
        assert self._redis is not None  # noqa: S101 - the lead task runs between start and stop
        arguments = (self._name, int(LEASE * 1000), "1" if watched_here else "0", WATCHED)
        async with asyncio.timeout(TICK):
            mine, watched = await self._redis.eval(HOLD, 2, LIVE_LEADER, LIVE_WATCHED, *arguments)
            if self._wake_others:
                self._wake_others = False
                if not mine:
                    await self._redis.publish(LIVE_WAKE, "")
        return bool(mine), bool(watched)

    async def _pause(self, started: float, beat: float) -> None:
        """Sleep for the rest of the beat, unless something happens; a storm gets a tick each EARLY and no more."""
        try:
            async with asyncio.timeout(max(EARLY, started + beat - monotonic())):
                await self._wake.wait()
        except TimeoutError:
            return
        await asyncio.sleep(max(0.0, started + EARLY - monotonic()))

    async def _tick(self, *, shared: bool) -> None:
        readings = await self.pollers.read(patience=0.8 * TICK)
        now = wall()
        before = self._newest
        if before is not None and shared == before.epoch.endswith("-here"):
            before = None  # Redis has gone or come back: what follows is another history.
        document = state.build(readings, before.state if before else self._last_known(), now)
        at = round(now, 3)
        if before is None:
            epoch = await self._new_epoch(now) if shared else f"{int(now * 1000)}-here"
            snapshot = Snapshot(epoch, 1, at, document)
            if shared:
                await self._append(snapshot, None)
            else:
                await self.hub.restart(snapshot)
            self._newest = snapshot
            return
        delta = Delta(before.epoch, before.seq + 1, at, diff(before.state, document))
        snapshot = Snapshot(delta.epoch, delta.seq, at, document)
        if shared:
            await self._append(snapshot, delta)
        else:
            await self.hub.add(delta)
        self._newest = snapshot

    def _last_known(self) -> Document:
        snapshot = self.hub.history.snapshot
        return snapshot.state if snapshot else {}

    async def _new_epoch(self, now: float) -> str:
        """Later than every epoch in the stream, whatever another machine's clock said."""
        assert self._redis is not None  # noqa: S101
        async with asyncio.timeout(ANSWER):
            tip = await self._redis.xrevrange(LIVE_FRAMES, count=1)
        last = stream_time(tip[0][0]) if tip else 0
        return str(max(int(now * 1000), last + 1))

    async def _append(self, snapshot: Snapshot, delta: Delta | None) -> None:
        assert self._redis is not None  # noqa: S101
        patch = delta.patch if delta is not None else None
        whole = snapshot.state if delta is None or snapshot.seq % KEYFRAME == 0 else None
        entry = f"{snapshot.epoch}-{snapshot.seq}"
        frame = Frame(snapshot.epoch, snapshot.seq, snapshot.at, patch, whole)
        fields: dict[Any, Any] = {"m": settings.INNER.close(frame, LIVE_FRAMES, entry)}
        async with asyncio.timeout(ANSWER):
            await self._redis.xadd(LIVE_FRAMES, fields, id=entry, maxlen=KEPT, approximate=True)

    async def _clear(self) -> None:
        """Take away what is no stream, or one that a stranger's entry has brought to its end."""
        assert self._redis is not None  # noqa: S101
        try:
            async with asyncio.timeout(ANSWER):
                await settings.INNER.clear_async(self._redis)
        except (redis.RedisError, OSError) as error:
            log.debug("The stream of frames is looked at again later: %s", error)

    # -- following --------------------------------------------------------------------------

    async def _follow(self) -> None:
        assert self._redis is not None  # noqa: S101
        last = ""
        while True:
            try:
                if not last:
                    last = await self._catch_up()
                async with asyncio.timeout(BLOCK + ANSWER):
                    answer = await self._redis.xread({LIVE_FRAMES: last}, count=50, block=int(BLOCK * 1000))
                for _, entries in answer or ():
                    for entry, fields in entries:
                        if out_of_reach(entry, wall()):
                            await self._clear()
                            last = ""
                        else:
                            last = entry if await self._take(entry, fields) else ""
                        if not last:
                            break
            except (redis.RedisError, OSError):
                last = ""
                await asyncio.sleep(TICK)

    async def _catch_up(self) -> str:
        """Rebuild the history from the newest whole state and the deltas after it. Returns where the stream ends."""
        assert self._redis is not None  # noqa: S101
        async with asyncio.timeout(ANSWER):
            newest = await self._redis.xrevrange(LIVE_FRAMES, count=2 * KEYFRAME)
        tip = newest[0][0] if newest else "0-0"
        if out_of_reach(tip, wall()):
            await self._clear()
            return "0-0"
        frames = [frame for entry, fields in reversed(newest) if (frame := _read(entry, fields)) is not None]
        whole = next((n for n in range(len(frames) - 1, -1, -1) if frames[n].state is not None), None)
        if whole is None:
            return tip
        frame = frames[whole]
        snapshot = Snapshot(frame.epoch, frame.seq, frame.at, frame.state or {})
        for later in frames[whole + 1 :]:
            snapshot = snapshot.advance(Delta(later.epoch, later.seq, later.at, later.patch or {}))
        held = self.hub.history.snapshot
        if held is None or (held.epoch, held.seq) != (snapshot.epoch, snapshot.seq):
            await self.hub.restart(snapshot, live=False)
        return tip

    async def _take(self, entry: str, fields: dict[str, Any]) -> bool:
        """Hand one entry of the stream to the hub; False when frames before it are missing."""
        frame = _read(entry, fields, within=FRESH)
        if frame is None:
            return True  # no frame of ours: the next one tells whether any is missing
        delta = Delta(frame.epoch, frame.seq, frame.at, frame.patch or {})
        if frame.patch is not None and await self.hub.add(delta):
            return True
        if frame.state is None:
            return False
        await self.hub.restart(Snapshot(frame.epoch, frame.seq, frame.at, frame.state))
        return True

    # -- listening --------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Tick early when a verdict, a breaker or the configuration changes, or a browser comes elsewhere."""
        assert self._redis is not None  # noqa: S101
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    async with asyncio.timeout(ANSWER):
                        await channel.subscribe(HEALTH_CHANNEL, BREAKER_OPENED, CONFIG_CHANNEL, LIVE_WAKE)
                    while True:
                        if await channel.get_message(timeout=30.0) is not None:
                            self.pollers.hurry()
                            self._wake.set()
            except (redis.RedisError, OSError):
                await asyncio.sleep(TICK)


def _read(entry: str, fields: dict[str, Any], within: float | None = None) -> Frame | None:
    return cast("Frame | None", settings.INNER.open(Frame, fields.get("m", ""), LIVE_FRAMES, entry, within=within))


@lru_cache(maxsize=1)
def feed() -> Feed:
    """This process's feed."""
    return Feed(settings.REDIS_URL)
