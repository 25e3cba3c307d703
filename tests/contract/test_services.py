"""What every service of the fleet promises, asked of all four as real processes."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
import requests

from tests.unit.services.processes import CLIENTS, NAMES, Home, Process
from tests.unit.services.switchboard import Switchboard, problem
from tests.unit.services.test_payments import FILES, sentences
from tests.waiting import patient, until

ACTIONS = {"aegis": "/v1/token", "covenant": "/v1/transactions", "nexus": "/v1/intents", "mint": "/v1/accounts"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, redis_process: str) -> Home:
    return Home(tmp_path_factory.mktemp("services"), redis_process)


@pytest.fixture(scope="module")
def switchboard(home: Home) -> Iterator[Switchboard]:
    with Switchboard(home.token) as board:
        home.env["MC_GATEWAY_URL"] = board.url
        yield board


@pytest.fixture(scope="module")
def services(home: Home, switchboard: Switchboard) -> Iterator[dict[str, Process]]:
    running = {name: Process(home, name) for name in NAMES}
    try:
        for process in running.values():
            process.start(ready=False)
        for process in running.values():
            until(process._ready, 40, what=f"{process.name} is ready")
            switchboard.services[process.name] = process.url
        yield running
    finally:
        codes = {name: process.stop() for name, process in running.items()}
    assert codes == dict.fromkeys(NAMES, 0), "SIGTERM is a clean exit"


@pytest.fixture(params=NAMES)
def service(request: pytest.FixtureRequest, services: dict[str, Process]) -> Process:
    return services[request.param]


def refusal(answer: requests.Response, status: int, failure: str) -> dict[str, Any]:
    """Check the shape of a problem document; its members."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status and body["failure"] == failure
    assert body["title"] and body["detail"] and body["type"].startswith("urn:mission-control:problem:")
    assert "Traceback" not in answer.text
    return body


# -- every service -------------------------------------------------------------------------------


def test_health_and_readiness_are_open_and_say_who_answers(service: Process) -> None:
    answer = service.get("/health", fleet=False)
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "ok" and body["service"] == service.name
    assert body["version"] and body["uptime_s"] >= 0
    assert service.get("/ready", fleet=False).status_code == 200


