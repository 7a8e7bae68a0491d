"""Who asks, and may they: the API server's own judgement, remembered for a short while."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from cachetools import TTLCache
from kubernetes.aio import client as kube

from rapidfireai.api import GROUP
from rapidfireai_worker.kubeapi import REQUEST_SECONDS, answer_of

AUDIENCE = "rapidfire-volume"
"""Tokens that are asked for with this audience are of use nowhere else."""
Verb = Literal["create", "get"]
_REMEMBERED_SECONDS = 30


class NotAuthenticated(Exception):  # noqa: N818 - an answer
    """The token is nobody's, or there is none; the message says how to get one."""


class NotAllowed(Exception):  # noqa: N818 - an answer
    """The user may not do this; the message says who must allow it."""


@dataclass(frozen=True, slots=True)
class User:
    """Whom a token belongs to."""

    name: str
    uid: str
    groups: tuple[str, ...]
    extra: tuple[tuple[str, tuple[str, ...]], ...]


class Gatekeeper:
    """Asks the API server who a token belongs to and what they may do.

    Args:
        client: An open client.
        namespace: The workspace.
    """

    def __init__(self, client: kube.ApiClient, namespace: str) -> None:
        self._reviews = kube.AuthenticationV1Api(client)
        self._rights = kube.AuthorizationV1Api(client)
        self._namespace = namespace
        self._users: TTLCache[str, User] = TTLCache(1024, _REMEMBERED_SECONDS)
        self._allowed: TTLCache[tuple[User, Verb], bool] = TTLCache(1024, _REMEMBERED_SECONDS)

    async def admit(self, authorization: str | None, verb: Verb) -> User:
        """Return who asks, if they may `verb` experiments in the workspace.

        Args:
            authorization: The request's Authorization header.
            verb: What the request comes to.

        Raises:
            NotAuthenticated: If the token is nobody's.
            NotAllowed: If they may not.
            Refused: If this service's account may not ask.
            Unavailable: If the API server does not answer.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise NotAuthenticated(
                "send `Authorization: Bearer TOKEN` with your own token, or one from "
                f"`kubectl create token rapidfire-user --namespace {self._namespace} --audience {AUDIENCE}`"
            )
        user = await self._user(token.strip())
        if not await self._may(user, verb):
            raise NotAllowed(
                f"{user.name} may not {verb} experiments.{GROUP} in namespace {self._namespace}; ask an administrator "
                "to bind you to the Role rapidfire-user there"
            )
        return user

    async def _user(self, token: str) -> User:
        key = hashlib.sha256(token.encode()).hexdigest()
        found = self._users.get(key)
        if found is None:
            # A token for this service alone, or else one for the API server, as users carry.
            found = await self._review(token, [AUDIENCE]) or await self._review(token, None)
            if found is None:
                raise NotAuthenticated("the token is not valid, or has expired; ask for a new one")
            self._users[key] = found
        return found

    async def _review(self, token: str, audiences: list[str] | None) -> User | None:
        spec = kube.V1TokenReviewSpec(token=token, audiences=audiences)
        body = kube.V1TokenReview(spec=spec)
        review = await answer_of(self._reviews.create_token_review(body, _request_timeout=REQUEST_SECONDS))
        status = review.status
        if (
            status is None
            or not status.authenticated
            or (audiences and not set(audiences) & set(status.audiences or ()))
        ):
            return None
        user = status.user
        extra = tuple(sorted((key, tuple(values)) for key, values in (user.extra or {}).items()))
        return User(user.username or "", user.uid or "", tuple(user.groups or ()), extra)

    async def _may(self, user: User, verb: Verb) -> bool:
        if (user, verb) not in self._allowed:
            spec = kube.V1SubjectAccessReviewSpec(
                user=user.name,
                uid=user.uid or None,
                groups=list(user.groups),
                extra={key: list(values) for key, values in user.extra},
                resource_attributes=kube.V1ResourceAttributes(
                    namespace=self._namespace, verb=verb, group=GROUP, resource="experiments"
                ),
            )
            body = kube.V1LocalSubjectAccessReview(metadata=kube.V1ObjectMeta(namespace=self._namespace), spec=spec)
            review = await answer_of(
                self._rights.create_namespaced_local_subject_access_review(
                    self._namespace, body, _request_timeout=REQUEST_SECONDS
                )
            )
            self._allowed[user, verb] = bool(review.status and review.status.allowed)
        return self._allowed[user, verb]
