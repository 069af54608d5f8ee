"""Registries: the parts of a reference, and why an image cannot be pulled.

The engine asks the registry, not this machine: what counts are the engine's network, proxy and certificates (Engine
API, GET /distribution/{name}/json and POST /images/create). A registry says why in the codes of the OCI distribution
specification (`TOOMANYREQUESTS`, `UNAUTHORIZED`, `DENIED`, `MANIFEST_UNKNOWN`), the engine passes on its text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from docker import auth
from docker.errors import APIError, DockerException
from docker.utils import parse_repository_tag

from labhelpers.engine.find import Engine
from labhelpers.errors import DISK_FULL, ImageMissing

HUB = "docker.io"
_HOST = re.compile(r"localhost$|.*[.:A-Z]|\[")


@dataclass(frozen=True, slots=True)
class PullFailure:
    """Why a registry, or the way to it, did not give an image.

    Attributes:
        cause: one sentence, without a full stop.
        hint: what to do next.
        engine_message: the engine's own message.
    """

    cause: str
    hint: str
    engine_message: str

    def to_error(self, ref: str) -> ImageMissing:
        """The same as an error about the image `ref`."""
        return ImageMissing(
            f"the image {ref!r} could not be pulled: {self.cause}",
            hint=self.hint,
            engine_message=self.engine_message,
        )


def split(ref: str) -> tuple[str, str]:
    """The repository and the tag or digest of a reference; `latest` where it has neither.

    `127.0.0.1:5000/ubuntu` has a port and no tag. With both a tag and a digest, the digest counts.
    """
    name, _, digest = ref.partition("@")
    repository, tag = parse_repository_tag(name)
    return repository, digest or tag or "latest"


def registry_of(ref: str) -> str:
    """The registry that a reference names, by its host and port; `docker.io` where it names none.

    The first part is a host if it has a dot, a port or upper case, or is `localhost` (distribution/reference,
    normalize.go).
    """
    first, slash, _ = ref.partition("/")
    host = first if slash and _HOST.match(first) else HUB
    return HUB if host == auth.INDEX_NAME or host == f"index.{HUB}" else host


def check_image(engine: Engine, ref: str, seconds: float) -> PullFailure | None:
    """Ask the registry of `ref` for it, through the engine; None where it has it.

    Args:
        seconds: how long the answer may take.
    """
    api: Any = engine.client.api
    url = f"{api.base_url}/v{api.api_version}/distribution/{ref}/json"
    try:
        answer = api.get(url, headers=auth_header(engine, ref), timeout=max(seconds, 0.1))
    except requests.Timeout:
        return explain_failure(ref, f"the registry did not answer within {seconds:g} s", 504)
    except (requests.RequestException, DockerException) as error:
        return explain_failure(ref, str(error), 0)
    if answer.status_code == 200:
        return None
    try:
        words = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        words = answer.text
    return explain_failure(ref, words, answer.status_code)


def auth_header(engine: Engine, ref: str) -> dict[str, str]:
    """The header with what `docker login` has kept for the registry of `ref`; empty where that is nothing."""
    registry = registry_of(ref)
    name = auth.INDEX_NAME if registry == HUB else registry
    try:
        header = auth.get_config_header(engine.client.api, name)
    except (DockerException, RuntimeError, OSError):
        return {}  # a credential helper that fails: the registry may not ask for a login at all
    return {"X-Registry-Auth": header.decode() if isinstance(header, bytes) else header} if header else {}


# --- why


def explain_failure(ref: str, message: str, status: int = 0) -> PullFailure:
    """Why the pull of `ref` failed: from the engine's message, and from the status of its response."""
    host = registry_of(ref)
    name = "Docker Hub" if host == HUB else f"the registry {host}"
    text = _without_names(message, ref)
    for sign, cause, hint in _CAUSES:
        if re.search(sign, text):
            return PullFailure(cause.format(name=name), hint.format(host=host, ref=ref), message)
    by_status = {
        429: _LIMIT,
        401: _LOGIN,
        403: _LOGIN,
        404: _UNKNOWN,
        502: _NETWORK,
        503: _NETWORK,
        504: _NETWORK,
    }
    cause, hint = by_status.get(status, ("{name} did not provide it", "read the engine's message above"))
    return PullFailure(cause.format(name=name), hint.format(host=host, ref=ref), message)


