"""Secrets that a build leaves in an image: in a layer, in the history, or in the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from secrets import token_hex
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.errors import BadInput
from labhelpers.layers import recipes, trees
from labhelpers.layers.builds import MAX_TEXT_BYTES, build, unique_name
from labhelpers.layers.docker_save import read_docker_save
from labhelpers.layers.recipes import BuildContext
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab
    from labhelpers.layers.sources import LimitedSource


@record
class Copy:
    """An entry for the path in one layer."""

    layer: int = column("number of the layer, 0 for the lowest")
    instruction: str = column("instruction that created the layer")
    kind: str = column("type of the entry: `file`, `directory`, `link`, … or `whiteout`")
    text: str = column("contents of a file, at most 1 MiB")


@record
class Recovered(Result):
    """Layers of an image that have an entry for the path, from the lowest to the highest."""

    path: str = column("path in a container")
    copies: tuple[Copy, ...] = rows("from the lowest layer to the highest", of=Copy)
    visible: bool = column("whether a container sees the path")


@experiment
def recover(lab: Lab, ref: str, path: str) -> Recovered:
    """Search every layer of an image for a path, in the output of `docker save`.

    Raises:
        BadInput: `path` does not start with a slash.
        ImageMissing: the engine does not have the image.
    """
    if not path.startswith("/"):
        raise BadInput(
            f"{path!r} is not an absolute path", hint="start it at the root of the image, such as /etc/motd"
        )
    target = path.strip("/")
    stack = read_docker_save(
        lab, ref, lambda name, contents: contents.read(MAX_TEXT_BYTES) if name == target else None
    )
    above, slash, name = target.rpartition("/")
    whiteout = f"{above}{slash}{trees.WHITEOUT}{name}"
    copies = []
    for layer in stack.layers:
        if whiteout in layer.entries:
            copies.append(Copy(layer.number, layer.instruction, "whiteout", ""))
        if target in layer.entries:
            text = layer.file_results.get(target, b"").decode(errors="replace")
            copies.append(Copy(layer.number, layer.instruction, layer.entries[target].kind, text))
    return Recovered(path, tuple(copies), any(file.path == path for file in stack.union.files))


@record
class Leak:
    """A location in an image where anyone who has the image can read the secret."""

    image: str = column("how the build used the secret")
    location: str = column("location in the image: `layer 1: /token.txt`, `history: RUN …` or `settings`")


@record
class Secrets(Result):
    """Locations in each image where the secret of its build can be read."""

    secret: str = column("a random text")
    refs: Mapping[str, str] = column("how the build used the secret → its image", shown=False)
    leaks: tuple[Leak, ...] = rows("all locations of the secret", of=Leak)

    def locations(self, image: str) -> tuple[str, ...]:
        """Where the secret can be read in an image."""
        return tuple(leak.location for leak in self.leaks if leak.image == image)

    def frame(self) -> pd.DataFrame:
        """One row for each image and location: image, location (`nowhere` if the secret cannot be read)."""
        rows = [
            (image, location) for image in self.refs for location in self.locations(image) or ("nowhere",)
        ]
        return table(rows, ["image", "location"])


SECRET_RECIPES: Mapping[str, BuildContext] = {
    "deleted": recipes.DELETED,
    "argument": recipes.ARGUMENT,
    "other stage": recipes.OTHER_STAGE,
}


@experiment
def secrets(lab: Lab) -> Secrets:
    """Use a random secret in three builds, and search the layers, the history and the settings of the images for it.

    Raises:
        BuildFailed: a step failed.
    """
    secret, base = f"secret-{token_hex(8)}", lab.image("payload")
    refs, leaks = {}, []
    with lab.quiet(["docker build"]):
        for image, recipe in SECRET_RECIPES.items():
            if "token.txt" in recipe.files:
                recipe = recipe.with_files(token_txt=secret)
            arguments = {"BASE": base} | ({"TOKEN": secret} if image == "argument" else {})
            tag = unique_name(lab, f"{image.replace(' ', '-')}:1")
            refs[image] = build(lab, recipe, tag, None, **arguments)
            leaks += [Leak(image, location) for location in find_leaks(lab, refs[image], secret)]
    return Secrets(secret, refs, tuple(leaks))


@experiment
def find_leaks(lab: Lab, ref: str, secret: str) -> list[str]:
    """The locations in an image where `secret` can be read.

    Raises:
        ImageMissing: the engine does not have the image.
    """
    stack = read_docker_save(lab, ref, _contains(secret.encode()))
    locations = [f"layer {layer.number}: /{path}" for layer in stack.layers for path in layer.file_results]
    steps = [str(step["CreatedBy"]) for step in lab.history_of(ref)]
    locations += [f"history: {step.replace(secret, '…')[:60]}" for step in steps if secret in step]
    if secret in str(lab.inspect_image(ref).get("Config")):
        locations.append("settings")
    return locations


def _contains(needle: bytes) -> Callable[[str, LimitedSource], bool | None]:
    """A file callback that searches a file for `needle`, chunk by chunk."""

    def search(path: str, contents: LimitedSource) -> bool | None:
        end = b""
        while piece := contents.read(MAX_TEXT_BYTES):
            if needle in end + piece:
                return True
            end = piece[-len(needle) :]
        return None

    return search
