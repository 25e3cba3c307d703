from django.apps import AppConfig


class RegistryConfig(AppConfig):
    name = "apps.registry"
    label = "registry"

    def ready(self) -> None:
        from auditlog.registry import auditlog

        from apps.registry.models import Instance, Service

        for model in (Service, Instance):
            auditlog.register(model, exclude_fields=["created_at", "updated_at"])
