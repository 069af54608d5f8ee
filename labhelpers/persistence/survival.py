"""Survival of data: three kinds of storage for the data directory, four operations on the container."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.course.predictions import Prediction, predict
from labhelpers.errors import BadInput, EngineRefused, LabError
from labhelpers.persistence.data_location import ANONYMOUS_VOLUME, find_data_location
from labhelpers.persistence.servers import (
    DATABASE,
    PASSWORD,
    ROW,
    STOP_TIMEOUT_S,
    copy_volume,
    host_directory,
    query,
    remove_server,
    start_server,
    start_without_volume,
    temporary_volume,
    wait_until_ready,
)
from labhelpers.results import Result, column, derived, record, rows, with_text_fallback

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

STORAGE_KINDS = ("no volume", "volume", "bind mount")
OPERATIONS = ("stop, start", "kill, start", "remove, create anew", "upgrade the image")
SELECT = f"use {DATABASE}; select * from mytab;"
STILL_THERE, GONE = "still there", "gone"
NEXT_CONNECTIONS = 77
"""`max_connections` in the newer image, by which a server can be recognized as upgraded."""


@record
class SurvivalOutcome(Result):
    """Survival of the row with one kind of storage after one operation."""

    storage: str = column("storage of the data directory")
    operation: str = column("operation on the container")
    survived: bool = column("whether the row still exists", shown=False)
    answer: str = column("the server's answer to `select * from mytab;`")
    duration_s: float = column("time from the start of the operation to this answer")
    predicted: str | None = column("the reader's prediction", default=None)

    @derived
    def measured(self) -> str:
        """Whether the row is `still there` or `gone`."""
        return STILL_THERE if self.survived else GONE


@record
class Survival(Result):
    """Survival of a database row, by storage and operation."""

    outcomes: tuple[SurvivalOutcome, ...] = rows("one for each storage and operation", of=SurvivalOutcome)
    anonymous_volumes_left: int = column("number of anonymous volumes that `docker rm` left")
    next_connections: tuple[int, ...] = column("`max_connections` of each server with the newer image")

    def __repr__(self) -> str:
        survived = sum(each.survived for each in self.outcomes)
        return f"{len(self.outcomes)} outcomes, the row survived in {survived}"

    def of(self, storage: str, operation: str) -> SurvivalOutcome:
        """The outcome of one operation with one kind of storage."""
        wanted = (storage, operation)
        return next(each for each in self.outcomes if (each.storage, each.operation) == wanted)

    def survivors(self, operation: str) -> tuple[str, ...]:
        """The kinds of storage with which the row survived `operation`."""
        return tuple(storage for storage in STORAGE_KINDS if self.of(storage, operation).survived)

    def with_predictions(self, predictions: SurvivalPredictions) -> Survival:
        """A copy with the reader's predictions."""
        chosen = predictions.chosen
        return dataclasses.replace(
            self,
            outcomes=tuple(
                dataclasses.replace(each, predicted=chosen.get((each.storage, each.operation)))
                for each in self.outcomes
            ),
        )

    @property
    def predictions(self) -> int:
        """Number of outcomes that the reader predicted."""
        return sum(each.predicted is not None for each in self.outcomes)

    @property
    def correct_predictions(self) -> int:
        """Number of the reader's correct predictions."""
        return sum(each.predicted == each.measured for each in self.outcomes)


# --- predictions


class SurvivalPredictions:
    """Twelve predictions, one for each storage and operation, displayed as a table with drop-down lists."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], Prediction] = {
            (storage, operation): predict(
                f"08-{storage}-{operation}".replace(", ", "-").replace(" ", "-"),
                f"{storage}: {operation}. The row is",
                (STILL_THERE, GONE),
            )
            for operation in OPERATIONS
            for storage in STORAGE_KINDS
        }

    @property
    def chosen(self) -> dict[tuple[str, str], str]:
        """The reader's choices so far: (storage, operation) → `still there` or `gone`."""
        return {cell: choice for cell, prediction in self.cells.items() if (choice := prediction.chosen)}

    def __repr__(self) -> str:
        # without the choices: the output in a stored notebook must be the same on every machine
        rows = [f"  {operation}: {' / '.join(STORAGE_KINDS)}" for operation in OPERATIONS]
        return "\n".join([f"Predict: the row is {STILL_THERE} or {GONE}?", *rows])

    @cached_property
    def panel(self) -> Any:
        """The widget with the drop-down lists; it stores each choice at once."""
        from labhelpers.persistence.live import prediction_table

        return prediction_table(self.cells, STORAGE_KINDS, OPERATIONS)

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return with_text_fallback(self.panel, repr(self))


@experiment
def predict_survival() -> SurvivalPredictions:
    """Let the reader predict the outcome of every operation with every kind of storage."""
    return SurvivalPredictions()


# --- measurement


