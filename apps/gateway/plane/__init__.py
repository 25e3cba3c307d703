"""The data plane's shell: sockets, Redis, files and clocks around apps.gateway.core. Never imports the ORM."""
