from django.apps import AppConfig


class EventsConfig(AppConfig):
    name = "apps.events"
    label = "events"

    def ready(self) -> None:
        from auditlog.registry import auditlog

        from apps.events.letters import mirror
        from apps.events.letters.models import RedriveJob
        from apps.events.routing.models import RoutingRule
        from apps.events.schemas.models import EventType, SchemaVersion
        from apps.events.subscriptions import handlers
        from apps.events.subscriptions.models import Subscription

        auditlog.register(EventType)
        auditlog.register(RoutingRule, exclude_fields=["created_at", "updated_at"])
        auditlog.register(SchemaVersion, exclude_fields=["created_at"])
        # What the engine writes while it delivers is in metrics and in the attempt log.
        auditlog.register(
            Subscription,
            include_fields=[
                *("name", "kind", "patterns", "source", "filter", "state", "reason", "url", "mode", "handshake"),
                *("concurrency", "rate", "max_attempts", "max_age_s", "timeout_s"),
            ],
        )
        # Likewise a job's progress. What people do with letters is noted as they do it (letters.actions).
        auditlog.register(
            RedriveJob, include_fields=["kind", "subscription", "filter", "state", "rate", "canary", "again", "note"]
        )
        handlers.register(mirror.HANDLER)