def test_the_api_describes_itself(service: Process) -> None:
    schema = service.get("/openapi.json", fleet=False).json()
    assert schema["openapi"].startswith("3.")
    assert {"/health", "/ready", ACTIONS[service.name]} <= set(schema["paths"])
    ids = [action["operationId"] for path in schema["paths"].values() for action in path.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("token", [None, "", "wrong", "é"])
def test_a_call_without_the_fleet_token_is_refused(service: Process, token: str | None) -> None:
    headers = {} if token is None else {"X-Fleet-Token": token.encode("latin-1")}
    answer = service.call("POST", ACTIONS[service.name], fleet=False, headers=headers, json={})
    refusal(answer, 401, "fleet_token_required")


def test_an_unknown_address_and_a_wrong_method_are_problems(service: Process) -> None:
    refusal(service.get("/v1/nothing"), 404, "not_found")
    answer = service.call("PATCH", ACTIONS[service.name])
    refusal(answer, 405, "method_not_allowed")
    assert answer.headers["allow"]


def test_an_oversized_body_is_refused_whether_it_is_declared_or_streamed(service: Process) -> None:
    body = b"x" * (1024 * 1024 + 1)
    refusal(service.call("POST", ACTIONS[service.name], data=body), 413, "body_too_large")

    def pieces() -> Iterator[bytes]:
        for _ in range(17):
            yield b"x" * 65536

    refusal(service.call("POST", ACTIONS[service.name], data=pieces()), 413, "body_too_large")


def test_what_is_not_http_ends_with_400(service: Process) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as raw:
        raw.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 400")


def test_a_caller_that_waits_no_longer_is_not_worked_for(service: Process) -> None:
    answer = service.call("POST", ACTIONS[service.name], json={}, headers={"X-Request-Timeout-Ms": "0"})
    refusal(answer, 504, "deadline_exceeded")


@pytest.mark.parametrize("name", ["covenant", "nexus"])
@pytest.mark.parametrize("body", [b"{", b'{"text": ', b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_is_400(services: dict[str, Process], name: str, body: bytes) -> None:
    answer = services[name].call("POST", ACTIONS[name], data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("covenant", []),
        ("covenant", {}),
        ("covenant", {"from": "a", "to": "b", "amount": "1.001", "currency": "AZR"}),
        ("covenant", {"from": "a", "to": "b", "amount": -1, "currency": "AZR"}),
        ("covenant", {"from": "a", "to": "b", "amount": True, "currency": "AZR"}),
        ("covenant", {"from": "a", "to": "b", "amount": "1", "currency": "credits"}),
        ("covenant", {"from": "a", "to": 7, "amount": "1", "currency": "AZR"}),
        ("covenant", {"from": "a", "to": "b", "amount": "1", "currency": "AZR", "height": 1}),
        ("covenant", {"from": "a", "to": "b", "amount": "1", "currency": "AZR", "memo": "x" * 281}),
        ("nexus", {"text": ""}),
        ("nexus", {"text": "   "}),
        ("nexus", {"text": 7}),
        ("nexus", {"text": "x" * 501}),
        ("nexus", "send 25 AZR to thandi"),
    ],
)
def test_json_of_the_wrong_shape_is_422_and_names_the_field(services: dict[str, Process], name: str, body: Any) -> None:
    answer = services[name].post(ACTIONS[name], body)
    found = refusal(answer, 422, "invalid")
    assert found["errors"] and all(item["message"] for item in found["errors"])


def test_a_drain_finishes_what_has_begun(home: Home, redis_process: str) -> None:
    """A request whose body arrives slowly straddles the SIGTERM, and is still answered."""
    process = Process(home, "covenant", COVENANT_DATABASE_URL=f"sqlite:///{home.folder}/drain.sqlite3").start()
    body = b'{"from": "a", "to": "b", "amount": "1", "currency": "AZR"}'
    with socket.create_connection(("127.0.0.1", process.port), timeout=10) as raw:
        head = (
            f"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nX-Fleet-Token: {home.token}\r\nX-Consumer: demo\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        raw.sendall(head.encode() + body[:10])
        time.sleep(0.2)  # the request has to be under way; there is nothing to ask
        assert process.process is not None
        process.process.send_signal(signal.SIGTERM)
        until(lambda: _refused(process.port), 5, what="the listener is closed")
        raw.sendall(body[10:])
        assert raw.recv(65536).startswith(b"HTTP/1.1 201")
    assert process.stop() == 0


def _refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_second_signal_ends_it_at_once(home: Home) -> None:
    process = Process(home, "covenant", COVENANT_DATABASE_URL=f"sqlite:///{home.folder}/twice.sqlite3").start()
    assert process.process is not None
    with socket.create_connection(("127.0.0.1", process.port)) as raw:
        raw.sendall(b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        process.process.send_signal(signal.SIGTERM)
        until(lambda: _refused(process.port), 5, what="the listener is closed")
        began = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        process.process.wait(5)
        assert time.monotonic() - began < patient(2.5)
    process.process = None


def test_a_missing_setting_is_one_sentence_and_no_start(home: Home) -> None:
    process = Process(home, "mint", MC_GATEWAY_PORT="seven")
    process.start(ready=False)
    assert process.process is not None
    try:
        assert process.process.wait(30) == 2
    finally:
        process.process.kill()
    assert process.said().strip() == "MC_GATEWAY_PORT must be a whole number, not 'seven'."


# -- covenant ------------------------------------------------------------------------------------


def entry(**changes: Any) -> dict[str, Any]:
    return {"from": "demo", "to": "thandi", "amount": "25.00", "currency": "AZR"} | changes


def test_transactions_are_chained_fetched_and_verified(services: dict[str, Process]) -> None:
    covenant = services["covenant"]
    first = covenant.post("/v1/transactions", entry(memo="lunch")).json()
    second = covenant.post("/v1/transactions", entry(amount=3.5, to="Sipho")).json()
    assert second["height"] == first["height"] + 1
    assert second["previous_hash"] == first["hash"]
    assert second["amount"] == "3.50" and second["to"] == "sipho" and second["recorded_by"] == "demo"
    assert covenant.get(f"/v1/transactions/{first['id']}").json() == first
    assert covenant.get("/v1/head").json() == {"height": second["height"], "hash": second["hash"]}
    verified = covenant.get("/v1/verify").json()
    assert verified["valid"] and verified["last"] == second["height"] and verified["next"] is None
    part = covenant.get("/v1/verify", params={"since": 2, "limit": 1}).json()
    assert part["valid"] and part["first"] == part["last"] == 2
    refusal(covenant.get("/v1/transactions/none-such"), 404, "not_found")


def test_a_sender_left_out_is_the_caller_and_may_not_be_the_recipient(services: dict[str, Process]) -> None:
    body = entry()
    del body["from"]
    assert services["covenant"].post("/v1/transactions", body, consumer="lerato").json()["from"] == "lerato"
    refusal(services["covenant"].post("/v1/transactions", body, consumer="thandi"), 422, "same_account")


def test_pages_follow_a_cursor_newest_first(services: dict[str, Process]) -> None:
    covenant = services["covenant"]
    ids = [covenant.post("/v1/transactions", entry(to="pager", amount=number)).json()["id"] for number in range(1, 8)]
    found: list[str] = []
    cursor: str | None = None
    for _ in range(10):
        params = {"account": "PAGER", "limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = covenant.get("/v1/transactions", params=params).json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == ids[::-1]
    for bad in ({"limit": 0}, {"limit": 201}, {"cursor": "x"}, {"account": "no such/name"}):
        assert covenant.get("/v1/transactions", params=bad).status_code == 422


def test_an_idempotency_key_records_once_and_only_one_thing(services: dict[str, Process]) -> None:
    covenant = services["covenant"]
    key = {"Idempotency-Key": "order-1"}
    first = covenant.post("/v1/transactions", entry(), headers=key)
    again = covenant.post("/v1/transactions", entry(amount=25), headers=key)
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json() and again.headers["idempotent-replayed"] == "true"
    refusal(covenant.post("/v1/transactions", entry(amount=26), headers=key), 422, "idempotency_key_reused")
    other = covenant.post("/v1/transactions", entry(), headers=key, consumer="nexus")
    assert other.json()["id"] != first.json()["id"], "a key belongs to who used it"


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"to": "thаndi"}, "invalid"),  # its third letter is Cyrillic
        ({"to": "thạndi"}, "account_lookalike"),
        ({"from": "dem0"}, "account_lookalike"),
        ({"currency": "XTS"}, "invalid"),
        ({"amount": "1000000000000"}, "invalid"),
    ],
)
def test_a_name_that_looks_like_anothers_and_a_currency_of_nowhere_are_not_recorded(
    services: dict[str, Process], changes: dict[str, str], failure: str
) -> None:
    covenant = services["covenant"]
    covenant.post("/v1/transactions", entry())
    before = covenant.get("/v1/head").json()
    refusal(covenant.post("/v1/transactions", entry(**changes)), 422, failure)
    assert covenant.get("/v1/head").json() == before


def test_the_same_key_sent_at_once_records_once(services: dict[str, Process]) -> None:
    covenant = services["covenant"]
    answers: list[Any] = []

    def send() -> None:
        answers.append(covenant.post("/v1/transactions", entry(), headers={"Idempotency-Key": "at-once"}).json())

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer["id"] for answer in answers}) == 1


