"""The lab socket: what a reader types goes through it unchanged, but for labels, prunes and the recording."""

from __future__ import annotations

import io
import json
import os
import select
import shutil
import socket
import subprocess
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.errors import NotFound
from hypothesis import given, settings
from hypothesis import strategies as st

from labhelpers.engine import Engine
from labhelpers.lab import Lab, labsocket
from labhelpers.lab.labsocket import LabSocket, Request, limit_prune, parse_head, with_labels

IMAGE = "labhelpers/payload"
FEW = settings(max_examples=50)
LABELS = {"labhelpers.chapter": "05", "labhelpers.session": "s"}


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def client(shared_lab: Lab) -> Iterator[docker.DockerClient]:
    """The SDK, as a reader's cell uses it: through the lab socket."""
    through = docker.DockerClient(base_url=shared_lab.socket.address, timeout=60)
    yield through
    through.close()


# a machine may have several: the distribution's (20.10 on Debian 12) and a newer one
FOLDERS = os.environ["PATH"].split(os.pathsep)
CLIS = sorted(
    {os.path.realpath(found) for folder in FOLDERS if (found := shutil.which("docker", path=folder))}
)
every_cli = pytest.mark.parametrize("cli", CLIS)


def typed(
    lab: Lab, line: str, stdin: bytes | None = None, cli: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """A line in a terminal whose DOCKER_HOST is the lab socket; `docker` is the program `cli`, if that is given."""
    environment = os.environ | {"DOCKER_HOST": lab.socket.address}
    if cli:
        environment["PATH"] = f"{Path(cli).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(["sh", "-c", line], env=environment, input=stdin, capture_output=True, timeout=120)


def raw(lab: Lab, request: bytes) -> bytes:
    """The whole response to `request`, byte for byte."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(lab.socket.address.removeprefix("unix://"))
        connection.sendall(request)
        pieces = []
        while piece := connection.recv(1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


# --- labels


@every_cli
def test_what_the_cli_creates_carries_the_labels(shared_lab: Lab, name: str, cli: str) -> None:
    made = typed(
        shared_lab,
        f"docker run -d --network none --label mine=1 --name {name} {IMAGE} sleep 300 && "
        f"docker volume create {name} && docker network create {name} && docker commit {name} {name}:committed && "
        f"docker export {name} | docker import - {name}:imported",
        cli=cli,
    )
    assert made.returncode == 0, made.stderr
    wanted = {"labhelpers.session": shared_lab.session, "labhelpers.chapter": shared_lab.chapter}
    api = shared_lab.client.api
    container = api.inspect_container(name)["Config"]["Labels"]
    assert container.items() >= {**wanted, "mine": "1", "labhelpers.kind": "container"}.items()
    volume = api.inspect_volume(name)["Labels"]
    assert volume.items() >= {**wanted, "labhelpers.kind": "volume", "labhelpers.by": "reader"}.items()
    assert api.inspect_network(name)["Labels"].items() >= wanted.items()
    for tag in ("committed", "imported"):
        labels = api.inspect_image(f"{name}:{tag}")["Config"]["Labels"]
        assert labels.items() >= {**wanted, "labhelpers.kind": "image"}.items()


def test_a_build_keeps_its_own_labels_and_gets_ours(
    shared_lab: Lab, client: docker.DockerClient, name: str
) -> None:
    recipe = io.BytesIO(f"FROM {IMAGE}\nLABEL file=yes\n".encode())
    image, _ = client.images.build(fileobj=recipe, tag=name, labels={"asked": "yes"}, rm=True)
    assert (
        image.labels.items()
        >= {"file": "yes", "asked": "yes", "labhelpers.session": shared_lab.session}.items()
    )


def test_the_sdk_in_a_cell_gets_the_labels_too(shared_lab: Lab, client: docker.DockerClient) -> None:
    container = client.containers.create(IMAGE, "true", network_mode="none")
    assert container.labels["labhelpers.session"] == shared_lab.session


@pytest.mark.parametrize("path", ["/v1.40/volumes/create", "/volumes/create", "/v1.40/volumes/%63reate"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_sent_in_any_way_is_labelled(
    shared_lab: Lab, name: str, path: str, chunked: bool
) -> None:
    body = json.dumps({"Name": name, "labels": {"mine": "1"}}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    if chunked:
        half = len(body) // 2
        pieces = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]))
        request = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + pieces + b"0\r\nTrailer: x\r\n\r\n"
    else:
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    response = raw(shared_lab, request)
    assert response.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201"), response
    labels = shared_lab.client.api.inspect_volume(name)["Labels"]
    assert labels.items() >= {"mine": "1", "labhelpers.session": shared_lab.session}.items()


@pytest.mark.parametrize("rest", [b" trailing", b'\n{"Name":"y"}', b""])
def test_a_body_is_labelled_as_the_engine_reads_it(shared_lab: Lab, name: str, rest: bytes) -> None:
    # Go replaces invalid UTF-8, and engines before 23 ignore what follows the first value
    body = b'{"Name":"%s","Unknown":"\xff"}%s' % (name.encode(), rest)
    head = f"POST /v1.41.0/volumes/create HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n"
    response = raw(shared_lab, f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    if b" 201 Created" in response:
        assert (
            shared_lab.client.api.inspect_volume(name)["Labels"]["labhelpers.session"] == shared_lab.session
        )
    else:
        assert b" 400 Bad Request" in response
        assert rest, response


@pytest.mark.parametrize("labels", ['["a=b"]', '"a"', "5"])
@pytest.mark.parametrize("kind", ["containers", "networks", "volumes"])
def test_labels_of_a_wrong_type_are_the_engines_to_refuse(
    shared_lab: Lab, name: str, kind: str, labels: str, capfd: pytest.CaptureFixture[str]
) -> None:
    body = f'{{"Name":"{name}","Image":"{IMAGE}","Labels":{labels}}}'
    head = f"POST /v1.41/{kind}/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
    response = raw(shared_lab, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    assert b"cannot unmarshal" in response
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "first",
    [
        b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
        b"POST /v1.41/exec/none/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_a_connection_whose_upgrade_was_refused_is_not_used_again(
    shared_lab: Lab, name: str, first: bytes
) -> None:
    body = json.dumps({"Name": name}).encode()
    head = f"POST /v1.41/volumes/create HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n"
    second = f"{head}Content-Type: application/json\r\n\r\n".encode() + body
    response = raw(shared_lab, first + second)
    assert response.count(b"HTTP/1.1 ") == 1, response
    assert b"Connection: close\r\n" in response
    with pytest.raises(NotFound):
        shared_lab.client.volumes.get(name)


def test_a_label_of_the_readers_own_stays(shared_lab: Lab, name: str) -> None:
    assert typed(shared_lab, f"docker volume create --label labhelpers.keep=yes {name}").returncode == 0
    try:
        assert shared_lab.client.api.inspect_volume(name)["Labels"]["labhelpers.keep"] == "yes"
    finally:
        shared_lab.client.api.remove_volume(name)


# --- streams


@every_cli
def test_streams_pass_unchanged_in_both_directions(shared_lab: Lab, name: str, cli: str) -> None:
    data = bytes(range(256)) * 4096
    # `docker run -i` closes its own direction at the end of its input and reads on
    assert typed(shared_lab, f"docker run -i --rm --network none {IMAGE} cat", data, cli).stdout == data
    run = f"docker run -d --network none --name {name} {IMAGE} sh -c 'seq 3; exec sleep 300'"
    assert typed(shared_lab, run, cli=cli).returncode == 0
    done = typed(shared_lab, f"docker exec {name} sh -c 'echo out; echo err >&2; exit 3'", cli=cli)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    followed = typed(
        shared_lab, f"(sleep 0.5; docker kill {name} >/dev/null) & docker logs -f {name}", cli=cli
    )
    assert followed.stdout == b"1\n2\n3\n"


def test_a_terminal_works(shared_lab: Lab, name: str) -> None:
    script = shutil.which("script")
    if script is None:
        pytest.skip("`script` (util-linux), which gives the CLI a terminal, is not here")
    # the CLI sends the size of its terminal once the container runs
    wait = "until stty size 2>/dev/null | grep 77; do sleep 0.1; done; tty"
    line = f"docker run -it --rm --network none --name {name} {IMAGE} sh -c '{wait}'"
    done = typed(shared_lab, f'{script} -qec "stty rows 33 cols 77; {line}" /dev/null', b"")
    assert b"33 77" in done.stdout
    assert b"/dev/pts/0" in done.stdout


def test_large_copies_arrive_whole(shared_lab: Lab, name: str, tmp_path: Path) -> None:
    data = os.urandom(8 << 20)
    (tmp_path / "file").write_bytes(data)
    typed(shared_lab, f"docker run -d --network none --name {name} {IMAGE} sleep 300")
    copied = typed(shared_lab, f"docker cp {tmp_path}/file {name}:/file && docker cp {name}:/file -")
    with tarfile.open(fileobj=io.BytesIO(copied.stdout)) as archive:
        member = archive.extractfile("file")
        assert member is not None
        assert member.read() == data
    typed(shared_lab, f"docker commit {name} {name}:big")
    loaded = typed(
        shared_lab,
        f"docker save {name}:big > {tmp_path}/tar && docker rmi {name}:big && docker load < {tmp_path}/tar",
    )
    assert f"Loaded image: {name}:big".encode() in loaded.stdout
    shared_lab.client.api.remove_image(f"{name}:big")


def test_a_client_that_leaves_a_silent_stream_ends_its_connection(shared_lab: Lab, name: str) -> None:
    typed(shared_lab, f"docker run -d --network none --name {name} {IMAGE} sleep 300")
    # nothing is ever written here: without passing the client's end on, the engine would hold the stream
    assert typed(shared_lab, f"timeout 1 docker logs -f {name}; timeout 1 docker events").returncode == 124
    assert typed(shared_lab, f"docker rm -f {name}").returncode == 0


def test_a_client_that_leaves_with_unread_data_ends_its_connection(shared_lab: Lab, name: str) -> None:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(shared_lab.socket.address.removeprefix("unix://"))
    connection.sendall(
        f"GET /v1.41/events?filters=%7B%22volume%22%3A%5B%22{name}%22%5D%7D HTTP/1.1\r\nHost: d\r\n\r\n".encode()
    )
    connection.recv(1)
    before = engine_connections(shared_lab)
    typed(shared_lab, f"docker volume create {name}; docker volume rm {name}")
    select.select([connection], [], [], 10)
    # with data unread, the other side sees a reset and not the end of the input (unix(7))
    connection.close()
    wait_for(lambda: engine_connections(shared_lab) < before)


def engine_connections(lab: Lab) -> int:
    return len(lab.socket._gateway._serving)


def wait_for(condition: Callable[[], bool], within_s: float = 20) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


# --- prunes


def test_a_prune_of_everything_spares_what_is_not_the_sessions(shared_lab: Lab, name: str) -> None:
    foreign = shared_lab.client
    theirs = foreign.containers.create(IMAGE, "true", name=f"{name}-foreign", network_mode="none")
    foreign.volumes.create(f"{name}-foreign")
    foreign.networks.create(f"{name}-foreign")
    theirs.commit(f"{name}-foreign", "1")
    dangling = theirs.commit()
    try:
        typed(
            shared_lab,
            f"docker volume create {name}; docker network create {name}; "
            f"docker run --network none --name {name} {IMAGE} true; docker commit {name} {name}:1",
        )
        pruned = typed(shared_lab, "docker system prune -af --volumes")
        assert pruned.returncode == 0, pruned.stderr
        for prune in ("container", "network", "image", "volume"):
            assert typed(shared_lab, f"docker {prune} prune -f").returncode == 0
        assert foreign.containers.get(f"{name}-foreign").id == theirs.id
        assert foreign.volumes.get(f"{name}-foreign")
        assert foreign.networks.list(names=[f"{name}-foreign"])
        assert foreign.images.get(f"{name}-foreign:1")
        assert foreign.images.get(dangling.id)
        with pytest.raises(NotFound):
            foreign.containers.get(name)
        with pytest.raises(NotFound):
            foreign.images.get(f"{name}:1")
        assert not foreign.networks.list(names=[f"^{name}$"])
    finally:
        theirs.remove()
        foreign.volumes.get(f"{name}-foreign").remove()
        foreign.networks.get(f"{name}-foreign").remove()
        foreign.images.remove(f"{name}-foreign:1")
        foreign.images.remove(dangling.id)


def test_a_filter_of_the_readers_own_still_counts(shared_lab: Lab, name: str) -> None:
    for number in (1, 2):
        run = f"docker run --network none --label a={number} --name {name}-{number} {IMAGE} true"
        assert typed(shared_lab, run).returncode == 0
    typed(shared_lab, "docker container prune -f --filter label=a=1")
    with pytest.raises(NotFound):
        shared_lab.client.containers.get(f"{name}-1")
    assert shared_lab.client.containers.get(f"{name}-2")


@FEW
@given(
    st.dictionaries(
        st.sampled_from(["until", "label", "label!", "dangling"]),
        st.one_of(
            st.lists(st.text(min_size=1), max_size=3),
            st.dictionaries(st.text(min_size=1), st.booleans(), max_size=3),
        ),
    )
)
def test_each_prune_asks_for_the_session_whatever_the_filters(filters: dict[str, object]) -> None:
    request = Request(
        "POST", "/v1.41/images/prune?" + labsocket.urlencode({"filters": json.dumps(filters)}), "HTTP/1.1", []
    )
    limit_prune(request, "s")
    sent = json.loads(dict(request.query)["filters"])
    ours = {"labhelpers.session=s", "labhelpers.kind=image"}
    assert sent["label"].keys() >= ours
    assert {k: set(v) - ours for k, v in sent.items() if k != "label" or filters.get(k)} == {
        k: set(v) - ours for k, v in filters.items() if k != "label" or v
    }


@pytest.fixture
def foreign_volume(shared_lab: Lab, name: str) -> Iterator[str]:
    """A volume that no lab created."""
    yield shared_lab.client.volumes.create(f"{name}-foreign").name
    shared_lab.client.api.remove_volume(f"{name}-foreign")


FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
PRUNES = {
    "null": ("/v1.41/volumes/prune?filters=null", ""),
    "a null list": ("/v1.41/volumes/prune?filters=%7B%22label%22%3Anull%7D", ""),
    "filters twice": ("/v1.41/volumes/prune?filters=%7B%7D&filters=%7B%22label%22%3A%5B%22x%22%5D%7D", ""),
    "a form, which the engine prefers to the query": ("/v1.41/volumes/prune", "filters=%7B%7D"),
    "a version of three numbers": ("/v1.41.0/volumes/prune", ""),
    "no version": ("/volumes/prune", ""),
    "an absolute URL": ("http://docker/v1.41/volumes/prune", ""),
    "an encoded path": ("/v1.41/volumes/%70rune", ""),
}
UNREADABLE = ("[]", "5", '"x"', "{bad", "{} x", '{"label":"x"}', '{"label":[["x"]]}', '{"until":"24h"}')


@pytest.mark.parametrize(("target", "form"), PRUNES.values(), ids=PRUNES.keys())
def test_a_prune_is_limited_however_it_is_written(
    shared_lab: Lab, foreign_volume: str, target: str, form: str
) -> None:
    # the anonymous volume goes with a plain prune on every engine
    mine = typed(shared_lab, "docker volume create").stdout.decode().strip()
    head = f"POST {target} HTTP/1.1\r\nHost: d\r\n{FORM if form else ''}Content-Length: {len(form)}\r\n\r\n"
    assert b" 200 OK" in raw(shared_lab, f"{head}{form}".encode())
    assert shared_lab.client.volumes.get(foreign_volume)
    with pytest.raises(NotFound):
        shared_lab.client.volumes.get(mine)


@pytest.mark.parametrize("filters", UNREADABLE)
def test_a_prune_whose_filters_nobody_can_read_is_refused(
    shared_lab: Lab, foreign_volume: str, filters: str, capfd: pytest.CaptureFixture[str]
) -> None:
    target = "/v1.41/volumes/prune?" + labsocket.urlencode({"filters": filters})
    response = raw(shared_lab, f"POST {target} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode())
    assert response.startswith(b"HTTP/1.1 400"), response
    assert shared_lab.client.volumes.get(foreign_volume)
    assert "Traceback" not in capfd.readouterr().err


def test_a_prune_spares_a_container_that_somebody_else_runs_from_the_sessions_image(
    shared_lab: Lab, name: str
) -> None:
    run = f"docker run --network none --name {name} {IMAGE} true && docker commit {name} {name}:1"
    assert typed(shared_lab, run).returncode == 0
    theirs = shared_lab.client.containers.create(f"{name}:1", "true", network_mode="none")
    try:
        assert theirs.labels["labhelpers.session"] == shared_lab.session, "it has the labels of its image"
        assert typed(shared_lab, "docker container prune -f").returncode == 0
        assert shared_lab.client.containers.get(theirs.id)
        with pytest.raises(NotFound):
            shared_lab.client.containers.get(name)
    finally:
        theirs.remove()
        shared_lab.client.images.remove(f"{name}:1")


def test_the_build_cache_is_nobodys(shared_lab: Lab) -> None:
    response = raw(
        shared_lab, b"POST /v1.41/build/prune?all=1 HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n"
    )
    assert b"200 OK" in response
    assert json.loads(response.partition(b"\r\n\r\n")[2]) == {"CachesDeleted": [], "SpaceReclaimed": 0}


# --- the recording


def test_a_recording_shows_what_a_command_is_made_of(shared_lab: Lab) -> None:
    with shared_lab.record_requests() as calls:
        typed(shared_lab, f"docker run --rm --network none {IMAGE} true")
    assert calls.contains("POST /containers/create", "POST /containers/ID/start")
    assert not calls.contains("POST /containers/ID/start", "POST /containers/create")
    frame = calls.frame().set_index("request")
    assert frame.loc["POST /containers/create", "status"] == 201
    assert frame.loc["POST /containers/ID/attach", "status"] == 101
    before = len(calls.requests)
    typed(shared_lab, "docker ps")
    assert len(calls.requests) == before, "a recording ends with its block"


# --- bad input and a missing engine


def test_what_is_no_request_gets_an_answer(shared_lab: Lab) -> None:
    assert raw(shared_lab, b"hello\r\n\r\n").startswith(b"HTTP/1.1 400")
    too_long = b"POST /v1.41/volumes/create HTTP/1.1\r\nHost: d\r\nContent-Length: 99999999999\r\n\r\n"
    assert raw(shared_lab, too_long).startswith(b"HTTP/1.1 400")
    assert raw(shared_lab, b"GET //[ HTTP/1.1\r\nHost: d\r\n\r\n").startswith(b"HTTP/1.1 400")
    deep = b'{"x":' * 100_000
    head = b"POST /volumes/create HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n" % len(deep)
    assert raw(shared_lab, head + deep).startswith(b"HTTP/1.1 400")
    assert typed(shared_lab, "docker ps").returncode == 0, "it goes on"


def test_an_engine_that_is_away_is_named(shared_lab: Lab, tmp_path: Path) -> None:
    from labhelpers.engine.endpoint import EngineEndpoint

    away = LabSocket(EngineEndpoint(f"unix://{tmp_path}/none.sock", "a test"), "s", lambda kind: {})
    try:
        done = subprocess.run(
            ["docker", "-H", away.address, "ps"], capture_output=True, encoding="utf-8", timeout=30
        )
        assert "lab socket" in done.stderr
        assert done.returncode == 1
    finally:
        away.close()
    assert not Path(away.address.removeprefix("unix://")).exists()


def test_only_its_user_may_open_it(shared_lab: Lab) -> None:
    path = Path(shared_lab.socket.address.removeprefix("unix://"))
    assert path.stat().st_mode & 0o077 == 0


# --- what is rewritten, and what is not

HEADER = st.tuples(
    st.text(st.sampled_from("abcXYZ-09"), min_size=1),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n")).map(str.strip),
)


@FEW
@given(st.sampled_from(["GET", "POST", "HEAD"]), st.lists(HEADER, max_size=5))
def test_a_head_is_sent_on_as_it_came(method: str, headers: list[tuple[str, str]]) -> None:
    sent = Request(method, "/v1.41/x?y=%20z", "HTTP/1.1", headers).head()
    assert parse_head(sent.removesuffix(b"\r\n\r\n")).head() == sent


@FEW
@given(st.binary())
def test_a_head_is_read_or_refused(data: bytes) -> None:
    with suppress(labsocket.BadRequest):
        parse_head(data)


@FEW
@given(
    st.one_of(
        st.binary(),
        st.recursive(
            st.none() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
        ).map(lambda x: json.dumps(x).encode()),
    )
)
def test_a_body_without_labels_is_labelled_and_any_other_is_left_to_the_engine(body: bytes) -> None:
    done = with_labels(body, LABELS)
    text = body.decode(errors="replace").lstrip(" \t\r\n") or "{}"
    try:
        before, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        before, end = 0, 0
    if before is None:
        before = {}
    if not isinstance(before, dict):
        assert done == body
        return
    after, rest = json.JSONDecoder().raw_decode(done.decode())
    assert done.decode()[rest:] == text[end:]
    key = next((key for key in after if key.lower() == "labels"), "Labels")
    if isinstance(before.get(key) or {}, dict):
        assert after[key].items() >= LABELS.items() - (before.get(key) or {}).items()
    assert {k: v for k, v in after.items() if k != key} == {k: v for k, v in before.items() if k != key}


def test_docker_host_comes_back_whichever_of_two_labs_closes_first(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first_to_close in (0, 1):
        monkeypatch.setenv("DOCKER_HOST", "unix:///before.sock")
        with Lab("test", engine=engine) as item, Lab("test", engine=engine) as two:
            item.use_socket()
            two.use_socket()
            labs = (item, two)
            assert os.environ["DOCKER_HOST"] == two.socket.address
            labs[first_to_close].close()
            assert os.environ["DOCKER_HOST"] == (two if first_to_close == 0 else item).socket.address
        assert os.environ["DOCKER_HOST"] == "unix:///before.sock"
