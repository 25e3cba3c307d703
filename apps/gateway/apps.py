from django.apps import AppConfig


class GatewayConfig(AppConfig):
    name = "apps.gateway"
    label = "gateway"

    def ready(self) -> None:
        from auditlog.registry import auditlog

        from apps.gateway import actions, models
        from apps.registry.publishing import publish_with

        publish_with(actions.publish)
        for model in (
            models.ServicePolicy,
            models.Route,
            models.Consumer,
            models.JwtIssuer,
            models.RateLimitPolicy,
            models.BreakerPolicy,
            models.BreakerOverride,
        ):
            auditlog.register(model, exclude_fields=["created_at", "updated_at"])
        auditlog.register(models.ApiKey, exclude_fields=["hash", "created_at"])
