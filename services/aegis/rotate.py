"""``python -m services.aegis.rotate``: add a signing key; it takes over after the notice."""

from __future__ import annotations

import sys
import time

from services.aegis.keys import NOTICE_SECONDS, rotate
from services.aegis.settings import read

if __name__ == "__main__":
    key = rotate(read().keys_file, time.time())
    sys.stdout.write(f"Key {key.kid} is published now and signs in {NOTICE_SECONDS // 60} minutes.\n")
