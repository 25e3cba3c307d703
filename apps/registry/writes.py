"""How REST writes what gateways serve: with its published revision, in the transaction of the write."""

from __future__ import annotations

from typing import Any

from apps.lib.writes import AtomicWrites
from apps.registry.publishing import Publication, changed


class PublishingWrites(AtomicWrites):
    """For viewsets of what gateways serve: a write publishes, in its own transaction, or is refused."""

    publication: Publication | None = None

    def finalize_response(self, request: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        """As DRF does, with the revision that came of the write."""
        answer = super().finalize_response(request, response, *args, **kwargs)  # type: ignore[misc]
        if self.publication is not None and answer.status_code < 400:
            answer["X-Config-Revision"] = str(self.publication.revision)
        return answer

    def perform_create(self, serializer: Any) -> None:
        self.publish(f"{_noun(serializer.save())} added")

    def perform_update(self, serializer: Any) -> None:
        self.publish(f"{_noun(serializer.save())} changed")

    def perform_destroy(self, instance: Any) -> None:
        noun = _noun(instance)
        instance.delete()
        self.publish(f"{noun} deleted")

    def publish(self, reason: str) -> Publication:
        """Publish the database as it now is, in the requester's name."""
        self.publication = changed(self.request.user.get_username(), reason)  # type: ignore[attr-defined]
        return self.publication


def _noun(instance: Any) -> str:
    return f"{instance._meta.verbose_name} {instance}"
