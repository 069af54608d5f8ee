"""What survives what: three places for the data directory, four things that happen to a container."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.course.exercises import Prediction, predict
from labhelpers.errors import EngineRefused, LabError
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
from labhelpers.results import Result, column, record, rows, table, with_text_fallback

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

STORAGE_KINDS = ("no volume", "volume", "bind mount")
OPERATIONS = ("stop, start", "kill, start", "remove, create anew", "upgrade the image")
SELECT = f"use {DATABASE}; select * from mytab;"
STILL_THERE, GONE = "still there", "gone"
NEXT_CONNECTIONS = 77
"""What the newer image sets `max_connections` to: whoever asks the server knows that it runs from that image."""


@record
class SurvivalOutcome(Result):
    """What became of the row in one place after one operation."""

    way: str = column("where the data directory was, out of `STORAGE_KINDS`")
    operation: str = column("what happened to the container, out of `OPERATIONS`")
    survived: bool = column("whether the row was read afterwards")
    said: str = column("what the server answered to `select * from mytab;`")
    took_s: float = column("from the beginning of the operation to that answer")


@record
class Survival(Result):
    """The table of what survives what."""

    outcomes: tuple[SurvivalOutcome, ...] = rows("one for each way and operation", of=SurvivalOutcome)
    orphans: int = column("how many volumes without a name `docker rm` left behind")
    next_connections: tuple[int, ...] = column("`max_connections` of each server of the newer image")
    predicted: dict[tuple[str, str], str] = column(
        "(way, operation) → what the reader predicted, where he did", shown=False, default_factory=dict
    )

    def __repr__(self) -> str:
        return f"{len(self.outcomes)} cells, the row survived in {sum(one.survived for one in self.outcomes)}"

    def of(self, way: str, operation: str) -> SurvivalOutcome:
        """One cell of the table."""
        return next(one for one in self.outcomes if (one.way, one.operation) == (way, operation))

    def survivors(self, operation: str) -> tuple[str, ...]:
        """The ways in which the row survived `operation`."""
        return tuple(way for way in STORAGE_KINDS if self.of(way, operation).survived)

    def beside(self, guesses: SurvivalPredictions) -> Survival:
        """The same, with what the reader predicted."""
        return dataclasses.replace(self, predicted=guesses.chosen)

    @property
    def right(self) -> int:
        """How many of the reader's predictions came true."""
        return sum(
            told == (STILL_THERE if self.of(*cell).survived else GONE)
            for cell, told in self.predicted.items()
        )

    def frame(self) -> pd.DataFrame:
        """One row a cell: way, operation, predicted, measured, said, took_s."""
        rows = [
            (
                one.way,
                one.operation,
                self.predicted.get((one.way, one.operation), ""),
                STILL_THERE if one.survived else GONE,
                one.said,
                round(one.took_s, 1),
            )
            for one in self.outcomes
        ]
        return table(rows, ["way", "operation", "predicted", "measured", "said", "took_s"])


# --- predictions


