"""From a request to an answer: the paths, verbs and rights of the fake Kubernetes API.

It knows no socket. A watch is answered with what it is about; `kubernetes_http` sends it.

Sources: Kubernetes API Concepts ("Resource URIs", "Resource types"); Authorization Overview
("Determine the request verb"); API Conventions ("Response Status Kind").
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from keyturn.local import kubernetes_protobuf
from keyturn.local.kubernetes_discovery import REVIEWS, document
from keyturn.local.kubernetes_kinds import Kind
from keyturn.local.kubernetes_objects import Key, Objects
from keyturn.local.kubernetes_rbac import (
    ANONYMOUS,
    Question,
    User,
    is_allowed,
    refusal_text,
    rules_of,
)
from keyturn.local.kubernetes_rules import Refusal, Unfit, invalid
from keyturn.local.kubernetes_selectors import Meets, by_fields, by_labels, page, wanted_fields

Json = dict[str, Any]

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}

_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<part>[^/]+))?)?/?"
)
_PROXY_PATH = re.compile(
    r"/api/v1/namespaces/(?P<namespace>[^/]+)/services/(?P<service>[^/]+)/proxy(?P<behind>/.*)?"
)
_NAMESPACE_PATH = re.compile(
    r"/api/(?P<core>v1)/(?P<plural>namespaces)(?:/(?P<name>[^/]+)(?:/(?P<part>status))?)?/?"
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request, as the tests see it: never a body, a token or a header.

    Attributes:
        method: GET, POST ...
        path: Without the query.
        query: The parameters.
        verb: As RBAC knows it (get, list, watch ...), or the method in small letters where the path
            is none of an object's.
        group: "" is the core group, or none.
        resource: The plural, with the part if there is one: `deployments/status`; or "".
        namespace: Or "".
        name: Or "".
        version: Of the group.
        behind: Of a request to a service by the API's proxy: the service's own path.
        is_metadata: Only the object's metadata is to be answered.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    verb: str = ""
    group: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    version: str = ""
    behind: str = ""
    is_metadata: bool = False

    def __str__(self) -> str:
        where = "/".join(filter(None, (self.namespace, self.name)))
        return f"{self.verb} {self.resource or self.path} {where}".strip()

    def question(self) -> Question:
        """Return what it needs to be allowed."""
        return Question(self.verb, self.group, self.resource, self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Watch:
    """A watch to be sent: of which objects, and since which version.

    Attributes:
        since: None is now, after all that are there.
    """

    kind: Kind
    version: str
    namespace: str
    meets: Meets
    since: int | None
    timeout_s: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered; a str is plain text."""

    status: int
    body: Json | str | Watch = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


_METADATA = "as=PartialObjectMetadata"


def read(method: str, path: str, query: Mapping[str, str], accept: str = "") -> Request:
    """Return what a request is about, by its path, and what it accepts."""
    if proxied := _PROXY_PATH.fullmatch(path):
        return Request(
            *(method, path, query, _VERBS.get(method, "get"), "", "services/proxy"),
            *(proxied["namespace"], proxied["service"], "v1", proxied["behind"] or "/"),
        )
    found = _NAMESPACE_PATH.fullmatch(path) or _PATH.fullmatch(path)
    if found is None:
        return Request(method, path, query, method.lower())
    parts = found.groupdict()
    name = parts["name"] or ""
    namespace = parts.get("namespace") or (name if parts["plural"] == "namespaces" else "")
    resource = "/".join(filter(None, (parts["plural"], parts["part"])))
    is_watch = query.get("watch") in {"1", "true"}
    verb = _VERBS.get(method) or (
        "get" if name and not is_watch else "watch" if is_watch else "list"
    )
    if verb == "delete" and not name:
        verb = "deletecollection"
    # RBAC's resourceNames hold for a list or a watch of one object too.
    one = re.search(r"(?:^|,)metadata\.name==?([^,]+)", query.get("fieldSelector", ""))
    if one and verb in {"list", "watch", "deletecollection"}:
        name = one[1]
    version = parts["core"] or parts["version"]
    group = parts.get("group") or ""
    # Metadata-only fetches (API Concepts): of one object, here.
    is_metadata = verb == "get" and _METADATA in accept
    return Request(
        *(method, path, query, verb, group, resource, namespace, name, version),
        is_metadata=is_metadata,
    )


