"""Django's settings, all of them read from the environment by services.kit.env."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csp.constants import NONE, SELF
from django.utils.functional import SimpleLazyObject

from apps.lib import cookies, passed
from apps.lib.border import Border
from missioncontrol import guard, keys
from missioncontrol.databases import from_url
from missioncontrol.look import UNFOLD as UNFOLD
from missioncontrol.peer import networks
from services.kit import env

VERSION = "0.1.0"
BASE_DIR = env.ROOT
HOME: Path = env.home()

SECRET_KEY = env.secret("DJANGO_SECRET_KEY")
KEY_PEPPER = env.secret("MC_KEY_PEPPER")
CONTROL_PORT = env.port("MC_CONTROL_PORT", 8000)
CONTROL_CONNECTIONS = env.integer("MC_CONTROL_CONNECTIONS", 4_000, low=10)
ALLOWED_HOSTS = env.words("MC_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = env.words("MC_TRUSTED_ORIGINS")
try:
    TRUSTED_PROXIES = networks(env.words("MC_TRUSTED_PROXIES"))
except ValueError as error:
    raise env.EnvError(f"MC_TRUSTED_PROXIES: {error}.") from None

SUPERVISOR: Path = HOME / "run" / "supervisord.conf"
"""Written by the launcher where it runs a supervisor; it says where that listens."""
REDIS_URL = env.redis_url()
CLICKHOUSE_URL = env.clickhouse_url()
CLICKHOUSE_DATABASE = env.text("CLICKHOUSE_DATABASE", "mission")
OTLP_URL = env.otlp_url()
ADDRESS_GUARD = guard.read()
"""Whom health checks may call, and which addresses of instances and key sets are refused as they are typed."""
GATEWAY_URL = env.text("MC_GATEWAY_URL", f"http://localhost:{env.port('MC_GATEWAY_PORT', 8080)}")

WIRE = SimpleLazyObject(lambda: Border(keys.wire(), passed.count))
"""What is said between the control plane and its gateways."""
INNER = SimpleLazyObject(lambda: Border(keys.inner(), passed.count))
"""What is said inside the control plane."""
REVISION_SIGNER = SimpleLazyObject(keys.signer)

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_celery_beat",
    "auditlog",
    "csp",
    "missioncontrol",
    "apps.lib",
    "apps.events",
    "apps.registry",
    "apps.people",
    "apps.gateway",
    "apps.telemetry",
    "apps.health",
    "apps.dashboard",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "missioncontrol.middleware.Edge",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "missioncontrol.middleware.Audit",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "missioncontrol.urls"
ASGI_APPLICATION = "missioncontrol.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASES: dict[str, Any] = {
    "default": from_url(env.text("DATABASE_URL", f"sqlite:///{HOME / 'control.sqlite3'}")),
}

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

STATIC_URL = "/static/"
STATIC_ROOT = HOME / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.FileSystemFinder",
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "apps.dashboard.finders.PlotlyFinder",
]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "apps.dashboard.storage.StaticFiles"},
}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
FORMAT_MODULE_PATH = ["missioncontrol.formats"]

DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
CSRF_FAILURE_VIEW = "missioncontrol.errors.csrf_failed"

LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"
SECURE_TLS = env.flag("MC_TLS")
SESSION_COOKIE_NAME = cookies.named(cookies.SESSION, tls=SECURE_TLS)
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_NAME = cookies.named(cookies.CSRF, tls=SECURE_TLS)
CSRF_COOKIE_SAMESITE = "Lax"
DEVICE_COOKIE_NAME = cookies.named(cookies.DEVICE, tls=SECURE_TLS)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_TLS
SECURE_SSL_REDIRECT = SECURE_TLS
# Probes of this machine ask by plain HTTP.
SECURE_REDIRECT_EXEMPT = [r"^health$", r"^ready$"]
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if SECURE_TLS else 0
# Other names below ours are other people's: whether they all speak TLS isn't ours to promise.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
# In the session: a cookie of its own would be one more name for the gateway to keep from upstreams.
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "apps.people.actions.PasswordEndsTokens"},
]

CONTENT_SECURITY_POLICY = {
    "EXCLUDE_URL_PREFIXES": ("/admin/", "/api/docs"),
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "connect-src": [SELF],
        "object-src": [NONE],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
        "form-action": [SELF],
    },
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "apps.people.tokens.Token",
        "apps.lib.rest.Session",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["apps.lib.roles.ViewerReadsAdminWrites"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["apps.lib.rest.Json"],
    "DEFAULT_PAGINATION_CLASS": "apps.lib.rest.Pages",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "apps.lib.rest.handle_exception",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Mission Control",
    "DESCRIPTION": "Services, health, gateway configuration, breakers, traces and events.",
    "VERSION": VERSION,
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "SORT_OPERATIONS": False,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "apps.lib.schema.add_problems",
    ],
    "ENUM_NAME_OVERRIDES": {
        "HealthState": "apps.health.models.STATES",
        "BreakerHistoryState": "apps.health.models.BREAKER_STATES",
        "BreakerStateEnum": ["closed", "half_open", "open", "unknown"],
        "OverrideStateEnum": ["open", "closed"],
        "KeyStateEnum": ["active", "expired", "revoked"],
        "TokenStateEnum": ["active", "expired", "ended"],
        "LetterState": "apps.events.letters.models.DeadLetter.State",
        "JobState": "apps.events.letters.models.RedriveJob.State",
        "JobKind": "apps.events.letters.models.RedriveJob.Kind",
        "SubscriptionStateEnum": "apps.events.subscriptions.models.Subscription.State",
        "SubscriptionModeEnum": "apps.events.subscriptions.models.Subscription.Mode",
        "SubscriptionKindEnum": "apps.events.subscriptions.models.Subscription.Kind",
    },
    "TAGS": [
        {"name": "services", "description": "Backends and the processes that serve them."},
        {"name": "routes", "description": "Which requests go where."},
        {"name": "policies", "description": "Rate limits, breakers and upstream settings."},
        {"name": "consumers", "description": "Who may call: consumers, their API keys, and JWT issuers."},
        {"name": "breakers", "description": "Breakers as gateway workers report them, and the hand on them."},
        {"name": "gateway", "description": "The workers that carry the traffic."},
        {"name": "health", "description": "Health checks, verdicts, and time in state of instances and breakers."},
        {"name": "events", "description": "What happened: the event store."},
        {"name": "traces", "description": "Requests as their spans tell them."},
        {"name": "live", "description": "The live feed of the pages."},
        {"name": "tokens", "description": "Your own tokens for this API."},
        {"name": "revisions", "description": "Published configuration and what each publication changed."},
    ],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

BUS_URLS = env.bus_urls()
BUS_DEFAULT = env.bus_default()
BUS_KEEP = env.integer("MC_BUS_KEEP", 100_000, low=1000)
"""About how many events each stream of the embedded bus keeps."""
OUTBOX_DAYS = env.integer("MC_OUTBOX_DAYS", 1, low=1)
"""How long the outbox remembers what was sent."""
WEBHOOK_ORIGIN = env.text("MC_WEBHOOK_ORIGIN", "mission-control")
"""Who we say we are when we ask an endpoint for its permission (CloudEvents HTTP webhooks, section 4.1.1)."""
STRICT_DOMAINS = frozenset(env.words("MC_STRICT_DOMAINS"))
"""Domains (first segments of types) in which nothing is published without a schema."""
OUTBOX_MOST = env.integer("MC_OUTBOX_MOST", 1_000_000, low=1)
"""Events that may wait for the bus before REST takes no more of them from outside."""
EVENT_DAYS = env.integer("MC_EVENT_DAYS", 90, low=1)
UNREAD_DAYS = env.integer("MC_UNREAD_DAYS", 30, low=0)
"""How much longer events are kept that a subscription has yet to read."""
HISTORY_DAYS = env.integer("MC_HISTORY_DAYS", 90, low=1)
"""How long health and breaker transitions are kept."""

CELERY_BROKER_URL = env.text("CELERY_BROKER_URL", REDIS_URL)
if CELERY_BROKER_URL.startswith(("redis:", "rediss:")):
    CELERY_BROKER_TRANSPORT = "missioncontrol.broker:Transport"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 30,
    # Tasks come again each hour: one that a killed worker held is not worth a copy on Redis.
    "ack_emulation": False,
}
CELERY_TASK_SERIALIZER = "sealed"
CELERY_ACCEPT_CONTENT = ["sealed"]
CELERY_RESULT_BACKEND = None
CELERY_RESULT_EXPIRES = None
CELERY_TASK_IGNORE_RESULT = True
# A scheduled task that can't be handed over is not retried: it has a successor.
CELERY_TASK_PUBLISH_RETRY = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# Remote control, gossip and task events are for fleets of workers that watch each other; here they are idle CPU.
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_BEAT_ENABLE_REMOTE_CONTROL = False
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_WORKER_REDIRECT_STDOUTS = False
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULER = "missioncontrol.beat:Scheduler"
# What has to happen within seconds is the monitor's (missioncontrol.monitor): a task costs a message, and beat looks at
# every schedule at every turn. A run that waited longer than its period is worth nothing any more.
CELERY_BEAT_SCHEDULE: dict[str, Any] = {
    "health.prune": {"task": "health.prune", "schedule": 3600.0, "options": {"expire_seconds": 3600}},
    "events.prune": {"task": "events.prune", "schedule": 3600.0, "options": {"expire_seconds": 3600}},
}
DJANGO_CELERY_BEAT_TZ_AWARE = True

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "format": "%(asctime)s %(levelname)s %(name)s %(message)s",
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": env.text("MC_LOG_LEVEL", "INFO")},
    # At INFO these say a line or two per task, or per probe.
    "loggers": {name: {"level": "WARNING"} for name in ("celery", "kombu", "django_celery_beat", "aiohttp")},
}