class SurvivalPredictions:
    """The twelve predictions: one for each cell of the table. Shows itself as a table to fill in."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], Prediction] = {
            (way, operation): predict(
                f"08-{way}-{operation}".replace(", ", "-").replace(" ", "-"),
                f"{way}: {operation}. The row is",
                (STILL_THERE, GONE),
            )
            for operation in OPERATIONS
            for way in STORAGE_KINDS
        }

    @property
    def chosen(self) -> dict[tuple[str, str], str]:
        """What the reader chose so far: (way, operation) → `still there` or `gone`."""
        return {cell: told for cell, one in self.cells.items() if (told := one.chosen)}

    def __repr__(self) -> str:
        # never what was chosen: stored in a notebook, it is the same on every machine
        rows = [f"  {operation}: {' / '.join(STORAGE_KINDS)}" for operation in OPERATIONS]
        return "\n".join([f"Predict: the row is {STILL_THERE} or {GONE}?", *rows])

    @cached_property
    def panel(self) -> Any:
        """The widget that asks; it keeps each answer when it is chosen."""
        from labhelpers.persistence.live import prediction_table

        return prediction_table(self.cells, STORAGE_KINDS, OPERATIONS)

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return with_text_fallback(self.panel, repr(self))


def predict_survival() -> SurvivalPredictions:
    """Ask for a prediction of every cell of the table."""
    return SurvivalPredictions()


# --- running it


def newer_image(lab: Lab, image: str) -> str:
    """An image that stands for the next release: `image` with a label and one setting more. Gives its name."""
    tag = f"mysql-next:{lab.session}"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "next.cnf").write_text(
            f"[mysqld]\nmax-connections={NEXT_CONNECTIONS}\n", encoding="utf-8"
        )
        lines = (f"FROM {image}", "LABEL release=next", "COPY next.cnf /etc/mysql/conf.d/next.cnf")
        Path(folder, "Dockerfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
        lab.build(folder, tag)
    return tag


def survival(lab: Lab, image: str, source: str) -> Survival:
    """Run all twelve, side by side: servers that have the row, and what happens to them.

    Args:
        image: of MySQL.
        source: a volume with a data directory that has the book's row and is not in use. Each server begins with a
            copy of it; a server that finds an empty directory later initialises it.

    Raises:
        LabError: `source` does not hold that row, or is in use; or a server did not start.
    """
    essential = f"docker run -d --network none -e MYSQL_ROOT_PASSWORD={PASSWORD} -v survival-{lab.session}"
    with ExitStack() as stack, lab.quiet(essential=[essential]):
        upgraded = newer_image(lab, image)
        stack.callback(_forget_image, lab, upgraded)
        named = stack.enter_context(temporary_volume(lab, "survival", source))
        holder = stack.enter_context(temporary_volume(lab, "survival-host"))
        directory = host_directory(lab, holder)
        copy_volume(lab, source, directory)
        # without a volume, two servers: a new directory is initialised meanwhile, which takes longest
        mounts = (
            (STORAGE_KINDS[0], None),
            (STORAGE_KINDS[0], None),
            (STORAGE_KINDS[1], named),
            (STORAGE_KINDS[2], directory),
        )
        parts = (OPERATIONS[:2], OPERATIONS[2:], OPERATIONS, OPERATIONS)
        runs = [_StorageRun(lab, image, upgraded, source, way, mount) for way, mount in mounts]
        with ThreadPoolExecutor(len(runs)) as pool:
            found = list(pool.map(lambda one, part: one.run(part), runs, parts))
    return Survival(
        tuple(outcome for outcomes in found for outcome in outcomes),
        sum(one.orphans for one in runs),
        tuple(count for one in runs for count in one.connections),
    )


class _StorageRun:
    """One server, its data in one place, through all the operations."""

    def __init__(self, lab: Lab, image: str, upgraded: str, source: str, way: str, mount: str | None) -> None:
        self.lab, self.image, self.upgraded, self.source = lab, image, upgraded, source
        self.way, self.mount = way, mount
        self.orphans = 0
        self.connections: list[int] = []
        self._made: list[Container] = []

    def run(self, operations: Sequence[str]) -> list[SurvivalOutcome]:
        try:
            server = self._first()
            ended = [self._ended(server, name) for name in operations if name in OPERATIONS[:2]]
            return ended + self._replaced(server, [name for name in operations if name in OPERATIONS[2:]])
        finally:
            for one in self._made:
                remove_server(self.lab, one)

    def _first(self) -> Container:
        if self.mount is None:
            server = start_without_volume(self.lab, self.image, self.source)
            self._made.append(server)
            wait_until_ready(self.lab, server)
        else:
            server = self._start(self.image)
        # what is not there before cannot survive
        if query(self.lab, server, SELECT) != [ROW]:
            raise LabError(
                f"the volume {self.source!r} does not hold the book's row and nothing else in mytab",
                hint="run the notebook from its top; persistence.data_directory makes such a volume",
            )
        return server

    def _ended(self, server: Container, operation: str) -> SurvivalOutcome:
        end = partial(self.lab.kill if operation == OPERATIONS[1] else self._stop, server)
        return self._outcome(operation, lambda: self._again(server, end))

    def _replaced(self, server: Container, operations: Sequence[str]) -> list[SurvivalOutcome]:
        images = dict(zip(OPERATIONS[2:], (self.image, self.upgraded), strict=True))

        def anew(operation: str) -> SurvivalOutcome:
            return self._outcome(operation, lambda: self._start(images[operation]))

        if self.mount is None and operations:
            # nothing connects the two new servers with each other or with the old one
            self._remove(server)
            with ThreadPoolExecutor(len(operations)) as pool:
                return list(pool.map(anew, operations))
        outcomes = []
        for operation in operations:
            self._remove(self._made[-1])
            outcomes.append(anew(operation))
        return outcomes

    def _start(self, image: str) -> Container:
        server = start_server(self.lab, image, self.mount, network="none")
        self._made.append(server)
        wait_until_ready(self.lab, server)
        if image == self.upgraded:
            self.connections.append(int(query(self.lab, server, "select @@max_connections")[0][0]))
        return server

    def _stop(self, server: Container) -> None:
        self.lab.stop(server, timeout_s=STOP_TIMEOUT_S)

    def _again(self, server: Container, end: Callable[[], object]) -> Container:
        end()
        self.lab.start(server)
        wait_until_ready(self.lab, server)
        return server

    def _remove(self, server: Container) -> None:
        """As `docker stop` and `docker rm` do it: what has no name stays behind. It is counted, and goes then."""
        self._stop(server)
        kept = find_data_location(self.lab, str(server.name))
        self.lab.remove(server)
        if kept.kind == ANONYMOUS_VOLUME:
            self.lab.inspect_volume(kept.name)  # it is still there
            self.orphans += 1
            self.lab.remove_volume(kept.name, made_by_run=True)

    def _outcome(self, operation: str, do: Callable[[], Container]) -> SurvivalOutcome:
        begin = time.monotonic()
        server = do()
        try:
            rows = query(self.lab, server, SELECT)
            answer = " ".join(rows[0]) if rows else "no row"
        except LabError as error:
            rows, answer = [], str(error.engine_message)
        return SurvivalOutcome(self.way, operation, rows == [ROW], answer, time.monotonic() - begin)


def _forget_image(lab: Lab, tag: str) -> None:
    with suppress(EngineRefused):
        lab.remove_image(tag)