class Api:
    """Answers requests. Safe to use from any thread.

    Args:
        objects: The store.
        users: Bearer token -> who it is. Read at every request.

    Attributes:
        services: What answers behind the API's proxy: from `NAMESPACE/SERVICE`, as in the path, to
            what makes a text of the service's own path. Raises LookupError for an unknown path.
    """

    def __init__(self, objects: Objects, users: Mapping[str, User]) -> None:
        self.objects = objects
        self.services: dict[str, Callable[[str], str]] = {}
        self._users = users

    def answer(self, request: Request, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Do what is asked.

        Raises:
            Refusal: The answer is an error.
        """
        media_type = headers.get("content-type", "application/json").partition(";")[0].strip()
        user = self._acting(headers)
        found = self._about_itself(request, user)
        if found is not None:
            return Answer(200, found)
        review = self._review(request, user, body, media_type)
        if review is not None:
            return Answer(201, review)
        kind = self._kind(request)
        if not is_allowed(self.objects, user, request.question()):
            details = {"name": request.name, "group": request.group, "kind": kind.plural}
            raise Refusal(
                403,
                "Forbidden",
                refusal_text(user, request.question()),
                {key: value for key, value in details.items() if value},
            )
        if request.behind:
            return self._proxied(request)
        if request.verb in {"get", "list", "watch"}:
            return self._read(request, kind)
        return self._write(request, kind, _decoded(body, media_type), media_type)

    def _acting(self, headers: Mapping[str, str]) -> User:
        """Return who asks, or as whom he acts (User impersonation)."""
        user = self._authenticated(headers.get("authorization", ""))
        name = headers.get("impersonate-user")
        if name is None:
            return user
        question = Question("impersonate", "", "users", "", name)
        if not is_allowed(self.objects, user, question):
            raise Refusal(403, "Forbidden", refusal_text(user, question))
        return User(name, ("system:authenticated",))

    def _authenticated(self, authorization: str) -> User:
        scheme, _, token = authorization.partition(" ")
        if not authorization:
            return ANONYMOUS
        if scheme.lower() != "bearer" or token not in self._users:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        user = self._users[token]
        return User(user.name, (*user.groups, "system:authenticated"))

    # ------------------------------------------------------------------ about itself

    def _about_itself(self, request: Request, user: User) -> Json | str | None:
        if request.method != "GET":
            return None
        found = document(request.path, list(self.objects.kinds.values()))
        is_public = not request.path.startswith("/api")  # system:public-info-viewer
        if found is not None and not is_public and user == ANONYMOUS:
            says = f'forbidden: User "{user.name}" cannot get path "{request.path}"'
            raise Refusal(403, "Forbidden", says)
        return found

    def _review(self, request: Request, user: User, body: bytes, media_type: str) -> Json | None:
        """Answer who the user is and what he may: everyone may ask that of himself."""
        if (request.group, request.resource) not in {
            (group, plural) for group, plural, _ in REVIEWS
        }:
            return None
        if request.verb != "create" or user == ANONYMOUS:
            raise Refusal(403, "Forbidden", refusal_text(user, request.question()))
        asked = _decoded(body, media_type)
        return {**asked, "status": self._status_of_review(request.resource, user, asked)}

    def _status_of_review(self, resource: str, user: User, asked: Json) -> Json:
        match resource:
            case "selfsubjectreviews":
                return {"userInfo": {"username": user.name, "groups": list(user.groups)}}
            case "selfsubjectrulesreviews":
                rules = list(rules_of(self.objects, user, asked["spec"].get("namespace", "")))
                return {"resourceRules": rules, "nonResourceRules": [], "incomplete": False}
            case _:
                return {"allowed": is_allowed(self.objects, user, _asked(asked["spec"]))}

    # ------------------------------------------------------------------ objects

    def _kind(self, request: Request) -> Kind:
        plural, _, part = request.resource.partition("/")
        kind = self.objects.kinds.get((request.group, plural))
        is_there = kind is not None and request.version in kind.versions
        has_part = request.behind or not part or (part == "status" and kind and kind.has_status)
        if kind is None or not is_there or not has_part:
            # No Status: the server has no handler for such a path (net/http NotFound).
            raise Refusal(404, "", "404 page not found\n")
        return kind

    def _read(self, request: Request, kind: Kind) -> Answer:
        if request.verb == "get":
            found = self.objects.get(kind, _key(kind, request))
            one = shown(kind, request.version, found)
            return Answer(200, _metadata_of(one) if request.is_metadata else one)
        meets = self._chosen(request, kind)
        if request.verb == "watch":
            return Answer(200, _watch(request, kind, meets))
        limit, after = _whole(request, "limit", 0), request.query.get("continue", "")
        with self.objects.lock:
            found_all = self.objects.every(kind, request.namespace, meets)
            items, metadata = page(found_all, self.objects, limit, after)
        return Answer(
            200,
            {
                "kind": f"{kind.kind}List",
                "apiVersion": kind.api_version(request.version),
                "metadata": metadata,
                "items": [shown(kind, request.version, each) for each in items],
            },
        )

    def _proxied(self, request: Request) -> Answer:
        """Answer as the service does (API Concepts; "Access Services Running on Clusters")."""
        service = self.services.get(f"{request.namespace}/{request.name}")
        name = request.name.split(":")[1] if ":" in request.name else request.name
        if service is None:
            says = f'services "{name}" not found'
            raise Refusal(404, "NotFound", says, {"name": name, "kind": "services"})
        try:
            return Answer(200, service(request.behind))
        except LookupError:
            return Answer(404, "404 page not found\n")

    def _chosen(self, request: Request, kind: Kind) -> Meets:
        has_labels = by_labels(request.query.get("labelSelector", ""))
        wanted = wanted_fields(request.query.get("fieldSelector", ""), kind)
        if request.name:
            wanted["metadata.name"] = request.name
        has_fields = by_fields(wanted)
        return lambda one: has_labels(one) and has_fields(one)

    def _write(self, request: Request, kind: Kind, body: Any, media_type: str) -> Answer:
        with self.objects.trial(dry="dryRun" in request.query):
            match request.verb:
                case "create":
                    return self._create(request, kind, body)
                case "update":
                    new = self._update(request, kind, body)
                case "patch":
                    part = request.resource.partition("/")[2]
                    key = _key(kind, request)
                    new = self.objects.patch(kind, key, media_type, body, part)
                case "delete":
                    return self._delete(request, kind, body or {})
                case _:
                    says = "the server does not allow this method on the requested resource"
                    raise Refusal(405, "MethodNotAllowed", says)
            return Answer(200, shown(kind, request.version, new))

    def _create(self, request: Request, kind: Kind, body: Any) -> Answer:
        made = _meant(kind, request, body)
        namespace = request.namespace if kind.is_namespaced else ""
        new = self.objects.create(kind, namespace, made)
        return Answer(201, shown(kind, request.version, new))

    def _update(self, request: Request, kind: Kind, body: Any) -> Json:
        made = _meant(kind, request, body)
        if kind.is_custom and not (made.get("metadata") or {}).get("resourceVersion"):
            says = "Invalid value: 0x0: must be specified for an update"
            fault = Unfit("FieldValueInvalid", "metadata.resourceVersion", says)
            raise invalid(kind, request.name, [fault])
        part = request.resource.partition("/")[2]
        return self.objects.update(kind, _key(kind, request), made, part)

    def _delete(self, request: Request, kind: Kind, options: Json) -> Answer:
        key = _key(kind, request)
        gone = self.objects.delete(kind, key, options.get("preconditions"))
        if gone["metadata"].get("deletionTimestamp"):
            return Answer(200, shown(kind, request.version, gone))
        details = {"name": key.name, "kind": kind.plural, "uid": gone["metadata"]["uid"]}
        details |= {"group": kind.group} if kind.group else {}
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return Answer(200, {**status, "details": details})


def _asked(spec: Json) -> Question:
    wanted: Json = spec.get("resourceAttributes") or {}
    resource = "/".join(filter(None, (wanted.get("resource", ""), wanted.get("subresource", ""))))
    return Question(
        wanted.get("verb", ""),
        wanted.get("group", ""),
        resource,
        wanted.get("namespace", ""),
        wanted.get("name", ""),
    )


def _key(kind: Kind, request: Request) -> Key:
    namespace = request.namespace if kind.is_namespaced else ""
    return Key(kind.group, kind.plural, namespace, request.name)


def shown(kind: Kind, version: str, one: Json) -> Json:
    """Return an object as a version of the API shows it."""
    return {**one, "apiVersion": kind.api_version(version), "kind": kind.kind}


def _metadata_of(one: Json) -> Json:
    meta = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
    return {**meta, "metadata": one["metadata"]}


def _watch(request: Request, kind: Kind, meets: Meets) -> Watch:
    since = _whole(request, "resourceVersion", 0)
    return Watch(
        kind,
        request.version,
        request.namespace if kind.is_namespaced else "",
        meets,
        since or None,
        _whole(request, "timeoutSeconds", 1800),
    )


def _whole(request: Request, parameter: str, default: int) -> int:
    try:
        return int(request.query.get(parameter) or default)
    except ValueError:
        raise Refusal(400, "BadRequest", f"{parameter} is no whole number") from None


def _meant(kind: Kind, request: Request, body: Any) -> Json:
    """Return the object that a body holds, which must be of the kind that the path says."""
    if not isinstance(body, dict):
        raise Refusal(400, "BadRequest", "the body is no object")
    api_version = kind.api_version(request.version)
    if body.get("kind", kind.kind) != kind.kind:
        says = f'{body["kind"]} in version "{request.version}" cannot be handled as a {kind.kind}'
        raise Refusal(400, "BadRequest", says)
    if body.get("apiVersion", api_version) != api_version:
        says = f"the API version in the data ({body['apiVersion']}) does not match the expected"
        raise Refusal(400, "BadRequest", f"{says} API version ({api_version})")
    return {**body, "apiVersion": api_version, "kind": kind.kind}


def _decoded(body: bytes, media_type: str) -> Any:
    """Return what a body holds.

    Raises:
        Refusal: It is in another format (415), or not even in its own (400).
    """
    if not body:
        return None
    try:
        if media_type == kubernetes_protobuf.MEDIA_TYPE:
            made = kubernetes_protobuf.decoded(body)
            if made is not None:
                return made
        if media_type == "application/yaml":
            return yaml.safe_load(body)
        if media_type.endswith("json"):
            return json.loads(body)
    except (ValueError, yaml.YAMLError):
        raise Refusal(400, "BadRequest", "the body of the request cannot be parsed") from None
    raise Refusal(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include:"
        " application/json, application/yaml",
    )
