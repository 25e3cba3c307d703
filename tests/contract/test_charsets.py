"""Charsets that a request claims: text is UTF-8 here, and no other decoder of Python's is at anybody's service.

Some of them fail on text of any kind, and one takes time in the square of what it reads: a stranger's megabyte at the
login kept a core busy for minutes.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import Client

from tests.waiting import patient

pytestmark = pytest.mark.django_db

ODD = ["punycode", "rot13", "hex", "zlib", "idna", "undefined", "utf-7", "utf-16", "unicode_escape", "latin-1", "none"]


def form(value: bytes) -> bytes:
    return b'--B\r\nContent-Disposition: form-data; name="username"\r\n\r\n%b\r\n--B--\r\n' % value


@pytest.fixture
def stranger(settings: Any) -> Client:
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}
    return Client(raise_request_exception=False)


@pytest.mark.parametrize("charset", ODD)
def test_another_charset_than_utf_8_is_refused(charset: str, stranger: Client) -> None:
    fields = f"multipart/form-data; boundary=B; charset={charset}"
    for kind, body in ((fields, form(b"x")), (f"application/x-www-form-urlencoded; charset={charset}", b"username=x")):
        assert stranger.generic("POST", "/login/", body, kind).status_code == 415, kind
    answer = stranger.generic("POST", "/api/v1/events", b"{}", f"application/json; charset={charset}")
    assert (answer.status_code, answer.json()["failure"]) == (415, "unsupported_charset")
    assert "UTF-8" in answer.json()["detail"]
    answer = stranger.generic("GET", "/login/", b"x", f"text/plain; charset={charset}")
    assert answer.status_code == 415


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "utf8", "us-ascii", '"utf-8"'])
def test_utf_8_by_any_of_its_names_is_read(charset: str, stranger: Client) -> None:
    kind = f"application/x-www-form-urlencoded; charset={charset}"
    answer = stranger.generic("POST", "/login/", b"username=x&password=y", kind)
    assert answer.status_code == 200 and b"csrfmiddlewaretoken" in answer.content


def test_a_strangers_form_costs_no_more_than_its_bytes(stranger: Client) -> None:
    start = time.monotonic()
    stranger.generic("POST", "/login/", form(b"9" * 200_000), "multipart/form-data; boundary=B; charset=punycode")
    assert time.monotonic() - start < patient(1)
