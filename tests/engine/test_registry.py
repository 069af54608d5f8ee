"""The lab's own registry: a pull from it is real, and nothing of it stays."""

from __future__ import annotations

import hashlib
import json

import pytest

from labhelpers.engine import Engine
from labhelpers.engine.registry import STORAGE_PATH, Registry
from labhelpers.errors import EngineRefused, LabError
from labhelpers.lab import Lab


def test_what_is_pushed_can_be_pulled_and_its_digest_is_true(lab: Lab) -> None:
    ref = lab.registry.push("labhelpers/payload", "try/payload")
    pulled = lab.pull(ref)
    assert pulled.id == lab.client.images.get("labhelpers/payload").id
    (digest,) = {
        d.partition("@")[2] for d in pulled.attrs["RepoDigests"] if d.startswith(lab.registry.address)
    }
    hexadecimal = digest.removeprefix("sha256:")
    blob = f"{STORAGE_PATH}/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"
    manifest = lab.exec(lab.registry.container, ["cat", blob]).stdout
    assert hashlib.sha256(manifest.encode()).hexdigest() == hexadecimal
    assert json.loads(manifest)["schemaVersion"] == 2


def test_it_is_published_on_loopback_only(lab: Lab) -> None:
    assert lab.registry.address.startswith("127.0.0.1:")
    published = lab.registry.container.attrs["NetworkSettings"]["Ports"]["5000/tcp"]
    assert {binding["HostIp"] for binding in published} == {"127.0.0.1"}


def test_an_image_that_is_not_there_is_reported(lab: Lab) -> None:
    with pytest.raises(EngineRefused, match="no-such-image"):
        lab.registry.push("no-such-image")


def test_closing_removes_it_and_what_was_pulled_from_it(engine: Engine) -> None:
    with Lab("test", engine=engine) as lab:
        ref = lab.registry.push("labhelpers/payload", "try/gone")
        lab.pull(ref)
        container, address = lab.registry.container, lab.registry.address
    assert container.id not in [c.id for c in engine.client.containers.list(all=True, ignore_removed=True)]
    tags = [tag for row in engine.client.api.images() for tag in row["RepoTags"] or []]
    assert not [tag for tag in tags if tag.startswith(address)]
    assert "labhelpers/payload:latest" in tags


def test_what_is_kept_in_a_volume_is_there_again(lab: Lab) -> None:
    labels = lab._labels("container")
    storage = lab.create_volume(f"t-{lab.session}").name
    first = Registry(lab.engine, labels, lambda: lab.image("registry"), storage=storage)
    first.push("labhelpers/payload", "try/kept")
    first.close()
    again = Registry(lab.engine, labels, lambda: lab.image("registry"), storage=storage)
    ref = f"{again.address}/try/kept:latest"
    assert lab.pull(ref).id == lab.client.images.get("labhelpers/payload").id
    lab.client.images.remove(ref)
    again.close()


def test_a_registry_that_does_not_start_is_reported(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(lab), "image", lambda self, name: "labhelpers/payload:latest")
    monkeypatch.setattr("labhelpers.engine.registry._START_TIMEOUT_S", 1)
    with pytest.raises(LabError, match="did not become ready"):
        _ = lab.registry.address
