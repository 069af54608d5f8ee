"""Operations on images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docker.utils import parse_repository_tag

from labhelpers.lab import options as opt
from labhelpers.lab import values
from labhelpers.lab.operations.base import Operation
from labhelpers.lab.options import Option


@dataclass(frozen=True)
class Pull(Operation):
    """`docker pull`: fetch an image; without a tag, `latest`."""

    ref: str

    VERB = ("pull",)

    def _arguments(self) -> list[str]:
        return [values.parse_image(self.ref)]

    def _fixed_arguments(self) -> dict[str, Any]:
        repository, tag = parse_repository_tag(self.ref)
        return {"repository": repository, "tag": tag or "latest"}


@dataclass(frozen=True)
class Build(Operation):
    """`docker build`: make an image from a folder with a Dockerfile.

    Attributes:
        path: the folder (the build's context).
        dockerfile: the Dockerfile's path inside the folder; None for `Dockerfile`.
        buildargs: values for the Dockerfile's ARGs.
        target: the stage to stop at.
        no_cache: build every step anew.
    """

    path: str
    tag: str
    dockerfile: str | None = None
    target: str | None = None
    buildargs: Mapping[str, str] | None = None
    no_cache: bool = False

    VERB = ("build",)
    OPTIONS = {  # noqa: RUF012
        "tag": opt.single("-t", "tag", values.parse_image),
        "dockerfile": opt.single("-f", "dockerfile"),
        "target": opt.single("--target", "target"),
        "buildargs": opt.mapping("--build-arg", "buildargs"),
        "no_cache": opt.switch("--no-cache", "nocache"),
    }

    def _set_options(self) -> list[tuple[Option, Any]]:
        # the command line looks for -f from where it stands, the SDK from the folder
        in_folder = Option(
            "-f", lambda name: [os.path.join(self.path, name)], opt.at("dockerfile", values.parse_text)
        )
        return [
            (in_folder if option.flag == "-f" else option, value) for option, value in super()._set_options()
        ]

    def _arguments(self) -> list[str]:
        return [values.parse_text(self.path)]

    def _fixed_arguments(self) -> dict[str, Any]:
        return {"path": self.path}


@dataclass(frozen=True)
class Commit(Operation):
    """`docker commit`: make an image of a container's files as they are now."""

    container: str
    ref: str

    VERB = ("commit",)

    def _arguments(self) -> list[str]:
        return [values.parse_name(self.container), values.parse_image(self.ref)]

    def _fixed_arguments(self) -> dict[str, Any]:
        repository, tag = parse_repository_tag(self.ref)
        return {"container": self.container, "repository": repository, "tag": tag or "latest"}


@dataclass(frozen=True)
class Tag(Operation):
    """`docker tag`: give an image one more name; a name that another image has moves."""

    image: str
    ref: str

    VERB = ("tag",)

    def _arguments(self) -> list[str]:
        return [values.parse_image(self.image), values.parse_image(self.ref)]

    def _fixed_arguments(self) -> dict[str, Any]:
        repository, tag = parse_repository_tag(self.ref)
        return {"image": self.image, "repository": repository, "tag": tag or "latest"}


@dataclass(frozen=True)
class RemoveImage(Operation):
    """`docker rmi`: remove a name of an image, and the image with its last name."""

    ref: str

    VERB = ("rmi",)

    def _arguments(self) -> list[str]:
        return [values.parse_image(self.ref)]

    def _fixed_arguments(self) -> dict[str, Any]:
        return {"image": self.ref}
