"""Why a pull fails, in the reader's terms; and references of every form, on a real engine."""

from __future__ import annotations

import datetime
import io
import ipaddress
import json
import os
import ssl
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from labhelpers import engine as engines
from labhelpers.engine import credentials, images, registries
from labhelpers.errors import ImageMissing
from labhelpers.lab import Lab

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("ref", "repository", "tag", "registry"),
    [
        ("ubuntu", "ubuntu", "latest", "docker.io"),
        ("ubuntu:20.04", "ubuntu", "20.04", "docker.io"),
        ("library/ubuntu", "library/ubuntu", "latest", "docker.io"),
        ("127.0.0.1:5000/ubuntu", "127.0.0.1:5000/ubuntu", "latest", "127.0.0.1:5000"),
        ("127.0.0.1:5000/a/b:1", "127.0.0.1:5000/a/b", "1", "127.0.0.1:5000"),
        ("localhost/x", "localhost/x", "latest", "localhost"),
        ("[::1]:5000/x:1", "[::1]:5000/x", "1", "[::1]:5000"),
        ("Host/x", "Host/x", "latest", "Host"),
        ("index.docker.io/library/ubuntu:1", "index.docker.io/library/ubuntu", "1", "docker.io"),
        ("ghcr.io/google/cadvisor:v1", "ghcr.io/google/cadvisor", "v1", "ghcr.io"),
        (f"ubuntu@{DIGEST}", "ubuntu", DIGEST, "docker.io"),
        (f"h:5000/x:1@{DIGEST}", "h:5000/x", DIGEST, "h:5000"),
    ],
)
def test_the_parts_of_a_reference(ref: str, repository: str, tag: str, registry: str) -> None:
    assert registries.split(ref) == (repository, tag)
    assert registries.registry_of(ref) == registry


# messages of engines 20.10 to 29, as their users reported them
MESSAGES = {
    "limit": [
        (
            500,
            "toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating",
        ),
        (500, "error parsing HTTP 429 response body: invalid character '<'"),
        (429, "Too Many Requests (HAP429)"),
        (
            500,
            "unexpected status from HEAD request to https://r.example/v2/x/manifests/1: 429 Too Many Requests",
        ),
        (429, ""),
    ],
    "login": [
        (500, "unauthorized: authentication required"),
        (
            404,
            "pull access denied for x, repository does not exist or may require 'docker login': denied: requested",
        ),
        (500, 'Get "https://r.example/v2/x/manifests/1": no basic auth credentials'),
        (403, "denied: requested access to the resource is denied"),
        # ghcr.io, Harbor, ECR
        (500, 'Head "https://r.example/v2/x/manifests/1": unauthorized'),
        (500, "unauthorized: unauthorized to access repository: library/x, action: pull"),
        (500, "denied: Your authorization token has expired. Reauthenticate and try again."),
        (500, "error parsing HTTP 403 response body: invalid character '<' looking for beginning of value"),
        (401, ""),
    ],
    "certificate": [
        (500, 'Get "https://r.example/v2/": x509: certificate signed by unknown authority'),
        (500, "tls: failed to verify certificate: x509: certificate is not trusted"),
    ],
    "date": [
        (
            500,
            'Get "https://r.example/v2/": tls: failed to verify certificate: x509: certificate has expired or is not '
            "yet valid: current time 2020-01-01T00:00:00Z is before 2024-01-01T00:00:00Z",
        ),
    ],
    "other name": [
        (500, "x509: certificate is valid for a.example, b.example, not r.example"),
        (
            500,
            "x509: cannot validate certificate for 192.0.2.1 because it doesn't contain any IP SANs",
        ),
        (500, "x509: certificate relies on legacy Common Name field, use SANs instead"),
    ],
    "client certificate": [
        (500, 'Get "https://r.example/v2/": remote error: tls: bad certificate'),
        (500, "remote error: tls: certificate required"),
    ],
    "broken": [
        (500, "received unexpected HTTP status: 503 Service Unavailable"),
        (500, "unexpected status from HEAD request to https://r.example/v2/x: 500 Internal Server Error"),
        (500, "unknown: Service unavailable"),
    ],
    "no reference": [
        (400, "invalid reference format: repository name (library/Ubuntu) must be lowercase"),
        (400, "invalid reference format"),
    ],
    "proxy": [
        (
            500,
            'Get "https://r.example/v2/": proxyconnect tcp: dial tcp 10.0.0.1:3128: connect: connection refused',
        ),
        (500, 'Get "https://registry-1.docker.io/v2/": Proxy Authentication Required'),
        # a proxy that refuses to connect: Go's message is its status alone
        (500, 'Get "https://registry-1.docker.io/v2/": Forbidden'),
        (500, 'Get "https://registry-1.docker.io/v2/": Bad Gateway'),
        (500, "socks connect tcp 10.0.0.1:1080->r.example:443: dial tcp 10.0.0.1:1080: connection refused"),
    ],
    "network": [
        (500, 'Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: no such host'),
        (500, 'Get "https://registry-1.docker.io/v2/": net/http: request canceled (Client.Timeout exceeded)'),
        (500, 'Get "https://r.example/v2/": dial tcp 192.0.2.1:443: connect: network is unreachable'),
        (500, 'Get "https://registry-1.docker.io/v2/": net/http: TLS handshake timeout'),
        (500, "dial tcp 192.0.2.1:443: connect: connection timed out"),
        (500, "dial tcp [2001:db8::1]:443: connect: cannot assign requested address"),
        (500, "dial tcp 192.0.2.1:443: connect: host is down"),
        (500, "dial tcp: lookup denied.example: Try again"),
        (504, ""),
    ],
    "plain": [
        (500, 'Get "https://r.example:5000/v2/": http: server gave HTTP response to HTTPS client'),
        (500, "tls: first record does not look like a TLS handshake"),
        (500, "tls: oversized record received with length 20527"),
    ],
    "unknown": [
        # a name or a tag is no cause
        (404, "manifest for r.example/app:1429 not found: manifest unknown: manifest unknown"),
        (404, "manifest for r.example/certificate-407 not found: manifest unknown: manifest unknown"),
        (404, 'failed to resolve reference "r.example/access-denied:1": r.example/x: not found'),
        (404, "manifest for debian:no-such not found: manifest unknown: manifest unknown"),
        (404, ""),
    ],
    "platform": [
        (404, "no matching manifest for linux/arm64/v8 in the manifest list entries"),
        (
            500,
            "image with reference x was found but does not match the specified platform: wanted linux/arm64",
        ),
    ],
    "disk": [
        (500, "failed to register layer: write /x: no space left on device"),
        (500, "write /var/lib/docker/tmp/GetImageBlob1: disk quota exceeded"),
    ],
}


