"""Behind a proxy that ends TLS: redirect, HSTS, cookies for https alone, and only the trusted are believed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.control import Control, controlled

BOSS = """
from django.contrib.auth.models import User
User.objects.create_superuser("boss", password="long enough to pass")
"""


@pytest.fixture(scope="module")
def control(redis_process: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    home = tmp_path_factory.mktemp("home")
    extra = {"MC_TLS": "1", "MC_TRUSTED_PROXIES": "127.0.0.1", "MC_ALLOWED_HOSTS": "127.0.0.1,mc.example.org"}
    with controlled(home, redis_process, **extra) as made:
        made.run("shell", "-v0", text=BOSS)
        made.run("collectstatic", "--noinput", "-v0")
        made.start()
        yield made


HTTPS = {"X-Forwarded-Proto": "https", "Host": "mc.example.org"}


def test_plain_http_is_redirected_and_probes_are_not(control: Control) -> None:
    for path in ("/login/", "/api/v1/services", "/admin/"):
        answer = control.ask("GET", path, headers={"Host": "mc.example.org"})
        assert (answer.status_code, answer.headers["Location"]) == (301, f"https://mc.example.org{path}")
    assert control.ask("GET", "/health").status_code == 200


def test_https_is_told_to_stay_so(control: Control) -> None:
    answer = control.ask("GET", "/login/", headers=HTTPS)
    assert answer.status_code == 200 and "max-age=31536000" in answer.headers["Strict-Transport-Security"]
    cookies = answer.headers["Set-Cookie"]
    assert "__Host-mc_csrf=" in cookies and "Secure" in cookies and "SameSite=Lax" in cookies


def test_strangers_are_told_apart_by_what_the_proxy_says(control: Control) -> None:
    """Thirty failures from one address behind the proxy; the owner comes from another."""

    def login(password: str, address: str) -> int:
        form = control.ask("GET", "/login/", headers=HTTPS)
        pairs = [found.split(";")[0] for found in form.headers["Set-Cookie"].split(", ") if "=" in found.split(";")[0]]
        token = form.text.split('name="csrfmiddlewaretoken" value="')[1].split('"')[0]
        headers = HTTPS | {"X-Forwarded-For": f"6.6.6.6, {address}", "Referer": "https://mc.example.org/login/"}
        headers["Cookie"] = "; ".join(pair for pair in pairs if pair.startswith("__Host-"))
        body = {"username": "boss", "password": password, "csrfmiddlewaretoken": token}
        return control.ask("POST", "/login/", headers=headers, data=body).status_code

    answers = [login("wrong", "203.0.113.9") for _ in range(8)]
    assert answers[:5] == [200] * 5 and answers[-1] == 429
    assert login("long enough to pass", "198.51.100.1") == 302


def test_the_deployment_check_is_clean(control: Control) -> None:
    control.run("check", "--deploy", "--fail-level", "WARNING")
