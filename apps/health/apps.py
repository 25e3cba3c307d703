from django.apps import AppConfig


class HealthConfig(AppConfig):
    name = "apps.health"
    label = "health"

    def ready(self) -> None:
        from auditlog.registry import auditlog

        from apps.health.models import HealthCheck

        auditlog.register(HealthCheck, exclude_fields=["updated_at"])
