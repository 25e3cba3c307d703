"""Gives the table of idempotent writes to the app lib: no statement is run."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("registry", "0001_initial"), ("lib", "0001_idempotent_writes")]

    operations = [
        migrations.SeparateDatabaseAndState(state_operations=[migrations.DeleteModel(name="IdempotentWrite")])
    ]
