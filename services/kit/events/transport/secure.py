"""TLS and logins: what a broker's URL says of them, and in plain words why a broker can't be spoken to.

Nothing here is insecure unless the URL says so: TLS proves the broker's certificate and name, and an option that nobody
knows, or that needs TLS where the scheme has none, is refused rather than passed over.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import SplitResult, parse_qsl

log = logging.getLogger(__name__)

TLS_OPTIONS: Final = frozenset({"cafile", "certfile", "keyfile", "verify"})
"""Of ``amqps://`` and ``kafkas://``. Redis's clients, of which there are many, know options of their own."""

# X509_V_ERR_…: OpenSSL's numbers, which its interface keeps.
EXPIRED: Final = 10
NOT_YET: Final = 9
OTHER_NAME: Final = frozenset({62, 64})


LOGINS: Final = frozenset(
    {"AuthenticationError", "ProbableAuthenticationError", "AuthenticationFailedError", "SaslAuthenticationFailed"}
)
"""What drivers call a login that was refused. By name: of most of them only one is installed."""


class BrokerError(ValueError):
    """The URL names no broker, or one whose driver is missing, or says what that broker has no use for; the message is
    one sentence for a person."""


def options(parts: SplitResult, own: Iterable[str], *, secure: bool) -> dict[str, str]:
    """What the URL's query says; BrokerError for what is neither among ``own`` nor, when ``secure``, of TLS."""
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = {*own} | (TLS_OPTIONS if secure else set())
    for name in given:
        if name in known:
            continue
        if name in TLS_OPTIONS:
            raise BrokerError(f"The option {name} is for TLS, so for {parts.scheme}s:// and not {parts.scheme}://.")
        listed = ", ".join(sorted(known)) or "none"
        raise BrokerError(f"A {parts.scheme}:// URL has no option {name}; its options are: {listed}.")
    return given


def context(given: Mapping[str, str]) -> ssl.SSLContext:
    """How TLS is spoken: ``cafile`` names the authority to trust (else the system's), ``certfile`` and ``keyfile`` what
    we show of ourselves; ``verify=none`` believes anybody. BrokerError for files that can't be used."""
    verify = given.get("verify", "required")
    if verify not in {"required", "none"}:
        raise BrokerError(f"The option verify is required or none, not {verify!r}.")
    try:
        made = ssl.create_default_context(cafile=given.get("cafile"))
    except (OSError, ssl.SSLError) as error:
        raise BrokerError(f"The authority {given.get('cafile')} (cafile) can't be read: {error}.") from None
    if "keyfile" in given and "certfile" not in given:
        raise BrokerError("A keyfile is given without its certfile.")
    if "certfile" in given:
        try:
            made.load_cert_chain(given["certfile"], given.get("keyfile"))
        except (OSError, ssl.SSLError) as error:
            raise BrokerError(f"The certificate {given['certfile']} (certfile) can't be used: {error}.") from None
    if verify == "none":
        warn_unproven()
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def warn_unproven() -> None:
    """The URL asked for it, so it is done, and not in silence."""
    log.warning("The broker's certificate isn't checked, as its URL says: whoever is in between reads and writes all.")


def why(error: BaseException) -> str:
    """In words what stood in the way: of TLS and logins plainly, else the error's own."""
    said = next((words for cause in _causes(error) if (words := _words(cause))), "")
    return said or str(error) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [cause.__cause__, cause.__context__]
        # Drivers hand the first cause on as an argument of their own.
        waiting += [one for one in cause.args if isinstance(one, BaseException)]


def _words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == EXPIRED:
            return "its certificate has expired"
        if error.verify_code == NOT_YET:
            return "its certificate is not valid yet"
        if error.verify_code in OTHER_NAME:
            return f"its certificate is for another host ({error.verify_message})"
        return f"its certificate is of no authority trusted here ({error.verify_message}); name its authority's file"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}:
            return "it speaks no TLS at this port"
        if "CERTIFICATE_REQUIRED" in reason or "BAD_CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
            return f"it does not take our certificate ({reason})"
        return f"TLS failed ({reason or error})"
    if type(error).__name__ in LOGINS or "Login was refused" in str(error):
        return f"it does not take this user and password ({error})"
    return ""


def hint(error: BaseException, scheme: str) -> str:
    """What to add when somebody hung up or was silent before anything was said: so does a TLS port to plain text, and a
    plain one to TLS."""
    secure = scheme in {"rediss", "amqps", "kafkas"}
    silent = ("closed by server", "reset by", *(["Timeout connecting"] if secure else []))
    if not any(
        isinstance(cause, ConnectionResetError | EOFError) or any(words in str(cause) for words in silent)
        for cause in _causes(error)
    ):
        return ""
    return (
        ". Perhaps it speaks no TLS at this port"
        if secure
        else f". If that is a TLS port, the URL begins with {scheme}s://"
    )
