"""What the service is asked under: timeouts and further attempts. The end of every chain, as Envoy's router is.

It has no hook: apps.gateway.plane.tries is where a request that passed all others goes, through the service's
breaker and its bound on requests in flight to one of its instances.
"""

from __future__ import annotations

from apps.gateway.core.retry import in_words
from apps.gateway.plane.policies.parts import NOTHING, Policy

POLICY = Policy("tries", "Timeouts and retries", lambda route, parts: NOTHING, lambda route, limits: in_words(route))
