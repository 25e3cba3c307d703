"""The policies there are, in the order in which a request meets them; answers meet them in the opposite order.

Who calls is settled before what they may do, what is refused for nothing before what costs a look at shared state,
and what changes a request last, so that nothing a client sends can pose as what a policy set. docs/policies.md
tells how one is added.
"""

from __future__ import annotations

from apps.gateway.core.chain import Chain
from apps.gateway.core.config import Route
from apps.gateway.plane.policies import access, auth, forward, headers, limit, size, tries
from apps.gateway.plane.policies.parts import Limits, Parts

ORDER = (
    auth.POLICY,
    access.POLICY,
    forward.POLICY,
    size.POLICY,
    limit.POLICY,
    headers.POLICY,
    tries.POLICY,
)


def compiled(route: Route, parts: Parts) -> Chain:
    """The chain of a route in one revision."""
    bound = [policy.bind(route, parts) for policy in ORDER]
    return Chain(
        tuple(one.request for one in bound if one.request is not None),
        tuple(one.answer for one in reversed(bound) if one.answer is not None),
    )


def in_words(route: Route, limits: Limits) -> list[tuple[str, str]]:
    """Title and line of each policy that has a say on this route, in order."""
    told = [(policy.title, policy.words(route, limits)) for policy in ORDER]
    return [(title, words) for title, words in told if words]