# -- mint ----------------------------------------------------------------------------------------


def test_balances_follow_the_ledger_and_add_up_to_nothing(services: dict[str, Process]) -> None:
    covenant, mint = services["covenant"], services["mint"]
    refusal(mint.get("/v1/accounts/newcomer"), 404, "account_unknown")
    covenant.post("/v1/transactions", entry(to="newcomer", amount="10.01"))
    covenant.post("/v1/transactions", entry(to="newcomer", amount="0.99"))
    covenant.post("/v1/transactions", {"from": "newcomer", "to": "shop", "amount": 4, "currency": "AZR"})
    covenant.post("/v1/transactions", entry(to="newcomer", amount=5, currency="USD"))

    def settled() -> Any:
        answer = mint.get("/v1/accounts/Newcomer")
        return answer.status_code == 200 and len(answer.json()["entries"]) == 4 and answer.json()

    account = until(settled, 10)
    assert account["balances"] == {"AZR": "7.00", "USD": "5.00"}
    assert account["entries"][0]["amount"] == "5.00" and account["entries"][1]["amount"] == "-4.00"
    assert account["entries"][1]["balance"] == "7.00" and account["entries"][1]["other"] == "shop"
    totals = mint.get("/v1/totals").json()["totals"]
    assert set(totals.values()) == {"0.00"}
    names = [item["account"] for item in mint.get("/v1/accounts", params={"limit": 200}).json()["items"]]
    assert names == sorted(names) and {"demo", "newcomer", "shop"} <= set(names)
    page = mint.get("/v1/accounts", params={"limit": 1}).json()
    assert (
        mint.get("/v1/accounts", params={"limit": 1, "cursor": page["next"]}).json()["items"][0]["account"]
        > page["next"]
    )


