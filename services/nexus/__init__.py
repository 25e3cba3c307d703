"""nexus: understands short requests in plain English and carries them out through the other services."""
