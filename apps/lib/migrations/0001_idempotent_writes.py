"""Takes over the registry's table as it is: no statement is run."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [("registry", "0001_initial")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="IdempotentWrite",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                        ),
                        (
                            "digest",
                            models.CharField(
                                help_text="Of user, method, path and Idempotency-Key.", max_length=64, unique=True
                            ),
                        ),
                        ("fingerprint", models.CharField(help_text="Of the request's body.", max_length=64)),
                        ("status", models.PositiveSmallIntegerField(default=0)),
                        ("answer", models.TextField(blank=True)),
                        ("created_at", models.DateTimeField(auto_now_add=True, db_index=True)),
                    ],
                    options={"db_table": "registry_idempotentwrite"},
                ),
            ]
        )
    ]
