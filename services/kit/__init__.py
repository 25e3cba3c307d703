"""What a backend service of the fleet needs: settings, drain, health, telemetry, store, bus, client.

A service is `settings → parts → routers → create_app → run`; see docs/services.md. The kit knows
nothing of Django and nothing of any one service.
"""
