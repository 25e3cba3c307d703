"""Streams and versions by their names, and positions that readers can follow: what is there is numbered as it came."""

from django.db import migrations, models

NUMBER = """
UPDATE events_event SET position = ranked.place
FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM events_event) AS ranked
WHERE events_event.id = ranked.id
"""
BEGIN = "INSERT INTO events_stream (name, version) SELECT '', count(*) FROM events_event"
END = "DELETE FROM events_stream WHERE name = ''"


class Migration(migrations.Migration):

    dependencies = [
        ('events', '0001_event_store'),
    ]

    operations = [
        migrations.RemoveConstraint(model_name='event', name='event_sequence_once_per_key'),
        migrations.RemoveIndex(model_name='event', name='event_by_type'),
        migrations.RemoveIndex(model_name='event', name='event_by_subject'),
        migrations.AlterModelOptions(name='event', options={'ordering': ['id']}),
        migrations.RenameField(model_name='event', old_name='position', new_name='id'),
        migrations.RenameField(model_name='event', old_name='partition_key', new_name='stream'),
        migrations.RenameField(model_name='event', old_name='sequence', new_name='version'),
        migrations.RenameModel(old_name='PartitionSequence', new_name='Stream'),
        migrations.RenameField(model_name='stream', old_name='key', new_name='name'),
        migrations.RenameField(model_name='stream', old_name='last', new_name='version'),
        migrations.AddField(
            model_name='event',
            name='position',
            field=models.BigIntegerField(editable=False, null=True),
        ),
        migrations.RunSQL([NUMBER, BEGIN], END),
        migrations.AddIndex(
            model_name='event',
            index=models.Index(
                condition=models.Q(('position__isnull', True)), fields=['id'], name='event_without_position'
            ),
        ),
        migrations.AddIndex(
            model_name='event',
            index=models.Index(fields=['type', 'position'], name='event_by_type'),
        ),
        migrations.AddIndex(
            model_name='event',
            index=models.Index(fields=['subject', 'position'], name='event_by_subject'),
        ),
        migrations.AddConstraint(
            model_name='event',
            constraint=models.UniqueConstraint(fields=('stream', 'version'), name='event_version_once_per_stream'),
        ),
        migrations.AddConstraint(
            model_name='event',
            constraint=models.UniqueConstraint(
                condition=models.Q(('position__isnull', False)), fields=('position',), name='event_position_once'
            ),
        ),
    ]