def test_each_kind_of_failure_has_a_message_and_a_next_step_of_its_own() -> None:
    seen = {}
    for kind, messages in MESSAGES.items():
        found = {registries.explain_failure("r.example/x", text, status) for status, text in messages}
        assert len({(refusal.cause, refusal.hint) for refusal in found}) == 1, kind
        assert {refusal.engine_message for refusal in found} == {text for _, text in messages}
        seen[kind] = next(iter(found))
    assert len({refusal.cause for refusal in seen.values()}) == len(MESSAGES)
    assert len({refusal.hint for refusal in seen.values()}) == len(MESSAGES)
    assert "docker login r.example" in seen["login"].hint
    assert "/etc/docker/certs.d/r.example/ca.crt" in seen["certificate"].hint


@given(st.text(), st.integers(0, 599))
def test_any_other_message_is_kept(text: str, status: int) -> None:
    refusal = registries.explain_failure("x", text, status)
    assert refusal.engine_message == text
    assert refusal.cause
    assert refusal.hint


# --- on the engine


@contextmanager
def answering(address: str, status: int, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A registry at `address` that answers each question about an image with `status`; gives its `host:port`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(
                {"errors": [{"code": CODES[status], "message": "as the test wants it"}]}
            ).encode()
            self.send_response(200 if self.path in ("/v2", "/v2/") else status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((address, 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"{address}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


CODES = {429: "TOOMANYREQUESTS", 401: "UNAUTHORIZED", 404: "MANIFEST_UNKNOWN"}


@pytest.fixture
def here(shared_lab: Lab) -> Lab:
    """The lab, if its engine's loopback is this machine's."""
    hostname = Path("/proc/sys/kernel/hostname").read_text(encoding="utf-8").strip()
    if shared_lab.engine.info["Name"] != hostname:
        pytest.skip("the test's registry is on this machine, and the engine on another one")
    return shared_lab


@pytest.mark.parametrize(
    ("status", "cause"),
    [(429, "pull rate limit"), (401, "requires a login"), (404, "has no such image or tag")],
)
def test_what_a_registry_says_reaches_the_reader(here: Lab, status: int, cause: str) -> None:
    output: list[str] = []
    with answering("127.0.0.1", status) as address:
        found = images.from_hub(here.engine, f"{address}/mysql:8.4", "payload", output.append)
        with pytest.raises(ImageMissing, match=cause) as caught:
            here.pull(f"{address}/mysql:8.4")
    assert found.is_substitute
    assert cause in output[0]
    assert address in output[0]
    assert "next:" in output[0]
    assert caught.value.engine_message


def test_a_registry_that_is_not_there_is_no_limit_and_no_login(here: Lab) -> None:
    output: list[str] = []
    assert images.from_hub(here.engine, "127.0.0.1:9/mysql:8.4", "payload", output.append).is_substitute
    assert "cannot reach the registry 127.0.0.1:9" in output[0]


@pytest.mark.parametrize(
    ("named", "days", "cause"),
    [
        (True, 1, "does not trust the certificate of the registry {}"),
        (True, -1, "the certificate of the registry {} has expired"),
        (False, 1, "the certificate of the registry {} is for another name"),
    ],
)
def test_a_certificate_that_the_engine_does_not_accept(
    here: Lab, tmp_path: Path, named: bool, days: int, cause: str
) -> None:
    # 127.0.0.0/8 needs no valid certificate (dockerd, "insecure registries"): the address of a network of ours does
    network = here.create_network(f"t-{here.session}-tls{named:d}{days}")
    gateway = network.attrs["IPAM"]["Config"][0]["Gateway"]
    output: list[str] = []
    with answering(gateway, 404, self_signed(tmp_path, gateway, named, days)) as address:
        assert images.from_hub(here.engine, f"{address}/mysql:8.4", "payload", output.append).is_substitute
    assert cause.format(address) in output[0]


def self_signed(folder: Path, host: str, named: bool, days: int) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, end - datetime.timedelta(days=9), end)
    if named:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(certificate + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return context


def test_references_without_a_tag_and_with_a_digest_are_pulled(shared_lab: Lab) -> None:
    pushed = shared_lab.registry.push("labhelpers/payload", "try/forms")  # host:port/try/forms:latest
    bare = pushed.removesuffix(":latest")
    found = images.from_hub(shared_lab.engine, bare, "base")
    assert (found.ref, found.is_substitute) == (bare, False)
    (digest,) = [d for d in shared_lab.client.images.get(bare).attrs["RepoDigests"] if d.startswith(bare)]
    shared_lab.client.images.remove(pushed)
    assert not images.from_hub(shared_lab.engine, digest, "base").is_substitute
    assert shared_lab.client.images.get(digest).id == shared_lab.client.images.get("labhelpers/payload").id
    shared_lab.client.images.remove(digest)


def test_an_image_for_another_processor_is_not_used(shared_lab: Lab) -> None:
    other = "arm64" if registries.architecture(shared_lab.engine.info["Architecture"]) != "arm64" else "amd64"
    ref = f"t-{shared_lab.session}/other:1"
    load_empty_image(shared_lab, ref, other)
    try:
        output: list[str] = []
        assert images.from_hub(shared_lab.engine, ref, "payload", output.append).is_substitute
        assert f"is for {other}" in output[0]
    finally:
        shared_lab.client.images.remove(ref)


def load_empty_image(lab: Lab, ref: str, architecture: str) -> None:
    rootfs = {"type": "layers", "diff_ids": []}
    config = {"architecture": architecture, "os": "linux", "config": {}, "rootfs": rootfs}
    files = {
        "config.json": json.dumps(config).encode(),
        "manifest.json": json.dumps([{"Config": "config.json", "RepoTags": [ref], "Layers": []}]).encode(),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    lab.client.images.load(packed.getvalue())


# --- credential helpers


@pytest.mark.parametrize(
    "config", [{"credsStore": "none-such"}, {"credHelpers": {"127.0.0.1:5000": "none-such"}, "auths": {}}]
)
def test_a_missing_credential_helper_is_named_and_not_needed(
    shared_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, object]
) -> None:
    pushed = shared_lab.registry.push("labhelpers/payload", "try/helper")
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "Dockerfile").write_text("FROM labhelpers/payload\nLABEL built=yes\n", encoding="utf-8")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    engine = engines.connect(shared_lab.engine.address)
    assert any("docker-credential-none-such" in warning for warning in engine.warnings)
    with Lab("test", engine=engine) as lab, lab.quiet():
        assert lab.pull(pushed).tags
        assert lab.build(str(tmp_path), f"t-{lab.session}-built").labels["built"] == "yes"


@pytest.mark.parametrize(
    "program",
    [
        "#!/bin/sh\necho 'pass not initialized' >&2\nexit 1\n",
        "#!/bin/sh\necho 'Enter passphrase:'\n",
        "#!/bin/sh\necho '[1]'\n",
        "#!/bin/sh\necho null\n",
        "#!/no/such/interpreter\n",
        "\0no program at all",
    ],
)
def test_a_credential_helper_that_fails_keeps_nothing_from_being_pulled_or_built(
    shared_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    pushed = shared_lab.registry.push("labhelpers/payload", "try/failing")
    helper = tmp_path / "docker-credential-failing"
    helper.write_text(program, encoding="utf-8")
    helper.chmod(0o755)
    config = {"credsStore": "failing", "credHelpers": {"127.0.0.1:5000": "failing"}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "Dockerfile").write_text("FROM labhelpers/payload\nLABEL built=yes\n", encoding="utf-8")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    engine = engines.connect(shared_lab.engine.address)
    with Lab("test", engine=engine) as lab, lab.quiet():
        assert lab.pull(pushed).tags
        assert lab.build(str(tmp_path), f"t-{lab.session}-built").labels["built"] == "yes"


def test_what_the_file_itself_holds_counts_where_a_helper_fails(
    shared_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"credsStore": "none-such", "auths": {"r.example": {"auth": "bWU6c2VjcmV0"}}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    engine = engines.connect(shared_lab.engine.address)
    assert registries.auth_header(engine, "r.example/x")
    assert registries.auth_header(engine, "other.example/x") == {}


def test_only_missing_helpers_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "docker-credential-there").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "docker-credential-there").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = credentials.missing_helpers
    assert missing({"credHelpers": None, "credsStore": ""}) == ()
    assert missing({"credsStore": "there", "credHelpers": {"a": "none"}}) == ("docker-credential-none",)
    assert credentials.warning({"credsStore": "there"}) is None
