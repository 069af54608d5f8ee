"""What labs made on an engine: a list of it, and its removal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labhelpers.engine.words import speaking
from labhelpers.errors import BadInput, NotOurs
from labhelpers.lab import sessions
from labhelpers.lab.sessions import TEST_ENGINES, Thing, described
from labhelpers.results import Result, table, with_text

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.engine import Engine
    from labhelpers.lab.lab import Lab


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
                f"nothing was removed; not in the list: {', '.join(unknown)}",
                hint="names in the list: " + (", ".join(str(t) for t in self.things) or "none"),
            )
        with speaking(self.lab.engine):
            removed, kept = sessions.remove(self.lab.client, picked)
        return [f"removed {thing}" for thing in removed] + kept

    def __repr__(self) -> str:
        if not self.things:
            return "Nothing else came onto the engine since this notebook began."
        lines = [f"  {described(thing)}" for thing in self.things]
        how = 'Remove what you do not need: .remove("name", …). Nothing is removed automatically.'
        return "\n".join(["These remain on the engine when this notebook is closed:", *lines, how])

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        from labhelpers.lab.panel import made_elsewhere_panel

        return with_text(made_elsewhere_panel(self), repr(self))


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
        found = sessions.things(engine.client)
        strangers = sessions.strangers(engine.client)
    alive = {session for session in {thing.session for thing in found} if sessions.is_alive(session)}
    rest = [thing for thing in found if not thing.readers]
    return Inventory(
        ended=tuple(t for t in rest if t.session not in alive),
        open=tuple(t for t in rest if t.session in alive and t.chapter != TEST_ENGINES),
        readers=tuple(t for t in found if t.readers),
        tests=tuple(t for t in rest if t.session in alive and t.chapter == TEST_ENGINES),
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
        removed, kept = sessions.sweep(engine.client)
    return list(map(str, removed)), kept


def remove(engine: Engine, chosen: Sequence[Thing]) -> tuple[list[str], list[str]]:
    """Remove things that the reader has confirmed: what went, and what stays and why."""
    with speaking(engine):
        removed, kept = sessions.remove(engine.client, list(chosen))
    return list(map(str, removed)), kept


def named(engine: Engine, wanted: Sequence[str]) -> list[Thing]:
    """What labs made under these names or ids, of whatever state directory.

    Raises:
        BadInput: no lab made a thing of that name.
        NotOurs: a notebook of another state directory, or a `./lab test`, is using it now.
    """
    there = inventory(engine)
    found = [*there.ours, *there.strangers]
    chosen = [thing for thing in found if _references(thing) & set(wanted)]
    missing = set(wanted).difference(*map(_references, chosen))
    if missing:
        raise BadInput(
            f"no lab created {', '.join(sorted(missing))} on this engine; nothing was removed",
            hint="`./lab status` lists the labs' resources; remove your own with `docker rm`, "
            "`docker volume rm` or `docker network rm`",
        )
    busy = sessions.alive_elsewhere()
    used = [t for t in chosen if t in there.tests or (t in there.strangers and t.session in busy)]
    if used:
        raise NotOurs(
            f"{', '.join(map(str, used))}: in use by a running lab session; nothing was removed",
            hint="end that session first: shut down its notebook's kernel or stop its `./lab` command",
        )
    return chosen


def _references(thing: Thing) -> set[str]:
    """What a reader may call a thing: its name, its kind and name, or its id, also as `docker ps` shortens it."""
    digest = thing.id.removeprefix("sha256:")
    # the id of a volume is its name, whose beginning may be the name of another one
    ids = set() if thing.kind == "volume" else {thing.id, digest, digest[:12]}
    return {thing.name, str(thing), *ids}