# -- aegis ---------------------------------------------------------------------------------------


def ask(aegis: Process, auth: tuple[str, str] | None = None, path: str = "/v1/token", **fields: str) -> Any:
    return aegis.call("POST", path, data=fields, auth=auth)


def test_a_client_gets_a_token_that_the_published_keys_verify(services: dict[str, Process]) -> None:
    aegis = services["aegis"]
    answer = ask(aegis, ("demo", CLIENTS["demo"]), grant_type="client_credentials")
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body["token_type"] == "Bearer" and body["expires_in"] == 900
    published = aegis.get("/.well-known/jwks.json", fleet=False)
    assert "max-age" in published.headers["cache-control"]
    keys = jwt.PyJWKSet.from_dict(published.json())
    kid = jwt.get_unverified_header(body["access_token"])["kid"]
    found = jwt.decode(
        body["access_token"], keys[kid].key, algorithms=["EdDSA"], audience="mission-control",
        issuer="http://localhost:8080/aegis",
    )  # fmt: skip
    assert found["sub"] == "demo"
    assert all("d" not in key for key in published.json()["keys"]), "private halves stay inside"
    metadata = aegis.get("/.well-known/oauth-authorization-server", fleet=False).json()
    assert metadata["issuer"] == found["iss"] and metadata["jwks_uri"].endswith("/.well-known/jwks.json")


def test_the_secret_is_taken_in_the_body_and_as_json_too(services: dict[str, Process]) -> None:
    aegis = services["aegis"]
    fields = {"grant_type": "client_credentials", "client_id": "demo", "client_secret": CLIENTS["demo"]}
    assert ask(aegis, **fields).status_code == 200
    assert aegis.post("/v1/token", fields).status_code == 200


@pytest.mark.parametrize(
    ("fields", "auth", "status", "error"),
    [
        ({"grant_type": "client_credentials"}, ("demo", "wrong"), 401, "invalid_client"),
        ({"grant_type": "client_credentials"}, ("nobody", "wrong"), 401, "invalid_client"),
        ({"grant_type": "client_credentials"}, None, 401, "invalid_client"),
        ({"grant_type": "password"}, ("demo", CLIENTS["demo"]), 400, "unsupported_grant_type"),
        ({}, ("demo", CLIENTS["demo"]), 400, "invalid_request"),
        ({"grant_type": "client_credentials", "scope": "root"}, ("demo", CLIENTS["demo"]), 400, "invalid_scope"),
        (
            {"grant_type": "client_credentials", "client_secret": "x"},
            ("demo", CLIENTS["demo"]),
            400,
            "invalid_request",
        ),
    ],
)
def test_what_oauth_refuses_is_refused_in_its_words(
    services: dict[str, Process], fields: dict[str, str], auth: tuple[str, str] | None, status: int, error: str
) -> None:
    answer = ask(services["aegis"], auth, **fields)
    body = refusal(answer, status, error)
    assert body["error"] == error and body["error_description"]
    assert ("www-authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"grant_type=client_credentials&grant_type=x", "application/x-www-form-urlencoded", 400),
        (b"grant_type=%ff", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a%d=1" % number for number in range(100)), "application/x-www-form-urlencoded", 400),
        (b"<xml/>", "text/xml", 415),
        (b"[1]", "application/json", 400),
        (b"{", "application/json", 400),
    ],
)
def test_a_body_that_is_no_form_is_refused(services: dict[str, Process], body: bytes, kind: str, status: int) -> None:
    answer = services["aegis"].call("POST", "/v1/token", data=body, headers={"Content-Type": kind})
    assert refusal(answer, status, "invalid_request")["error"] == "invalid_request"


