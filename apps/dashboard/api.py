"""``GET /api/v1/live``: how the live feed of this process is doing."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.dashboard.feed import feed


class LiveFeedView(APIView):
    """Counters of one web process since its start."""

    @extend_schema(
        operation_id="live_feed",
        summary="Counters of the live feed",
        description="Of the web process that answers, since its start: browsers listening, frames sent and withheld, "
        "connections closed by code, ticks that came late, sources that failed.",
        tags=["live"],
        responses=inline_serializer(
            "LiveFeed",
            {
                "running": serializers.BooleanField(),
                "epoch": serializers.CharField(),
                "seq": serializers.IntegerField(),
                "age_s": serializers.FloatField(allow_null=True),
                "counts": serializers.DictField(child=serializers.IntegerField()),
            },
        ),
    )
    def get(self, request: Request) -> Response:
        live = feed()
        snapshot = live.hub.history.snapshot
        age = live.hub.age()
        body: dict[str, Any] = {
            "running": live.running,
            "epoch": snapshot.epoch if snapshot else "",
            "seq": snapshot.seq if snapshot else 0,
            "age_s": round(age, 3) if age < float("inf") else None,
            "counts": live.counts(),
        }
        return Response(body)
