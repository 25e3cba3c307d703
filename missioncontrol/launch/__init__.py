"""One command that sets Mission Control up, starts every process, watches them and stops them again."""
