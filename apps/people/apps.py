from django.apps import AppConfig


class PeopleConfig(AppConfig):
    name = "apps.people"
    label = "people"

    def ready(self) -> None:
        from auditlog.registry import auditlog
        from django.contrib.auth.models import Group, User
        from django.db.models.signals import post_save

        from apps.people import actions, models

        # Django has no other word for "this user was just changed", whoever changed it: admin, a command, a shell.
        post_save.connect(actions.after_user_change, sender=User, dispatch_uid="people.after_user_change")
        auditlog.register(models.ApiToken, exclude_fields=["digest", "created_at", "last_used_at"])
        auditlog.register(
            User,
            exclude_fields=["last_login", "date_joined"],
            mask_fields=["password"],
            mask_callable="apps.people.models.hidden",
            m2m_fields={"groups", "user_permissions"},
        )
        auditlog.register(Group, m2m_fields={"permissions"})
