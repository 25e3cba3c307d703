"""nexus over HTTP: one sentence in, what was understood and done out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from opentelemetry import metrics, trace
from pydantic import BaseModel, ConfigDict, Field, field_validator

from services.kit.auth import consumer
from services.kit.client import Client
from services.nexus import payments
from services.nexus.corpus import ACTING
from services.nexus.intents import ACTS, DESCRIPTIONS, TALK, Order, carry_out
from services.nexus.slots import extract
from services.nexus.store import ModelStore


class Sentence(BaseModel):
    """What someone said."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1, max_length=500, examples=["send 25 AZR to thandi"])

    @field_validator("text")
    @classmethod
    def _has_words(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("The text is blank.")
        return value


class Candidate(BaseModel):
    """An intent that the sentence may mean."""

    intent: str
    confidence: float


class Confirmation(BaseModel):
    """The entry in the ledger."""

    id: str
    height: int
    hash: str


class Understood(BaseModel):
    """``status``: ``confirmed`` (done), ``incomplete`` (nothing was done: see ``missing`` and
    ``question``), ``answered``,
    ``recognised`` (understood, not carried out) or ``unknown`` (unsure: see ``candidates``)."""

    intent: str
    confidence: float
    slots: dict[str, str]
    status: str
    message: str
    candidates: list[Candidate]
    confirmation: Confirmation | None = None
    missing: list[str] | None = None
    question: str | None = None
    balances: dict[str, str] | None = None
    transactions: list[dict[str, Any]] | None = None


class IntentOut(BaseModel):
    """``does``: act (through another service), talk, or nothing."""

    name: str
    does: str
    description: str


class IntentsOut(BaseModel):
    """Everything that can be recognised."""

    items: list[IntentOut]
    threshold: float


def router(models: ModelStore, client: Client, most: int) -> APIRouter:
    """The intents' addresses; a sentence moves ``most`` minor units at most."""
    routes = APIRouter(prefix="/v1", tags=["intents"])
    read = metrics.get_meter("services.nexus").create_counter("nexus.intents", description="Sentences, by intent.")

    @routes.post("/intents", response_model=Understood, response_model_exclude_none=True)
    async def understand(
        body: Sentence,
        request: Request,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=128)] = None,
    ) -> dict[str, Any]:
        """Recognise what ``text`` asks for and do it; with an ``Idempotency-Key`` once, however often it is sent."""
        reading = models.read(body.text)
        intent = reading.intent
        slots = extract(body.text)
        # What moves money takes two: a model that is sure, and a grammar that leaves no word over.
        payment = payments.read(body.text) if intent in ACTING and reading.certain else None
        known = {
            "intent": intent or "unknown",
            "confidence": reading.confidence,
            "slots": payment.slots() if payment else slots.found() if intent not in TALK else {},
            "candidates": [{"intent": guess.intent, "confidence": guess.confidence} for guess in reading.top],
        }
        span = trace.get_current_span()
        span.set_attribute("nexus.intent", known["intent"])
        span.set_attribute("nexus.confidence", reading.confidence)
        if intent is None:
            read.add(1, {"intent": "unknown", "status": "unknown"})
            message = "I am not sure what you mean; it may be one of the candidates. Say it another way."
            return {**known, "slots": {}, "status": "unknown", "message": message}
        order = Order(consumer(request), slots, payment, idempotency_key or "", most)
        outcome = await carry_out(intent, client, order)
        read.add(1, {"intent": intent, "status": outcome.status})
        return {**known, "status": outcome.status, "message": outcome.message, **outcome.extra}

    @routes.get("/intents", response_model=IntentsOut)
    async def intents() -> dict[str, Any]:
        """What can be recognised, and what is done about it."""
        does = {**dict.fromkeys(ACTS, "act"), **dict.fromkeys(TALK, "talk")}
        items = [
            {"name": name, "does": does.get(name, "nothing"), "description": DESCRIPTIONS.get(name, "")}
            for name in models.model.intents
        ]
        return {"items": items, "threshold": models.model.threshold}

    return routes
