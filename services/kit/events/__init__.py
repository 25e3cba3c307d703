"""The room for events: the codec, patterns, retries, outbox, consumer and transports that services and apps share.

Framework-free, and pure but for what says that it does I/O.
"""