_LIMIT = (
    "the pull rate limit of {name} for your network address is reached",
    "wait for the limit to be lifted (Docker Hub: up to 6 hours), log in with `docker login`, or pull from a mirror: "
    "LABHELPERS_REGISTRY=HOST:PORT ./lab up",
)
_LOGIN = (
    "{name} requires a login, or has no such image",
    "check the name; if the image is private: docker login {host}",
)
_UNKNOWN = ("{name} has no such image or tag", "check its name and tag: {ref}")
_CERTIFICATE = (
    "the engine does not trust the certificate of {name}",
    "a corporate proxy often replaces it: install the proxy's CA certificate on the engine's host, in "
    "/etc/docker/certs.d/{host}/ca.crt or among the system's, then restart the engine "
    "(docs.docker.com/engine/network/ca-certs)",
)
_CLIENT_CERTIFICATE = (
    "{name} asks the engine for a client certificate",
    "put client.cert and client.key on the engine's machine, in /etc/docker/certs.d/{host} "
    "(docs.docker.com/engine/security/certificates)",
)
_DATE = (
    "the certificate of {name} has expired, or the clock of the engine's machine is wrong",
    "compare `docker info --format '{{{{.SystemTime}}}}'` with the time; otherwise that certificate has to be renewed",
)
_OTHER_NAME = (
    "the certificate of {name} is for another name",
    "use one of its names: openssl s_client -connect {host} </dev/null | openssl x509 -noout -ext "
    "subjectAltName",
)
_BROKEN = (
    "{name} has an internal error",
    "try again in a few minutes; Docker Hub reports its faults on www.dockerstatus.com",
)
_NO_REFERENCE = (
    "that is not a valid image name",
    "write it in lower case, as [HOST[:PORT]/]NAME[:TAG]: {ref}",
)
_PROXY = (
    "the engine's proxy blocks access to {name}",
    "check the engine's proxy settings, its HTTPS_PROXY and NO_PROXY, not this terminal's "
    "(docs.docker.com/engine/daemon/proxy)",
)
_NETWORK = (
    "the engine cannot reach {name}: no network, no DNS, or nothing listens there",
    "check the network of the engine's machine; without a network, use local images or LABHELPERS_REGISTRY",
)
_PLAIN = (
    "{name} uses HTTP without TLS",
    "use its HTTPS address, or add it to “insecure-registries” in the engine's daemon.json",
)
_PLATFORM = (
    "{name} has no such image for this engine's platform",
    "choose an image that is built for it; docker manifest inspect {ref} lists them",
)

# More specific first: a proxy's answer may be a 407, a 403 or a certificate; a limit may be wrapped in a 500. Each is a
# regular expression for text in lower case. Go's clients write `Get "URL": ` and then the cause; where that is the name
# of a status alone, a proxy refused to connect (net/http, transport.go), and a registry's own answer has more to it.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (r"no space left on device|disk quota exceeded", "the engine's disk is full", DISK_FULL),
    (r"toomanyrequests|too many requests|rate limit|(status|code|http)\S* 429\b", *_LIMIT),
    (
        r"proxyconnect|socks connect|proxy authentication|(status|code|http)\S* 407\b|proxy error|via proxy"
        r"|\": (forbidden|service unavailable|bad gateway|gateway timeout)\s*$",
        *_PROXY,
    ),
    (
        r"(gave|sent an?) http response to|does not look like a tls handshake|oversized record received",
        *_PLAIN,
    ),
    (r"remote error: tls: (bad certificate|certificate required|unknown certificate)", *_CLIENT_CERTIFICATE),
    (r"has expired or is not yet valid|certificate has expired|certificate is not yet valid", *_DATE),
    (r"certificate is (not )?valid for|ip sans|legacy common name", *_OTHER_NAME),
    (r"x509|certificate|tls: failed to verify", *_CERTIFICATE),
    (r"no matching manifest|does not match the specified platform|no match for platform", *_PLATFORM),
    (r"invalid reference|must be lowercase|invalid (tag|repository|checksum)", *_NO_REFERENCE),
    (
        r"unauthorized|authentication required|no basic auth|denied|forbidden|incorrect username or password"
        r"|insufficient_scope|(status|code|http)\S* 40[13]\b",
        *_LOGIN,
    ),
    (r"manifest unknown|not found|name unknown|repository does not exist", *_UNKNOWN),
    (
        r"no such host|i/o timeout|connection refused|network is unreachable|no route to host|server misbehaving"
        r"|name resolution|connection reset|deadline exceeded|client\.timeout|(context|request) canceled|\beof\b"
        r"|did not answer within|handshake timeout|timed out|host is down|network is down|cannot assign requested"
        r"|try again|connectex",
        *_NETWORK,
    ),
    (
        r"(status|code|http)\S* 5\d\d\b|status from .* 5\d\d |service unavailable|internal server error",
        *_BROKEN,
    ),
)


_NAMES = re.compile(
    r"https?://[^\s\"]+|(?<=manifest for )\S+|(?<=denied for )\S+|(?<=lookup )\S+|(?<=resolve reference )\S+",
    re.IGNORECASE,
)


def _without_names(words: str, ref: str) -> str:
    """The message in lower case, without the names in it: an image may be called `denied`, or have the tag `429`."""
    for name in (ref, split(ref)[0]):
        # a short one may be part of a word
        words = words.replace(name, "") if re.search(r"[/:@]", name) else words
    return _NAMES.sub("", words).lower()


# --- the processor

_ARCHITECTURE_ALIASES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "i386": "386",
}


def architecture(name: str) -> str:
    """A processor by its name in image configurations (Go's GOARCH): `x86_64` is `amd64`."""
    return _ARCHITECTURE_ALIASES.get(name.lower(), name.lower())


def foreign_architecture(engine: Engine, image: Mapping[str, Any]) -> str | None:
    """The processor that an image is for, where the engine has another one; `image` as inspected."""
    wanted, found = (
        architecture(str(engine.info.get("Architecture", ""))),
        architecture(str(image.get("Architecture") or "")),
    )
    return found if wanted and found and wanted != found else None


def pull_error(error: APIError | DockerException, ref: str) -> PullFailure:
    """Why the SDK's pull of `ref` failed."""
    status = error.response.status_code if isinstance(error, APIError) and error.response is not None else 0
    return explain_failure(ref, str(getattr(error, "explanation", None) or error), status)
