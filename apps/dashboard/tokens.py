"""The page of one's own API tokens: made here and shown once, listed with their last use, ended."""

from __future__ import annotations

from datetime import timedelta

from django import forms
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from apps.dashboard.access import page
from apps.lib.roles import AREAS, RANK, Grant, held, rank
from apps.people import actions
from apps.people.models import ApiToken
from services.kit.problem import Refused

LIVES = (7, 30, 90, 365)
"""Days offered for a new token; REST takes any time up to a year."""


class NewToken(forms.Form):
    """What a token is asked to be."""

    name = forms.CharField(max_length=120)
    role = forms.ChoiceField(choices=[(role, role) for role in RANK])
    read_only = forms.BooleanField(required=False)
    areas = forms.MultipleChoiceField(required=False, choices=[(area, area) for area in AREAS])
    days = forms.TypedChoiceField(coerce=int, choices=[(days, f"{days} days") for days in LIVES])


@never_cache
@page
@require_http_methods(["GET", "HEAD", "POST"])
def tokens(request: HttpRequest) -> HttpResponse:
    """The list; by POST a new token, whose page can't be had again."""
    form = NewToken(request.POST or None, initial={"days": 90, "role": held(request.user)})
    issued, refusal, status = "", "", 200
    if request.method == "POST":
        status = 400
        if form.is_valid():
            wanted = form.cleaned_data
            grant = Grant(wanted["role"], wanted["read_only"], frozenset(wanted["areas"]))
            try:
                _, issued = actions.issue(
                    request.user, wanted["name"], timezone.now() + timedelta(days=wanted["days"]), grant=grant
                )
                form, status = NewToken(initial=form.initial), 201
            except Refused as refused:
                refusal, status = refused.problem.detail, refused.problem.status
    context = {
        "nav": "tokens",
        "form": form,
        "issued": issued,
        "refusal": refusal,
        "rows": ApiToken.objects.filter(user=request.user),
        "roles": [role for role, needed in RANK.items() if needed <= rank(request.user)],
        "areas": AREAS,
        "lives": LIVES,
    }
    return render(request, "tokens.html", context, status=status)


@never_cache
@page
@require_POST
def end(request: HttpRequest, pk: int) -> HttpResponse:
    """End one of one's own; another's is none."""
    actions.end(ApiToken.objects.filter(user=request.user, pk=pk), f"{request.user.get_username()} ended it")
    return HttpResponseRedirect("/tokens/")
