"""One reader's work on one chapter: it owns what it makes, removes it, and touches nothing else."""

from __future__ import annotations

import atexit
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound
from docker.models.containers import Container
from docker.models.images import Image
from docker.models.networks import Network
from docker.models.volumes import Volume

from labhelpers import engine as engines
from labhelpers import magic, names
from labhelpers import ours as belongings
from labhelpers.command import (
    Build,
    Commit,
    CreateNetwork,
    CreateVolume,
    Exec,
    Operation,
    Pull,
    Remove,
    Run,
    RunOnce,
    Stop,
    Tag,
    Update,
    make,
)
from labhelpers.engine import Engine, answers, podman, registries, subnets
from labhelpers.engine.differences import differences, matter_in
from labhelpers.engine.events import Events
from labhelpers.engine.find import environment
from labhelpers.engine.host import HostView
from labhelpers.engine.once import JSON_FILE, LIMIT_S, keeps_logs, run_once
from labhelpers.engine.reach import Reach
from labhelpers.engine.registry import Registry
from labhelpers.engine.removal import remove_container
from labhelpers.engine.streams import Done, execute
from labhelpers.engine.words import refused, speaking
from labhelpers.errors import (
    BadInput,
    BuildFailed,
    EngineRefused,
    ImageMissing,
    LabError,
    NameTaken,
    NotOurs,
    PortTaken,
)
from labhelpers.labsocket import Conversation, LabSocket
from labhelpers.ours import TRIAL, Thing
from labhelpers.reaper import Reaper
from labhelpers.results import Result, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.engine.images import HubImage, Images

# libnetwork's message until Engine 24, and since 25 (moby, libnetwork/ipamapi and ipams/defaultipam)
_NO_POOL = re.compile(
    r"non-overlapping IPv[46] address pool|predefined address pools have been fully subnetted"
)
_ENGINES_OWN = ("bridge", "host", "none", "docker_gwbridge", "ingress")
_NAMED = 4
# runc's own first process is charged to the container, and killed where it is given too little (moby#41167): up to
# 16.8 MB were seen to be taken. What the engine says then depends on how far it had come, and never is the cause.
_TO_START = 32 << 20

_SOCKETS: list[tuple[str, str | None]] = []
"""(address of a lab socket that is in use, `DOCKER_HOST` before it), the oldest first."""

See = Callable[[Mapping[str, Any]], object]
"""Sees one step of what the engine says while it works."""


@dataclass(frozen=True, slots=True)
class Output(Result):
    """What a command in a container answered.

    Attributes:
        exit_code: its exit status; 0 is success.
        stdout, stderr: what it wrote, as text.
    """

    exit_code: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return self.stdout + self.stderr


