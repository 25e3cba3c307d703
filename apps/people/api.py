"""REST: the tokens of whoever asks."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, viewsets
from rest_framework.response import Response

from apps.lib.roles import EveryoneTheirOwn, Grant, held
from apps.lib.writes import AtomicWrites
from apps.people import actions
from apps.people.models import ApiToken
from apps.people.serializers import IssuedTokenSerializer, TokenSerializer
from apps.registry.api import ID, described


@extend_schema_view(**described("token of yours", "your tokens", "tokens", without=("update", "partial_update")))
class TokenViewSet(
    AtomicWrites,
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    mixins.CreateModelMixin,
    mixins.DestroyModelMixin,
    viewsets.GenericViewSet,
):
    """API tokens: each opens this API as its owner, or for less. Everyone sees their own."""

    queryset = ApiToken.objects.none()
    serializer_class = TokenSerializer
    permission_classes = [EveryoneTheirOwn]
    lookup_value_regex = ID

    def get_queryset(self) -> Any:
        return ApiToken.objects.filter(user_id=self.request.user.pk)

    def get_serializer_context(self) -> dict[str, Any]:
        token = self._asking_token()
        grant = Grant(held(self.request.user)) if token is None else token.grant
        return super().get_serializer_context() | {"grant": grant}

    def _asking_token(self) -> ApiToken | None:
        return self.request.auth if isinstance(self.request.auth, ApiToken) else None

    @extend_schema(summary="Make a token", request=TokenSerializer, responses={201: IssuedTokenSerializer})
    def create(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        """The answer holds the token itself, this one time. A token that asks makes none that can do or last more."""
        asked = self.get_serializer(data=request.data)
        asked.is_valid(raise_exception=True)
        wanted = asked.validated_data
        grant = Grant(wanted["role"], wanted["read_only"], frozenset(wanted["areas"]))
        row, token = actions.issue(
            request.user, wanted["name"], wanted["expires_at"], grant=grant, by=self._asking_token()
        )
        return Response(self.get_serializer(row).data | {"token": token}, status=201)

    @extend_schema(summary="End a token")
    def destroy(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        """For good and at once; it stays listed for 90 days. Ending it again changes nothing.

        A token that asks ends none that can do more than itself: who found a small one can't end them all.
        """
        row, by = self.get_object(), self._asking_token()
        if by is not None and not by.grant.covers(row.grant):
            raise actions.refused("A token ends only tokens that can do no more than itself.")
        actions.end(self.get_queryset().filter(pk=row.pk), f"{request.user.get_username()} ended it")
        return Response(status=204)
