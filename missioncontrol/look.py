"""How Django admin looks: its name, colours and menu. Plain values for settings; nothing is fetched from elsewhere."""

from __future__ import annotations

from typing import Any

from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.utils.functional import lazy


def _address(name: str) -> str:
    """The address of a list, or nothing while no admin is registered for it."""
    try:
        return reverse(name)
    except NoReverseMatch:
        return ""


_lazy_address = lazy(_address, str)


def _item(title: str, icon: str, model: str) -> dict[str, Any]:
    app, name = model.split(".")
    address = f"admin:{app}_{name}_changelist"
    return {
        "title": title,
        "icon": icon,
        "link": _lazy_address(address),
        "permission": lambda request: bool(_address(address)) and request.user.has_perm(f"{app}.view_{name}"),
    }


def _group(title: str, *items: dict[str, Any]) -> dict[str, Any]:
    return {"title": title, "separator": True, "collapsible": False, "items": list(items)}


BLUE = {
    "50": "oklch(97% .014 254.604)",
    "100": "oklch(93.2% .032 255.585)",
    "200": "oklch(88.2% .059 254.128)",
    "300": "oklch(80.9% .105 251.813)",
    "400": "oklch(70.7% .165 254.624)",
    "500": "oklch(62.3% .214 259.815)",
    "600": "oklch(54.6% .245 262.881)",
    "700": "oklch(48.8% .243 264.376)",
    "800": "oklch(42.4% .199 265.638)",
    "900": "oklch(37.9% .146 265.522)",
    "950": "oklch(28.2% .091 267.935)",
}

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Mission Control",
    "SITE_HEADER": "Mission Control",
    "SITE_SUBHEADER": "Configuration",
    "SITE_SYMBOL": "satellite_alt",
    "SITE_URL": "/",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("favicon.svg")}],
    "SHOW_BACK_BUTTON": True,
    "COLORS": {"primary": BLUE},
    "SIDEBAR": {
        "show_search": True,
        "show_all_applications": False,
        "navigation": [
            _group(
                "Services",
                _item("Services", "dns", "registry.service"),
                _item("Instances", "lan", "registry.instance"),
                _item("Health checks", "monitor_heart", "health.healthcheck"),
            ),
            _group(
                "Gateway",
                _item("Routes", "alt_route", "gateway.route"),
                _item("Rate limits", "speed", "gateway.ratelimitpolicy"),
                _item("Breaker policies", "electric_bolt", "gateway.breakerpolicy"),
                _item("Service policies", "tune", "gateway.servicepolicy"),
                _item("Breaker overrides", "pan_tool", "gateway.breakeroverride"),
                _item("Revisions", "history", "gateway.configrevision"),
            ),
            _group(
                "Callers",
                _item("Consumers", "group", "gateway.consumer"),
                _item("API keys", "key", "gateway.apikey"),
                _item("JWT issuers", "verified_user", "gateway.jwtissuer"),
            ),
            _group(
                "Events",
                _item("Routing rules", "alt_route", "events.routingrule"),
                _item("Types", "category", "events.eventtype"),
                _item("Schemas", "schema", "events.schemaversion"),
            ),
            _group(
                "Records",
                _item("Events", "bolt", "events.event"),
                _item("Health history", "ecg_heart", "health.healthtransition"),
                _item("Breaker history", "timeline", "health.breakertransition"),
                _item("Audit trail", "fact_check", "auditlog.logentry"),
            ),
            _group(
                "People",
                _item("Users", "person", "auth.user"),
                _item("Roles", "badge", "auth.group"),
                _item("API tokens", "token", "people.apitoken"),
            ),
        ],
    },
}