def newer_image(lab: Lab, image: str) -> str:
    """Build an image that represents the next release: `image` with a label and a setting. Gives its name."""
    tag = f"mysql-next:{lab.session}"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "next.cnf").write_text(
            f"[mysqld]\nmax-connections={NEXT_CONNECTIONS}\n", encoding="utf-8"
        )
        lines = (f"FROM {image}", "LABEL release=next", "COPY next.cnf /etc/mysql/conf.d/next.cnf")
        Path(folder, "Dockerfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
        lab.build(folder, tag)
    return tag


@experiment
def survival(lab: Lab, image: str, source: str) -> Survival:
    """Run every operation with every kind of storage, in parallel, and query the row afterwards.

    Args:
        image: the MySQL image.
        source: a volume with a data directory that has the book's row and is not in use. Each server starts with a
            copy; a server that later gets an empty directory initializes it.

    Raises:
        BadInput: `source` does not have this row.
        ContainerError: `source` is in use.
        NotRunning, TimedOut, ServerRefused: a server does not start.
    """
    essential = f"docker run -d --network none -e MYSQL_ROOT_PASSWORD={PASSWORD} -v survival-{lab.session}"
    with ExitStack() as stack, lab.quiet(essential=[essential]):
        upgraded = newer_image(lab, image)
        stack.callback(_remove_image, lab, upgraded)
        named = stack.enter_context(temporary_volume(lab, "survival", source))
        parent = stack.enter_context(temporary_volume(lab, "survival-host"))
        directory = host_directory(lab, parent)
        copy_volume(lab, source, directory)
        # two servers without a volume: the initialization of their new directories takes longest
        mounts = (
            (STORAGE_KINDS[0], None),
            (STORAGE_KINDS[0], None),
            (STORAGE_KINDS[1], named),
            (STORAGE_KINDS[2], directory),
        )
        parts = (OPERATIONS[:2], OPERATIONS[2:], OPERATIONS, OPERATIONS)
        runs = [_StorageRun(lab, image, upgraded, source, storage, mount) for storage, mount in mounts]
        with ThreadPoolExecutor(len(runs)) as pool:
            by_run = list(pool.map(lambda run, part: run.run(part), runs, parts))
    return Survival(
        tuple(outcome for outcomes in by_run for outcome in outcomes),
        sum(run.anonymous_volumes_left for run in runs),
        tuple(count for run in runs for count in run.connections),
    )


class _StorageRun:
    """A server with one kind of storage, and the operations on it."""

    def __init__(
        self, lab: Lab, image: str, upgraded: str, source: str, storage: str, mount: str | None
    ) -> None:
        self.lab, self.image, self.upgraded, self.source = lab, image, upgraded, source
        self.storage, self.mount = storage, mount
        self.anonymous_volumes_left = 0
        self.connections: list[int] = []
        self._servers: list[Container] = []

    def run(self, operations: Sequence[str]) -> list[SurvivalOutcome]:
        try:
            server = self._start_with_row()
            restarts = [self._restart(server, name) for name in operations if name in OPERATIONS[:2]]
            return restarts + self._replace(server, [name for name in operations if name in OPERATIONS[2:]])
        finally:
            for container in self._servers:
                remove_server(self.lab, container)

    def _start_with_row(self) -> Container:
        if self.mount is None:
            server = start_without_volume(self.lab, self.image, self.source)
            self._servers.append(server)
            wait_until_ready(self.lab, server)
        else:
            server = self._start(self.image)
        if query(self.lab, server, SELECT) != [ROW]:
            raise BadInput(
                f"the table mytab in the volume {self.source!r} does not have exactly the book's row",
                hint="run the notebook from the top; `persistence.data_directory` creates such a volume",
            )
        return server

    def _restart(self, server: Container, operation: str) -> SurvivalOutcome:
        def restart() -> Container:
            if operation == OPERATIONS[1]:
                self.lab.kill(server)
            else:
                self._stop(server)
            self.lab.start(server)
            wait_until_ready(self.lab, server)
            return server

        return self._outcome(operation, restart)

    def _replace(self, server: Container, operations: Sequence[str]) -> list[SurvivalOutcome]:
        images = dict(zip(OPERATIONS[2:], (self.image, self.upgraded), strict=True))

        def recreate(operation: str) -> SurvivalOutcome:
            return self._outcome(operation, lambda: self._start(images[operation]))

        if self.mount is None and operations:
            # the new servers share nothing with each other or with the old one
            self._remove(server)
            with ThreadPoolExecutor(len(operations)) as pool:
                return list(pool.map(recreate, operations))
        outcomes = []
        for operation in operations:
            self._remove(self._servers[-1])
            outcomes.append(recreate(operation))
        return outcomes

    def _start(self, image: str) -> Container:
        server = start_server(self.lab, image, self.mount, network="none")
        self._servers.append(server)
        wait_until_ready(self.lab, server)
        if image == self.upgraded:
            self.connections.append(int(query(self.lab, server, "select @@max_connections")[0][0]))
        return server

    def _stop(self, server: Container) -> None:
        self.lab.stop(server, timeout_s=STOP_TIMEOUT_S)

    def _remove(self, server: Container) -> None:
        """Run `docker stop` and `docker rm`; count the anonymous volume that is left, and remove it, too."""
        self._stop(server)
        location = find_data_location(self.lab, str(server.name))
        self.lab.remove(server)
        if location.kind == ANONYMOUS_VOLUME:
            self.lab.inspect_volume(location.name)  # fails if the volume does not exist
            self.anonymous_volumes_left += 1
            self.lab.remove_volume(location.name, made_by_run=True)

    def _outcome(self, operation: str, run: Callable[[], Container]) -> SurvivalOutcome:
        begin = time.monotonic()
        server = run()
        try:
            rows = query(self.lab, server, SELECT)
            answer = " ".join(rows[0]) if rows else "no row"
        except LabError as error:
            rows, answer = [], str(error.engine_message)
        return SurvivalOutcome(self.storage, operation, rows == [ROW], answer, time.monotonic() - begin)


def _remove_image(lab: Lab, tag: str) -> None:
    with suppress(EngineRefused):
        lab.remove_image(tag)
