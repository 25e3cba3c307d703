"""REST: the registry of schemas, and the catalogue made of it."""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import exceptions, mixins, viewsets
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.events.schemas import queries, registry
from apps.events.schemas.compat import Mode
from apps.events.schemas.models import EventType, SchemaVersion
from apps.events.schemas.serializers import (
    EventTypeSerializer,
    RegisteredSerializer,
    RegistrationSerializer,
    SchemaVersionSerializer,
)
from apps.lib.rest import Pages, name_the_actor
from apps.lib.writes import AtomicWrites
from services.kit.events.schema import SchemaError, uri
from services.kit.problem import Problem, Refused

TYPE = "[a-z0-9._-]{1,128}"
NAME = OpenApiParameter("name", str, OpenApiParameter.PATH, description="The type of the events.")


class ByName(Pages):
    ordering = "name"


class Newest(Pages):
    ordering = "-version"


@extend_schema_view(
    list=extend_schema(summary="List types of events that have a schema", tags=["events"]),
    retrieve=extend_schema(summary="Get a type of events", tags=["events"], parameters=[NAME]),
    partial_update=extend_schema(summary="Set what new versions must keep to", tags=["events"], parameters=[NAME]),
)
class EventTypeViewSet(
    AtomicWrites, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[EventType]
):
    """Types of events, who publishes and who consumes them."""

    queryset = EventType.objects.all()
    serializer_class = EventTypeSerializer
    pagination_class = ByName
    lookup_field = "name"
    lookup_value_regex = TYPE

    def get_serializer(self, *args: Any, **kwargs: Any) -> Any:
        rows = args[0] if args else []
        names = [row.name for row in (rows if isinstance(rows, list) else [rows])]
        kwargs["context"] = self.get_serializer_context() | {"consumers": queries.consumers(names)}
        return self.get_serializer_class()(*args, **kwargs)

    def partial_update(self, request: Any, name: str) -> Response:
        """Admins may do this."""
        asked = self.get_serializer(self.get_object(), data=request.data, partial=True)
        asked.is_valid(raise_exception=True)
        row = asked.instance
        if "mode" in asked.validated_data:
            row = registry.set_mode(name, Mode(asked.validated_data["mode"]))
        return Response(self.get_serializer(row).data)


@extend_schema_view(
    list=extend_schema(summary="List versions of a type's schema", tags=["events"], parameters=[NAME]),
    retrieve=extend_schema(summary="Get a version of a type's schema", tags=["events"], parameters=[NAME]),
)
class SchemaVersionViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[SchemaVersion]):
    """Versions of one type's schema, newest first. A version never changes."""

    queryset = SchemaVersion.objects.select_related("event_type")
    serializer_class = SchemaVersionSerializer
    pagination_class = Newest
    lookup_field = "version"
    lookup_url_kwarg = "number"
    lookup_value_regex = "[0-9]{1,5}"

    def get_queryset(self) -> Any:
        return super().get_queryset().filter(event_type__name=self.kwargs.get("name", ""))

    @extend_schema(
        summary="Register a version of a type's schema",
        tags=["events"],
        parameters=[NAME],
        request=RegistrationSerializer,
        responses={201: RegisteredSerializer, 200: RegisteredSerializer},
    )
    def create(self, request: Any, name: str) -> Response:
        """The first one makes the type. 409 `schema_incompatible` names rule, path and the consumers that would break.

        200 when nothing was registered: on a dry run, and when the newest version says the same already.
        """
        name_the_actor(request.user)
        asked = RegistrationSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        wanted = asked.validated_data
        if wanted["force"] not in ("", name):
            raise exceptions.ValidationError({"force": [f"Repeat the type's name, {name}, or leave it out."]})
        try:
            found = registry.register(
                name,
                wanted["schema"],
                author=request.user.get_username(),
                reason=wanted["reason"],
                producer=wanted["producer"],
                force=bool(wanted["force"]),
                dry=wanted["dry_run"],
            )
        except SchemaError as error:
            raise exceptions.ValidationError({"schema": [str(error)]}) from None
        except registry.Refused as refused:
            raise Refused(refused.problem()) from None
        except IntegrityError:
            raise Refused(
                Problem(409, "conflict", "Another change got there first; read what is there and try again.")
            ) from None
        answer = {
            "type": found.type,
            "version": found.version,
            "dataschema": uri(found.type, found.version),
            "registered": found.new,
            "verdict": registry.described(found.verdict),
        }
        return Response(answer, status=201 if found.new else 200)


class AsyncApiView(APIView):
    """The catalogue of events."""

    @extend_schema(
        summary="Get the catalogue of events as an AsyncAPI 3.0 document",
        tags=["events"],
        responses=OpenApiTypes.OBJECT,
    )
    def get(self, request: Any) -> Response:
        """Types with the newest schema of each, who publishes and who consumes them, and examples."""
        return Response(queries.catalogue())
