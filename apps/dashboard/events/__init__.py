"""The pages of the event bus: what was published, who gets it, what failed, and what would become of an event.

Views are thin; what they show is read in files of its own (``browse``, ``lineage``, ``kinds`` …) through the rooms'
queries, and how a document is drawn is pure (``document``). Nothing here changes anything: buttons act through REST.
"""
