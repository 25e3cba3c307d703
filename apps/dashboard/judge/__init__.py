"""What the operator is told, judged from what was read. Pure: every function takes ``now`` and returns a value.

``readings`` is what there is to judge by and how old it is; ``traffic``, ``services`` and ``own`` judge one thing
each; ``verdict`` is the sentence over all of it. Knows nothing of where readings come from, of Redis or of Django.
"""
