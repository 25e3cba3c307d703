from django.apps import AppConfig


class EventsConfig(AppConfig):
    name = "apps.events"
    label = "events"

    def ready(self) -> None:
        from auditlog.registry import auditlog

        from apps.events.schemas.models import EventType, SchemaVersion

        auditlog.register(EventType)
        auditlog.register(SchemaVersion, exclude_fields=["created_at"])