def test_guessing_a_secret_is_slowed_down(services: dict[str, Process]) -> None:
    """For the guesser's address; the client itself still gets in from its own."""
    aegis = services["aegis"]
    codes = []
    for _ in range(8):
        answer = aegis.call(
            "POST", "/v1/token", data={"grant_type": "client_credentials"}, auth=("demo", "guess"),
            headers={"X-Forwarded-For": "203.0.113.9"},
        )  # fmt: skip
        codes.append(answer.status_code)
    assert codes[:5] == [401] * 5 and set(codes[5:]) == {429}
    assert int(answer.headers["retry-after"]) >= 1 and answer.json()["error"] == "slow_down"
    assert ask(aegis, ("demo", CLIENTS["demo"]), grant_type="client_credentials").status_code == 200


def test_introspection_tells_a_token_that_holds_from_one_that_does_not(services: dict[str, Process]) -> None:
    aegis, me = services["aegis"], ("demo", CLIENTS["demo"])
    made = ask(aegis, me, grant_type="client_credentials").json()["access_token"]
    held = ask(aegis, me, "/v1/introspect", token=made).json()
    assert held["active"] is True and held["sub"] == "demo"
    assert ask(aegis, me, "/v1/introspect", token=made[:-4] + "AAAA").json() == {"active": False}
    refusal(ask(aegis, None, "/v1/introspect", token=made), 401, "invalid_client")


# -- nexus ---------------------------------------------------------------------------------------


def test_an_order_is_carried_out_and_confirmed(services: dict[str, Process], switchboard: Switchboard) -> None:
    nexus, covenant, mint = services["nexus"], services["covenant"], services["mint"]
    switchboard.seen.clear()
    answer = nexus.post("/v1/intents", {"text": "send 25 AZR to Ayanda for lunch"}, consumer="demo")
    assert answer.status_code == 200
    body = answer.json()
    assert body["intent"] == "send_money" and body["status"] == "confirmed"
    assert body["slots"] == {"amount": "25", "currency": "AZR", "name": "ayanda", "memo": "lunch"}
    assert body["message"] == "Sent 25 AZR to ayanda."
    recorded = covenant.get(f"/v1/transactions/{body['confirmation']['id']}").json()
    assert recorded["hash"] == body["confirmation"]["hash"] and recorded["height"] == body["confirmation"]["height"]
    assert (recorded["from"], recorded["to"], recorded["amount"]) == ("demo", "ayanda", "25.00")
    assert recorded["recorded_by"] == "nexus" and recorded["memo"] == "lunch"
    _, path, sent = switchboard.seen[0]
    assert path == "/covenant/v1/transactions" and sent["X-API-Key"].startswith("mc_nexus")
    assert sent["Idempotency-Key"] and sent["traceparent"] and int(sent["X-Request-Timeout-Ms"]) > 0
    until(lambda: mint.get("/v1/accounts/ayanda").status_code == 200, 5)
    told = nexus.post("/v1/intents", {"text": "what is my balance"}, consumer="ayanda").json()
    assert told["status"] == "answered" and told["balances"] == {"AZR": "25.00"}
    asked = nexus.post("/v1/intents", {"text": "what is the balance of ayanda"}, consumer="demo").json()
    assert asked["balances"] == told["balances"] and asked["message"] == "ayanda holds 25.00 AZR."
    listed = nexus.post("/v1/intents", {"text": "show my transactions"}, consumer="ayanda").json()
    assert listed["status"] == "answered" and listed["transactions"][0]["id"] == recorded["id"]


def test_an_order_sent_twice_with_one_key_is_carried_out_once(services: dict[str, Process]) -> None:
    nexus = services["nexus"]
    send = {"text": "send 7 AZR to repeat"}
    key = {"Idempotency-Key": "abc"}
    first = nexus.post("/v1/intents", send, headers=key).json()["confirmation"]
    assert nexus.post("/v1/intents", send, headers=key).json()["confirmation"] == first
    assert nexus.post("/v1/intents", send).json()["confirmation"] != first
    assert nexus.post("/v1/intents", send, headers=key, consumer="other").json()["confirmation"] != first
    changed = nexus.post("/v1/intents", {"text": "send 8 AZR to repeat"}, headers=key)
    assert refusal(changed, 422, "idempotency_key_reused")["by"] == "covenant"


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("send money to thandi", ["amount", "currency"]),
        ("send 25 to thandi", ["currency"]),
        ("please send 25 AZR", ["name"]),
        ("send 25 AZR to thandi and sipho", ["name"]),
        ("send 0 AZR to thandi", ["amount"]),
        ("send 1.005 AZR to thandi", ["amount"]),
        ("send 25 AZR to demo", ["name"]),
    ],
)
def test_an_incomplete_order_asks_and_moves_nothing(
    services: dict[str, Process], text: str, missing: list[str]
) -> None:
    before = services["covenant"].get("/v1/head").json()
    body = services["nexus"].post("/v1/intents", {"text": text}).json()
    assert body["intent"] == "send_money" and body["status"] == "incomplete"
    assert body["missing"] == missing and body["question"]
    assert services["covenant"].get("/v1/head").json() == before