class Lab:
    """One reader's work on one chapter.

    Each operation prints the `docker …` line that a person would type for it. What it makes carries the
    labels `labhelpers.chapter` and `labhelpers.session`; `close` removes what carries this session's. Where this
    process is killed, its `Reaper` does, and at the latest the next Lab.

    Args:
        chapter: its number, as in the notebook's name: "01".
        engine: the engine to work on; None for the one that `./lab` finds.

    Attributes:
        session: the short random id of this session.
        commands: the line of every operation so far, without the `$ `.

    Raises:
        EngineMissing, EngineUnreachable: there is no engine to work on.
        NameTaken: the chapter needs names that belong to somebody else on this engine.
        EngineRefused: the engine is Podman, and the chapter does not work on it.
    """

    def __init__(self, chapter: str, *, engine: Engine | None = None) -> None:
        self.chapter = chapter
        self.engine = engine if engine is not None else engines.connect()
        with speaking(self.engine):
            podman.check(self.engine, chapter)
        self.commands: list[str] = []
        self._quiet = 0
        self._closed = False
        with speaking(self.engine):
            self._session = belongings.begin(self.client, chapter)
            self._there_before = {thing.id for thing in self._made_by_others()}
        self.session = self._session.id
        try:
            with speaking(self.engine):
                notes = names.check(self.client, chapter, self.session)
        except BaseException:
            self._session.end()
            raise
        for line in notes:
            print(line)
        self._reaper = Reaper(self.session, environment(self.engine))
        atexit.register(self._close_at_exit)
        magic.register(self)
        for difference in matter_in(chapter, differences(self.engine)):
            print(f"note: {difference}")

    @property
    def client(self) -> docker.DockerClient:
        """The SDK's client for the lab's engine."""
        return self.engine.client

    def image(self, name: str) -> str:
        """The reference of the lab image `name`; the image is made, with progress, when it is not there."""
        from labhelpers.engine import images

        ref: str = images.ensure(self.engine, name, print)
        return ref

    def images(self) -> Images:
        """The lab images on this engine, and what they stand on."""
        from labhelpers.engine import images

        found: Images = images.overview(self.engine, self._labels("container"))
        return found

    def from_hub(self, asked: str, stand_in: str) -> HubImage:
        """The image `asked` of Docker Hub, or of the registry in its name; or a lab image where it cannot be had.

        A line says which it is. What stands in never gets the other's name.

        Args:
            stand_in: the name of a lab image.
        """
        from labhelpers.engine import images

        found: HubImage = images.from_hub(self.engine, asked, stand_in, print)
        return found

    def reach(self, container: Container | str, port: int) -> tuple[str, int]:
        """Where the TCP port `port` of a running container answers on this machine: (`127.0.0.1`, a port).

        It is the published port where the engine's loopback is this machine's (tried once), else a way through the
        engine's API.

        Raises:
            LabError: there is no such container, or it does not run.
        """
        with speaking(self.engine):
            return self._reach.to(container, port)

    @cached_property
    def _reach(self) -> Reach:
        return Reach(self.engine, self._labels("container"), lambda: self.image("payload"))

    @cached_property
    def host(self) -> HostView:
        """The view of the engine's host, started by its first read."""
        return HostView(self.engine, self._labels("container"), lambda: self.image("tools"))

    @cached_property
    def socket(self) -> LabSocket:
        """The lab socket: the engine, for what the reader types; started by its first use."""
        return LabSocket(self.engine.place, self.session, self._labels)

    def use_socket(self) -> None:
        """Set this process's `DOCKER_HOST` to the lab socket, until the lab is closed."""
        _SOCKETS.append((self.socket.address, os.environ.get("DOCKER_HOST")))
        os.environ["DOCKER_HOST"] = self.socket.address

    def recorded(self) -> AbstractContextManager[Conversation]:
        """Record the requests to the engine of what is typed while the block lasts.

        `with lab.recorded() as calls: …`; the lab's own operations do not go through the lab socket.
        """
        return self.socket.record()

    @cached_property
    def events(self) -> Events:
        """The engine's events, from the first use of this on."""
        return Events(self.engine)

    @cached_property
    def registry(self) -> Registry:
        """A registry of this lab's own, started by its first use; `close` removes it with what came from it."""
        labels = self._labels("container")
        return Registry(self.engine, labels, lambda: self.image("registry"), self._session.has_registry)

    # --- operations

    def run(self, image: str, command: str | Sequence[str] | None = None, **options: Any) -> Container:
        """Make a container and start it, in the background; `labhelpers.command.Run` lists the options.

        Raises:
            BadInput: a value that cannot be meant.
            ImageMissing: the engine does not have the image.
            NameTaken, PortTaken: the name or a port belongs to something else.
            EngineRefused: the engine said no for another reason.
        """
        run = make(Run, image, command, **self._with_log(self._with_userns(options)))
        self._say(run)
        body = run.api()
        name = body.pop("name", None)
        body["Labels"] = body.get("Labels", {}) | self._labels("container")
        with speaking(self.engine):
            try:
                made = self.client.api.create_container_from_config(body, name)  # type: ignore[no-untyped-call]
            except ImageNotFound as error:
                raise _image_missing(image, error) from None
            except APIError as error:
                if error.status_code == 409 and name:
                    raise self._name_taken("container", name, error) from None
                raise
            self._warn(made.get("Warnings") or [])
            try:
                self.client.api.start(made["Id"])
            except BaseException as error:
                # half made is worse than not made: the name would stay taken
                remove_container(self.client.api, made["Id"], v=True)
                if isinstance(error, APIError):
                    raise self._not_started(run, error) from None
                raise
            return self.client.containers.get(made["Id"])

    def once(
        self,
        image: str,
        command: str | Sequence[str] | None = None,
        *,
        limit_s: float = LIMIT_S,
        **options: Any,
    ) -> Output:
        """Run a command in a container of its own, wait for it, give its output, and remove the container.

        The output is read as the command writes it, so that it does not depend on the engine's log driver.

        Args:
            limit_s: how long it may be silent, in seconds.
            options: those of `labhelpers.command.Run`, without a name.

        Raises:
            BadInput, ImageMissing, EngineRefused: see `run`.
            LabError: it was silent for `limit_s`.
        """
        run = make(RunOnce, image, command, **self._with_userns(options))
        self._say(run)
        body = run.api()
        body["Labels"] = body.get("Labels", {}) | self._labels("container")
        with speaking(self.engine):
            try:
                done = run_once(self.client.api, body, limit_s=limit_s)
            except ImageNotFound as error:
                raise _image_missing(image, error) from None
            except APIError as error:
                raise self._not_started(run, error) from None
        return _output(done)

    def exec(self, container: Container | str, command: str | Sequence[str], **options: Any) -> Output:
        """Run one more process in a running container, wait for it, and give its output.

        Raises:
            LabError: the container is gone or does not run.
        """
        call = make(Exec, _name_of(container), command, **options)
        self._say(call)
        with speaking(self.engine, container=call.container):
            done = execute(self.client.api, **call.api())
        return _output(done)

    def update(self, container: Container | str, **options: Any) -> None:
        """Change the limits of a container that the lab made, while it runs; `labhelpers.command.Update` lists them.

        Raises:
            BadInput: a value that cannot be meant, or nothing to change.
            NotOurs: the lab did not make it.
            EngineRefused: the engine said no, for example to less memory than is in use.
            LabError: it is gone.
        """
        call = make(Update, _name_of(container), **options)
        with speaking(self.engine, container=call.container):
            self._must_be_ours(call.container)
            self._say(call)
            api: Any = self.client.api  # its own update_container() knows neither --cpus nor --pids-limit
            answer = api._post_json(api._url("/containers/{0}/update", call.container), data=call.api())
            api._result(answer, True)

    def stop(self, container: Container | str, *, timeout_s: int | None = None) -> None:
        """Stop a container that the lab made; it is killed if it has not ended after `timeout_s` (else 10 s).

        Raises:
            NotOurs: the lab did not make it.
            LabError: it is gone.
        """
        call = make(Stop, _name_of(container), timeout_s)
        with speaking(self.engine, container=call.container):
            self._must_be_ours(call.container)
            self._say(call)
            self.client.api.stop(**call.api())

    def remove(self, container: Container | str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove a container that the lab made; a running one only with `force`.

        Raises:
            NotOurs: the lab did not make it.
            LabError: it is gone, or it runs.
        """
        call = make(Remove, _name_of(container), force, volumes)
        with speaking(self.engine, container=call.container):
            self._must_be_ours(call.container)
            self._say(call)
            remove_container(self.client.api, **call.api())

    def pull(self, ref: str, *, see: See | None = None) -> Image:
        """Fetch an image from its registry.

        Args:
            see: given each step of the pull as it comes (Engine API, POST /images/create).

        Raises:
            ImageMissing: the registry does not have it, or does not answer.
        """
        call = make(Pull, ref)
        self._say(call)
        with speaking(self.engine):
            try:
                for step in self.client.api.pull(**call.api(), stream=True, decode=True):
                    if "error" in step:
                        raise registries.explain(ref, str(step["error"])).error(ref)
                    if see:
                        see(step)
            except APIError as error:
                raise registries.failed(error, ref).error(ref) from None
            pulled = self.client.images.get(ref)
            self._there_before.add(str(pulled.id))
            return pulled

    def build(self, path: str, tag: str, *, see: See | None = None, **options: Any) -> Image:
        """Make an image from a folder with a Dockerfile; `labhelpers.command.Build` lists the options.

        Args:
            see: given each step of the build as it comes (Engine API, POST /build).

        Raises:
            BuildFailed: a step failed; the last lines of its output are kept.
            NameTaken: the tag belongs to an image that this lab did not make.
        """
        call = make(Build, path, tag, **options)
        self._say(call)
        with speaking(self.engine):
            self._tag_must_be_free(tag)
            return self._build(call, see)

    def commit(self, container: Container | str, ref: str) -> Image:
        """Make an image of a container's files as they are now.

        Raises:
            NameTaken: the name belongs to an image that this lab did not make.
            LabError: the container is gone.
        """
        call = make(Commit, _name_of(container), ref)
        self._say(call)
        # the container's labels would come along and say that this image is a container
        labels = [f"LABEL {name}={value}" for name, value in self._labels("image").items()]
        with speaking(self.engine, container=call.container):
            self._tag_must_be_free(ref)
            made = self.client.api.commit(**call.api(), changes=labels)
            return self.client.images.get(made["Id"])

    def tag(self, image: str, ref: str) -> None:
        """Give an image that this session made one more name; the name moves if it has it already.

        Raises:
            ImageMissing: there is no such image.
            NotOurs: this session did not make the image.
            NameTaken: the name belongs to an image that this session did not make.
        """
        call = make(Tag, image, ref)
        self._say(call)
        with speaking(self.engine):
            try:
                found = self.client.images.get(image)
            except ImageNotFound as error:
                raise _image_missing(image, error) from None
            if answers.labels(found.attrs).get(belongings.SESSION) != self.session:
                raise NotOurs(
                    f"the image {image!r} was not made here: a name that the lab gave it could not be taken back",
                    hint=f"if you mean it, type it in a terminal: docker tag {image} {ref}",
                )
            self._tag_must_be_free(ref)
            self.client.api.tag(**call.api())

    def create_network(self, name: str, **options: Any) -> Network:
        """Make a network; `labhelpers.command.CreateNetwork` says the options there are.

        Raises:
            NameTaken: a network of that name is there, or one that has addresses of the same subnet.
            EngineRefused: the engine has no addresses left for another network, or refused for another reason.
        """
        call = make(CreateNetwork, name, **options)
        self._say(call)
        with speaking(self.engine):
            try:
                made = self.client.api.create_network(**call.api(), labels=self._labels("network"))
            except APIError as error:
                if error.status_code == 409 or "already exists" in str(error.explanation):
                    raise self._name_taken("network", name, error) from None
                if _NO_POOL.search(str(error.explanation)):
                    raise self._no_pool(error) from None
                if "overlap" in str(error.explanation) and call.subnet:
                    raise self._subnet_taken(call.subnet, error) from None
                raise
            return self.client.networks.get(made["Id"])

    def create_volume(self, name: str, *, keep: bool = False, **options: Any) -> Volume:
        """Make a volume, or give the one of that name that this session made, as `docker volume create` does.

        A volume that the reader created in an earlier session is given too, with what it holds.

        Args:
            keep: it holds the reader's work: nothing of the lab removes it, and a later session gets it again.

        Raises:
            NameTaken: a volume of that name is there that neither this session nor the reader made.
        """
        call = make(CreateVolume, name, **options)
        self._say(call)
        with speaking(self.engine):
            # the engine answers with an old volume of that name as if it were new: only the labels tell
            mark = {belongings.KEEP: "yes"} if keep else {}
            self.client.api.create_volume(**call.api(), labels=self._labels("volume") | mark)
            # its own answer has no labels where the engine has restarted since the volume was made (20.10)
            volume = self.client.volumes.get(name)
            found = answers.labels(volume.attrs)
            kept = keep and belongings.CHAPTER in found and belongings.KEEP in found
            if not kept and not belongings.is_usable_volume(found, self.session):
                raise self._name_taken("volume", name, None)
            return volume

    # --- printing

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Keep the lines, but do not print them: for experiments that repeat."""
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1

    def _say(self, operation: Operation) -> None:
        line = operation.line()
        self.commands.append(line)
        if not self._quiet:
            print(f"$ {line}")

    def _warn(self, warnings: Sequence[str]) -> None:
        """Print that the engine has dropped a limit, as the command line does; the container starts without it."""
        if not self._quiet:
            for warning in warnings:
                if "discarded" in warning.lower():
                    print(f"WARNING: {warning}")

    # --- the end

    def made_elsewhere(self) -> MadeElsewhere:
        """What stays on the engine when this lab closes, and was made since it began, or to be kept.

        That is what was made in JupyterLab's terminals, what carries no label of a lab, and the volumes that the
        reader created. As the last value of a cell it shows the list with a box for each item. Only what is ticked
        there, or named in `.remove("name", …)`, is removed.
        """
        with speaking(self.engine):
            new = [t for t in self._made_by_others() if t.id not in self._there_before]
            listed = {(t.kind, t.id) for t in new}
            readers = [
                t for t in belongings.things(self.client) if t.readers and (t.kind, t.id) not in listed
            ]
            readers = [t for t in readers if belongings.may_touch(t.session, self.session)]
        return MadeElsewhere(self, (*new, *readers))

    def _made_by_others(self) -> list[Thing]:
        """What no lab made, and what was made in JupyterLab's terminals."""
        made = belongings.others(self.client)
        typed = [t for t in belongings.things(self.client) if t.chapter == belongings.TERMINAL]
        return [*typed, *made]

    @property
    def is_closed(self) -> bool:
        """Whether `close` has begun: what is made from then on would stay."""
        return self._closed

    def close(self) -> None:
        """Remove what carries this session's label, and nothing else. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._close_at_exit)
        if "socket" in self.__dict__:
            self._leave_socket()
        with speaking(self.engine):
            for helper in ("host", "events", "_reach"):
                if helper in self.__dict__:
                    getattr(self, helper).close()
            kept = belongings.clear(self.client, self.session)
        if not kept:
            self._session.end()
            self._reaper.dismiss()

    def _leave_socket(self) -> None:
        self.socket.close()
        address = self.socket.address
        for entry in [entry for entry in _SOCKETS if entry[0] == address]:
            _SOCKETS.remove(entry)
            # a lab that was opened later, in the same kernel, would go back to a socket that is closed by now
            _SOCKETS[:] = [(one, entry[1] if before == address else before) for one, before in _SOCKETS]
            if os.environ.get("DOCKER_HOST") == address:
                del os.environ["DOCKER_HOST"]
                if entry[1]:
                    os.environ["DOCKER_HOST"] = entry[1]

    def _close_at_exit(self) -> None:
        # nobody reads a message now: what could not be removed is the reaper's
        with suppress(LabError):
            self.close()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- whose it is

    def _with_log(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Options of `run`: what a container of the lab writes can be read, also where the engine keeps no logs."""
        with speaking(self.engine):
            return options if keeps_logs(self.engine.info) else {"log_driver": JSON_FILE, **options}

    def _with_userns(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Options of `run`: an engine with `userns-remap` refuses namespaces of the host without its user namespace.

        Source: moby, daemon/daemon_unix.go, verifyPlatformContainerSettings; for IPC the kernel refuses mqueue.
        """
        with speaking(self.engine):
            is_needed = "host" in map(options.get, ("network", "pid", "ipc")) and self.engine.remaps_users
        return {"userns_mode": "host", **options} if is_needed else options

    def _labels(self, kind: str) -> dict[str, str]:
        return belongings.labels(kind, self.chapter, self.session)

    def _must_be_ours(self, container: str) -> None:
        found = answers.labels(self.client.api.inspect_container(container))
        if not belongings.is_ours("container", found):
            raise NotOurs(
                f"the lab did not make the container {container!r}, so it leaves it alone",
                hint=f"if it is yours and you mean it, type it in a terminal: docker rm {container}",
            )
        if not belongings.may_touch(found.get(belongings.SESSION, ""), self.session):
            raise NotOurs(
                f"the container {container!r} belongs to {_whose(found)}, so this one leaves it alone",
                hint="use a container of this notebook: `%docker ps` lists what runs",
            )

    def _tag_must_be_free(self, tag: str) -> None:
        try:
            found = self.client.api.inspect_image(tag)  # type: ignore[no-untyped-call]
        except ImageNotFound:
            return
        # the configuration of an image may be null
        if answers.labels(found).get(belongings.SESSION) != self.session:
            raise self._name_taken("image", tag, None)

    def _name_taken(self, kind: str, name: str, error: APIError | None) -> NameTaken:
        words = None if error is None else str(error.explanation)
        owner = next(
            (
                thing
                for look in (belongings.things, belongings.strangers)
                for thing in look(self.client)
                if (thing.kind, thing.name) == (kind, name)
            ),
            None,
        )
        if owner is None:
            return NameTaken(
                f"the name {name!r} belongs to {_a(kind)} that the lab did not make, so it stays untouched",
                hint="choose another name; or, if it is yours and not needed, remove it in a terminal",
                engine_words=words,
            )
        if owner.session == self.session:
            whose, hint = "this notebook made before", "remove it first, or choose another name"
            if kind == "container":
                hint = f"lab.remove({name!r}, force=True) removes it; or choose another name"
        else:
            whose, hint = names.owner(owner), names.way_forward(self.chapter, [owner])
        return NameTaken(
            f"the name {name!r} belongs to {_a(kind)} that {whose}", hint=hint, engine_words=words
        )

    def _subnet_taken(self, subnet: str, error: APIError) -> NameTaken:
        wanted = subnets.parsed(subnet)
        assert wanted is not None, "checked by CreateNetwork"
        taken = list(subnets.of_networks(self.client.api.networks()))
        owner = next((name for one, name in taken if subnets.overlaps(wanted, [one])), None)
        whose = f"the network {owner!r}" if owner else "another network of the engine's machine"
        return NameTaken(
            f"addresses of the subnet {subnet} belong to {whose}",
            hint=self._free_subnet([one for one, _ in taken], wanted.version)
            + "or leave the subnet out, then the engine chooses",
            engine_words=str(error.explanation),
        )

    def _no_pool(self, error: APIError) -> EngineRefused:
        """That no address pool is left: too many networks, small pools, or routes (a VPN's) that cover the pools."""
        words = str(error.explanation)
        rows = [row for row in self.client.api.networks() if row.get("Name") not in _ENGINES_OWN]
        used = {
            str(name)
            for row in self.client.api.containers(all=True)
            for name in (row.get("NetworkSettings") or {}).get("Networks") or {}
        }
        # a swarm's networks may be in use on other machines
        local = [str(row["Name"]) for row in rows if row.get("Scope", "local") == "local"]
        unused = sorted(name for name in local if name not in used)
        hint = self._free_subnet(
            [one for one, _ in subnets.of_networks(self.client.api.networks())],
            6 if "IPv6" in words else 4,
        )
        if unused:
            some = " ".join(unused[:_NAMED]) + (" …" if len(unused) > _NAMED else "")
            hint += (
                f"or remove networks that you do not need: docker network rm {some} (`./lab clean` removes those that "
                "labs left)"
            )
        else:
            hint += "or stop what uses a network that you do not need, and remove both"
        return EngineRefused(
            f"the engine has no addresses left for another network. It has {_networks(len(rows))}, "
            f"{len(unused)} of them without a container; its address pools may be small, or a VPN's routes cover them",
            hint=hint,
            engine_words=words,
        )

    def _free_subnet(self, taken: list[subnets.Subnet], version: int) -> str:
        """The beginning of a hint: a subnet that no network and no route of the engine's host has."""
        from labhelpers.engine import images

        # the host's routes are not shown everywhere; an error is no time to build the image that reads them
        with suppress(LabError, ImageNotFound):
            self.client.images.get(images.reference("tools"))
            taken = [*taken, *subnets.of_routes(route.destination for route in self.host.routes())]
        free = subnets.free(taken, version)
        return f"choose addresses yourself: subnet='{free}'; " if free else ""

    def _not_started(self, run: Run, error: APIError) -> LabError:
        words = str(error.explanation)
        if "no available IPv" in words:
            return EngineRefused(
                f"the network {run.network or 'bridge'!r} has no address left for another container",
                hint="remove containers of it that you do not need, or create a network with more addresses: "
                "lab.create_network(NAME, subnet=…) takes a shorter prefix, such as /24",
                engine_words=words,
            )
        if "already allocated" not in words and "address already in use" not in words:
            said = refused(error)
            if 0 < run.api()["HostConfig"].get("Memory", 0) < _TO_START:
                said.hint = (
                    "starting alone takes memory, up to 17 MB on some engines: give it memory='32m' or more, "
                    "unless its words say what else it misses"
                )
            return said
        ports = {
            int(binding["HostPort"]): inside
            for inside, bindings in run.api()["HostConfig"].get("PortBindings", {}).items()
            for binding in bindings
            if binding["HostPort"]
        }
        taken = next((port for port in ports if re.search(rf":{port}\b", words)), None)
        if taken is None:
            return refused(error)
        used = _published_ports(self.client)
        owner = f"the container {used[taken]!r}" if taken in used else "a program on the engine's machine"
        return PortTaken(
            f"port {taken} is already used by {owner}",
            hint=f"publish another one: ports={{{ports[taken]!r}: {_free_port(taken, used)}}}",
            engine_words=words,
        )

    def _build(self, call: Build, see: See | None) -> Image:
        said: list[str] = []
        nameless = self._nameless()
        try:
            return self._build_told(call, see, said)
        finally:
            # no label of ours is on a stage that files were copied from, nor on the last step of a build that failed;
            # what other builds leave meanwhile is not among the steps that this one told of
            steps = re.findall(r"^ ---> ([0-9a-f]{12})$", "".join(said), re.MULTILINE)
            with suppress(DockerException, requests.RequestException):
                left = {id for id in self._nameless() - nameless if id[7:19] in steps}
                self._there_before |= left
                self._session.has_stages(left)

    def _nameless(self) -> set[str]:
        """The images that no tag names and no other image stands on."""
        return {row["Id"] for row in self.client.api.images(filters={"dangling": True})}

    def _build_told(self, call: Build, see: See | None, said: list[str]) -> Image:
        image_id = ""
        try:
            for step in self.client.api.build(
                **call.api(), labels=self._labels("image"), rm=True, forcerm=True, decode=True
            ):
                said.append(step.get("stream", ""))
                image_id = (step.get("aux") or {}).get("ID", image_id)
                if "error" in step:
                    raise _build_failed(call, said, step["error"])
                if see:
                    see(step)
        except APIError as error:
            raise _build_failed(call, said, str(error.explanation)) from None
        except (OSError, TypeError) as error:
            raise _build_failed(call, said, str(error)) from None
        return self.client.images.get(image_id or call.tag)


@dataclass(frozen=True, eq=False)
class MadeElsewhere(Result):
    """What stays on the engine when a lab closes: made by other means than that lab's, or to be kept.

    Attributes:
        lab: the lab.
        things: what was there when it was looked for, in the order in which it can be removed.
    """

    lab: Lab
    things: tuple[Thing, ...]

    def frame(self) -> pd.DataFrame:
        """One row per thing: kind, name."""
        return table([(t.kind, t.name) for t in self.things], ["kind", "name"])

    def remove(self, *chosen: str | Thing) -> list[str]:
        """Remove what is chosen by its name, by "kind name", or as a member of `things`.

        Returns:
            A line for each thing that was removed, or that the engine refused to remove.

        Raises:
            BadInput: nothing is named, or a name that is not in the list.
        """
        if not chosen:
            raise BadInput(
                "nothing was removed: name what to remove",
                hint=f'for example .remove("{self.things[0].name}")' if self.things else "the list is empty",
            )
        picked = [t for t in self.things if t in chosen or {t.name, str(t)} & set(chosen)]
        known = {word for thing in self.things for word in (thing.name, str(thing))}
        unknown = [word for word in chosen if isinstance(word, str) and word not in known]
        if unknown:
            raise BadInput(
                f"nothing was removed: {', '.join(unknown)} is not in the list",
                hint="names in the list: " + (", ".join(str(t) for t in self.things) or "none"),
            )
        with speaking(self.lab.engine):
            removed, kept = belongings.remove(self.lab.client, picked)
        return [f"removed {thing}" for thing in removed] + kept

    def __repr__(self) -> str:
        if not self.things:
            return "Nothing else came onto the engine since this notebook began."
        lines = [f"  {described(thing)}" for thing in self.things]
        how = 'Remove what you do not need: .remove("name", …). Nothing is removed by itself.'
        return "\n".join(["This stays on the engine when this notebook is closed:", *lines, how])

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        from labhelpers.exercises import with_text
        from labhelpers.widgets.panel import made_elsewhere_panel

        return with_text(made_elsewhere_panel(self), repr(self))


def described(thing: Thing) -> str:
    """A thing that stays, with the reason where the labels give one."""
    if thing.readers:
        return f"{thing}: you created it, and it keeps what it holds"
    return f"{thing}: made in JupyterLab's terminal" if thing.chapter == belongings.TERMINAL else str(thing)


@dataclass(frozen=True)
class Inventory(Result):
    """What labs made on an engine and is there now.

    Attributes:
        ended: made by sessions of this state directory that have ended: `clean` removes it.
        open: made by sessions of this state directory that are alive: open notebooks, JupyterLab's terminals.
        readers: volumes that the reader created to keep them, of any session of this state directory.
        tests: the engines of a `./lab test` that runs.
        strangers: labelled, but of no session of this state directory.
    """

    ended: tuple[Thing, ...]
    open: tuple[Thing, ...]
    readers: tuple[Thing, ...]
    tests: tuple[Thing, ...]
    strangers: tuple[Thing, ...]

    @property
    def ours(self) -> tuple[Thing, ...]:
        """Everything that sessions of this state directory made."""
        return (*self.ended, *self.open, *self.readers, *self.tests)


def inventory(engine: Engine) -> Inventory:
    """What labs made on the engine."""
    with speaking(engine):
        found = belongings.things(engine.client)
        strangers = belongings.strangers(engine.client)
    alive = {session for session in {thing.session for thing in found} if belongings.is_alive(session)}
    rest = [thing for thing in found if not thing.readers]
    return Inventory(
        ended=tuple(t for t in rest if t.session not in alive),
        open=tuple(t for t in rest if t.session in alive and t.chapter != TRIAL),
        readers=tuple(t for t in found if t.readers),
        tests=tuple(t for t in rest if t.session in alive and t.chapter == TRIAL),
        strangers=tuple(strangers),
    )


def ours(engine: Engine) -> list[Thing]:
    """Everything on the engine that sessions of this state directory made."""
    return list(inventory(engine).ours)


def clean(engine: Engine) -> tuple[list[str], list[str]]:
    """Remove what sessions of this state directory left when they ended: what went, and what stays and why.

    What an open notebook made stays, so do volumes that the reader created, and volumes labelled `labhelpers.keep`.
    """
    with speaking(engine):
        removed, kept = belongings.sweep(engine.client)
    return list(map(str, removed)), kept


def remove(engine: Engine, chosen: Sequence[Thing]) -> tuple[list[str], list[str]]:
    """Remove things that the reader has confirmed: what went, and what stays and why."""
    with speaking(engine):
        removed, kept = belongings.remove(engine.client, list(chosen))
    return list(map(str, removed)), kept


def named(engine: Engine, wanted: Sequence[str]) -> list[Thing]:
    """What labs made under these names or ids, of whatever state directory.

    Raises:
        BadInput: no lab made a thing of that name.
        NotOurs: a notebook of another state directory, or a `./lab test`, is using it now.
    """
    there = inventory(engine)
    found = [*there.ours, *there.strangers]
    chosen = [thing for thing in found if _words_for(thing) & set(wanted)]
    missing = set(wanted).difference(*map(_words_for, chosen))
    if missing:
        raise BadInput(
            f"no lab made anything called {', '.join(sorted(missing))} on this engine; nothing was removed",
            hint="`./lab status` lists what labs made; what you made yourself you remove with `docker rm`, "
            "`docker volume rm` or `docker network rm`",
        )
    busy = belongings.alive_elsewhere()
    used = [t for t in chosen if t in there.tests or (t in there.strangers and t.session in busy)]
    if used:
        raise NotOurs(
            f"{', '.join(map(str, used))}: a lab session that is running now uses it; nothing was removed",
            hint="end that session first: shut down its notebook's kernel, or end its `./lab` command",
        )
    return chosen


def _words_for(thing: Thing) -> set[str]:
    """What a reader may call a thing: its name, its kind and name, or its id, also as `docker ps` shortens it."""
    digest = thing.id.removeprefix("sha256:")
    # the id of a volume is its name, whose beginning may be the name of another one
    ids = set() if thing.kind == "volume" else {thing.id, digest, digest[:12]}
    return {thing.name, str(thing), *ids}


def _image_missing(ref: str, error: object) -> ImageMissing:
    words = str(getattr(error, "explanation", None) or error)
    if "no such image" in words.lower():
        return ImageMissing(
            f"the engine does not have the image {ref!r}",
            hint=f"fetch it: lab.pull({ref!r}); for an image of the lab: lab.image(NAME)",
            engine_words=words,
        )
    return registries.explain(ref, words).error(ref)


def _build_failed(call: Build, said: list[str], words: str) -> BuildFailed:
    last = "".join(said).strip().splitlines()[-8:]
    return BuildFailed(
        f"the image {call.tag!r} could not be built",
        hint=f"look at the last step in {call.path}; change it and build again",
        engine_words="\n".join([*last, words]),
    )


def _published_ports(client: docker.DockerClient) -> Mapping[int, str]:
    return {
        port["PublicPort"]: answers.name(row)
        for row in client.api.containers()
        for port in answers.rows(row, "Ports")
        if "PublicPort" in port
    }


def _free_port(near: int, used: Mapping[int, str]) -> int:
    """A port above `near` that no container has; where the engine is this machine, no program either."""
    port: int
    for port in [*range(near + 1, min(near + 200, 65536)), *range(20000, 65536)]:
        if port in used:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    return near


def _output(done: Done) -> Output:
    return Output(done.exit_code, *(part.decode(errors="replace") for part in (done.stdout, done.stderr)))


def _name_of(container: Container | str) -> str:
    return container if isinstance(container, str) else str(container.name)


def _whose(labels: Mapping[str, str]) -> str:
    return f"another lab session (chapter {labels[belongings.CHAPTER]})"


def _networks(count: int) -> str:
    return "1 network" if count == 1 else f"{count} networks"


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "image" else f"a {kind}"
