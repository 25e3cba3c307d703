# The commands of this project. Each works unattended, from any checkout path, as root or not.
#   make run                         set up and start everything in the foreground; Ctrl-C stops it
#   make ctl c="status"              ask or tell the running system: status, stop X, start X, restart X, pid X, tail X
#   make test | make check | make bench | make chaos
#   make wheel                       build the services' kit as a package of its own (docs/kit.md)
#   make lock                        write the requirements files anew after a change in pyproject.toml
# Settings come from the environment (docs/): MC_HOME, MC_CONTROL_PORT, MC_GATEWAY_PORT …; PYTHON picks the interpreter.

PYTHON ?= python3
LAUNCH = $(PYTHON) -m missioncontrol.launch

.PHONY: run ctl test check bench chaos setup lock wheel python

run: python
	@exec $(LAUNCH) run

ctl: python
	@exec $(LAUNCH) ctl $(c)

setup: python
	@exec $(LAUNCH) setup --dev

test: python
	@exec $(LAUNCH) setup --dev --then tests.suites $(t)

check: python
	@exec $(LAUNCH) setup --dev --then missioncontrol.checks

bench: python
	@exec $(LAUNCH) setup --bench --then benchmarks $(b)

chaos: python
	@exec $(LAUNCH) setup --dev --then tests.chaos $(c)

lock: python
	@exec $(LAUNCH) setup --dev --then missioncontrol.lock $(c)

wheel: python
	@exec $(LAUNCH) setup --dev --then missioncontrol.wheel

python:
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "Mission Control needs Python 3.11 or newer and found no $(PYTHON): install it, or say which with make PYTHON=…" >&2; exit 1; }