def test_hundreds_of_sentences_that_order_nothing_move_nothing(services: dict[str, Process]) -> None:
    before = services["covenant"].get("/v1/head").json()
    for text in [line for name in FILES for line in sentences(name)]:
        answer = services["nexus"].post("/v1/intents", {"text": text})
        assert answer.status_code == 200 and answer.json()["status"] != "confirmed", text
    assert services["covenant"].get("/v1/head").json() == before


def test_an_order_that_is_none_is_asked_about(services: dict[str, Process]) -> None:
    body = services["nexus"].post("/v1/intents", {"text": "send 25 AZR to thandi tomorrow"}).json()
    assert (body["status"], body["missing"]) == ("incomplete", ["order"]) and "Nothing was sent" in body["question"]


def test_a_sentence_moves_no_more_than_it_may(services: dict[str, Process]) -> None:
    before = services["covenant"].get("/v1/head").json()
    body = services["nexus"].post("/v1/intents", {"text": "send 100000.01 AZR to thandi"}).json()
    assert (body["status"], body["missing"]) == ("incomplete", ["amount"])
    assert services["covenant"].get("/v1/head").json() == before


@pytest.mark.parametrize("text", ["what is the weather", "did it rain on tuesday"])
def test_what_is_no_request_is_unknown_and_moves_nothing(services: dict[str, Process], text: str) -> None:
    before = services["covenant"].get("/v1/head").json()
    body = services["nexus"].post("/v1/intents", {"text": text}).json()
    assert body["intent"] == body["status"] == "unknown"
    assert len(body["candidates"]) == 3 and all(0 <= item["confidence"] <= 1 for item in body["candidates"])
    assert services["covenant"].get("/v1/head").json() == before


def test_an_intent_that_is_not_carried_out_says_so(services: dict[str, Process]) -> None:
    body = services["nexus"].post("/v1/intents", {"text": "convert 50 dollars into AZR"}).json()
    assert body["intent"] == "exchange_currency" and body["status"] == "recognised"
    assert body["slots"]["to_currency"] == "AZR"
    listed = services["nexus"].get("/v1/intents").json()
    assert len(listed["items"]) >= 12
    assert next(item for item in listed["items"] if item["name"] == "send_money")["does"] == "act"


def test_a_dependency_that_is_away_is_named(services: dict[str, Process], switchboard: Switchboard) -> None:
    real = switchboard.services["covenant"]
    switchboard.fault = lambda request: _breaker_open() if "covenant" in request.path else None
    try:
        began = time.monotonic()
        answer = services["nexus"].post("/v1/intents", {"text": "send 25 AZR to thandi"})
        assert time.monotonic() - began < patient(0.5), "a long Retry-After is passed on, not waited for"
    finally:
        switchboard.fault = None
        switchboard.services["covenant"] = real
    body = refusal(answer, 503, "dependency_failed")
    assert body["dependency"] == "covenant" and body["dependency_failure"] == "breaker_open"
    assert answer.headers["x-failed-dependency"] == "covenant" and answer.headers["retry-after"] == "4"
    assert services["nexus"].get("/health").status_code == 200, "it is not nexus that is ill"


def _breaker_open() -> Any:
    return problem(503, "breaker_open", **{"Retry-After": "4"})


def test_a_passing_fault_is_ridden_out_and_the_money_moves_once(
    services: dict[str, Process], switchboard: Switchboard
) -> None:
    faults = iter([problem(502, "upstream_reset"), problem(503, "no_healthy_upstream", **{"Retry-After": "0"})])
    switchboard.fault = lambda _request: next(faults, None)
    before = services["covenant"].get("/v1/head").json()["height"]
    try:
        answer = services["nexus"].post("/v1/intents", {"text": "send 3 AZR to patient"})
    finally:
        switchboard.fault = None
    assert answer.json()["status"] == "confirmed"
    assert services["covenant"].get("/v1/head").json()["height"] == before + 1
