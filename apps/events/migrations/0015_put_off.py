"""What the bus did not take has a time, and an index of its own; all else that waits is due."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("events", "0014_missed_events")]

    operations = [
        migrations.AlterField(
            model_name="outboxmessage",
            name="next_at",
            field=models.DateTimeField(
                blank=True, help_text="Of one that the bus did not take: not before then again.", null=True
            ),
        ),
        migrations.AddIndex(
            model_name="outboxmessage",
            index=models.Index(
                condition=models.Q(("next_at__isnull", False), ("sent_at__isnull", True)),
                fields=["next_at"],
                name="outbox_put_off",
            ),
        ),
    ]
