"""Operations on images, networks and volumes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.models.images import Image
from docker.models.networks import Network
from docker.models.volumes import Volume

from labhelpers.engine import registries, responses
from labhelpers.engine.arguments import name_of
from labhelpers.engine.error_translation import translate_errors
from labhelpers.engine.image_builds import build_steps
from labhelpers.engine.removal import remove_image
from labhelpers.errors import NotOwned
from labhelpers.lab import refusals, sessions
from labhelpers.lab.base import Base, ProgressCallback
from labhelpers.lab.operations import (
    Build,
    Commit,
    Connect,
    CreateNetwork,
    CreateVolume,
    Pull,
    RemoveImage,
    RemoveNetwork,
    RemoveVolume,
    Tag,
    make_operation,
)
from labhelpers.lab.sessions import Session


class Resources(Base):
    """The operations of `Lab` on images, networks and volumes."""

    _session: Session

    def pull(self, ref: str, *, on_progress: ProgressCallback | None = None) -> Image:
        """Fetch an image from its registry.

        Args:
            on_progress: given each step of the pull as it comes (Engine API, POST /images/create).

        Raises:
            ImageMissing: the registry does not have it, or does not answer.
        """
        call = make_operation(Pull, ref)
        self._print_command(call)
        with translate_errors(self.engine):
            try:
                for step in self.client.api.pull(**call.api(), stream=True, decode=True):
                    if "error" in step:
                        raise registries.explain_failure(ref, str(step["error"])).to_error(ref)
                    if on_progress:
                        on_progress(step)
            except APIError as error:
                raise registries.pull_error(error, ref).to_error(ref) from None
            pulled = self.client.images.get(ref)
            self._there_before.add(str(pulled.id))
            return pulled

    def build(
        self, path: str, tag: str, *, on_progress: ProgressCallback | None = None, **options: Any
    ) -> Image:
        """Make an image from a folder with a Dockerfile; `labhelpers.lab.operations.Build` lists the options.

        Args:
            on_progress: given each step of the build as it comes (Engine API, POST /build).

        Raises:
            BuildFailed: a step failed; the last lines of its output are kept.
            NameTaken: the tag belongs to an image that this lab did not make.
        """
        call = make_operation(Build, path, tag, **options)
        self._print_command(call)
        with translate_errors(self.engine):
            self._check_tag_free(tag)
            return self._build(call, on_progress)

    def commit(self, container: Container | str, ref: str) -> Image:
        """Make an image of a container's files as they are now.

        Raises:
            NameTaken: the name belongs to an image that this lab did not make.
            LabError: the container is gone.
        """
        call = make_operation(Commit, name_of(container), ref)
        self._print_command(call)
        # the container's labels would come along and say that this image is a container
        labels = [f"LABEL {name}={value}" for name, value in self._labels("image").items()]
        with translate_errors(self.engine, container=call.container):
            self._check_tag_free(ref)
            made = self.client.api.commit(**call.api(), changes=labels)
            return self.client.images.get(made["Id"])

    def tag(self, image: str, ref: str) -> None:
        """Give an image that this session made one more name; the name moves if it has it already.

        Raises:
            ImageMissing: there is no such image.
            NotOwned: this session did not make the image.
            NameTaken: the name belongs to an image that this session did not make.
        """
        call = make_operation(Tag, image, ref)
        self._print_command(call)
        with translate_errors(self.engine):
            try:
                found = self.client.images.get(image)
            except ImageNotFound as error:
                raise refusals.image_missing(image, error) from None
            if responses.labels(found.attrs).get(sessions.SESSION) != self.session:
                raise NotOwned(
                    f"the lab did not create the image {image!r}, so it could not remove the tag later",
                    hint=f"to tag it anyway, run in a terminal: docker tag {image} {ref}",
                )
            self._check_tag_free(ref)
            self.client.api.tag(**call.api())

    def create_network(self, name: str, **options: Any) -> Network:
        """Make a network; `labhelpers.lab.operations.CreateNetwork` says the options there are.

        Raises:
            NameTaken: a network of that name is there, or one that has addresses of the same subnet.
            EngineRefused: the engine has no addresses left for another network, or refused for another reason.
        """
        call = make_operation(CreateNetwork, name, **options)
        self._print_command(call)
        with translate_errors(self.engine):
            try:
                made = self.client.api.create_network(**call.api(), labels=self._labels("network"))
            except APIError as error:
                if error.status_code == 409 or "already exists" in str(error.explanation):
                    raise self._name_taken("network", name, error) from None
                if refusals.NO_POOL.search(str(error.explanation)):
                    raise refusals.no_pool(self.client, self.host, error) from None
                if "overlap" in str(error.explanation) and call.subnet:
                    raise refusals.subnet_taken(self.client, self.host, call.subnet, error) from None
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
        call = make_operation(CreateVolume, name, **options)
        self._print_command(call)
        with translate_errors(self.engine):
            # the engine answers with an old volume of that name as if it were new: only the labels tell
            mark = {sessions.KEEP: "yes"} if keep else {}
            self.client.api.create_volume(**call.api(), labels=self._labels("volume") | mark)
            # its own answer has no labels where the engine has restarted since the volume was made (20.10)
            volume = self.client.volumes.get(name)
            found = responses.labels(volume.attrs)
            kept = keep and sessions.CHAPTER in found and sessions.KEEP in found
            if not kept and not sessions.is_usable_volume(found, self.session):
                raise self._name_taken("volume", name, None)
            return volume

    def connect(self, network: Network | str, container: Container | str) -> None:
        """Give a container that the lab made one more interface, in `network`.

        Raises:
            NotOwned: the lab did not create the container.
            ContainerMissing: there is no such container.
            EngineRefused: there is no such network, or the engine refused for another reason.
        """
        call = make_operation(Connect, name_of(network), name_of(container))
        with self._changing(call):
            self.client.api.connect_container_to_network(**call.api())

    def remove_network(self, network: Network | str) -> None:
        """Remove a network that this session made; nothing happens where it is gone already.

        Raises:
            NotOwned: this session did not make it.
            EngineRefused: a container is still in it.
        """
        call = make_operation(RemoveNetwork, name_of(network))
        with translate_errors(self.engine):
            try:
                self._check_made_by_session("network", call.name, self.client.api.inspect_network(call.name))
            except NotFound:
                return
            self._print_command(call)
            with suppress(NotFound):
                self.client.api.remove_network(**call.api())

    def remove_volume(self, volume: Volume | str, *, made_by_run: bool = False) -> None:
        """Remove a volume that this session made; nothing happens where it is gone already.

        Args:
            made_by_run: it may be one without labels, made since this session began: `docker run -v` makes such
                volumes, and so does the VOLUME of an image.

        Raises:
            NotOwned: this session did not make it.
            EngineRefused: a container still uses it.
        """
        call = make_operation(RemoveVolume, name_of(volume))
        with translate_errors(self.engine):
            try:
                attrs = self.client.api.inspect_volume(call.name)
            except NotFound:
                return
            is_new = call.name not in self._there_before and sessions.CHAPTER not in responses.labels(attrs)
            if not (made_by_run and is_new):
                self._check_made_by_session("volume", call.name, attrs)
            self._print_command(call)
            with suppress(NotFound):
                self.client.api.remove_volume(**call.api())

    def remove_image(self, ref: str) -> None:
        """Remove a name of an image that this session made or pulled; nothing happens where it is gone already.

        Raises:
            EngineRefused: a container uses the image.
        """
        call = make_operation(RemoveImage, ref)
        with translate_errors(self.engine):
            self._print_command(call)
            with suppress(ImageNotFound):
                remove_image(self.client.api, call.ref)

    def _check_made_by_session(self, kind: str, name: str, attrs: Mapping[str, Any]) -> None:
        if responses.labels(attrs).get(sessions.SESSION) != self.session:
            raise NotOwned(
                f"this notebook did not create the {kind} {name!r} and will not change it",
                hint=f"if it is yours, remove it in a terminal: docker {kind} rm {name}",
            )

    def _check_tag_free(self, tag: str) -> None:
        try:
            found = self.client.api.inspect_image(tag)  # type: ignore[no-untyped-call]
        except ImageNotFound:
            return
        # the configuration of an image may be null
        if responses.labels(found).get(sessions.SESSION) != self.session:
            raise self._name_taken("image", tag, None)

    def _build(self, call: Build, on_progress: ProgressCallback | None) -> Image:
        output: list[str] = []
        nameless = self._dangling_images()
        try:
            return self._build_with_output(call, on_progress, output)
        finally:
            # no label of ours is on a stage that files were copied from, nor on the last step of a build that failed;
            # the output names the steps of this build only, not what other builds leave meanwhile
            steps = re.findall(r"^ ---> ([0-9a-f]{12})$", "".join(output), re.MULTILINE)
            with suppress(DockerException, requests.RequestException):
                left = {id for id in self._dangling_images() - nameless if id[7:19] in steps}
                self._there_before |= left
                self._session.record_build_stages(left)

    def _dangling_images(self) -> set[str]:
        """The images that no tag names and no other image stands on."""
        return {row["Id"] for row in self.client.api.images(filters={"dangling": True})}

    def _build_with_output(
        self, call: Build, on_progress: ProgressCallback | None, output: list[str]
    ) -> Image:
        image_id = ""
        try:
            for step in build_steps(self.client.api.build, **call.api(), labels=self._labels("image")):
                output.append(step.get("stream", ""))
                image_id = (step.get("aux") or {}).get("ID", image_id)
                if "error" in step:
                    raise refusals.build_failed(call, output, step["error"])
                if on_progress:
                    on_progress(step)
        except APIError as error:
            raise refusals.build_failed(call, output, str(error.explanation)) from None
        except (OSError, TypeError) as error:
            raise refusals.build_failed(call, output, str(error)) from None
        return self.client.images.get(image_id or call.tag)
