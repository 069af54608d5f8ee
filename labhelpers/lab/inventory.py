"""What labs made on an engine: a list of it, and its removal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labhelpers.engine.error_translation import translate_errors
from labhelpers.errors import BadInput, NotOwned
from labhelpers.lab import sessions
from labhelpers.lab.sessions import TEST_ENGINES, Resource, described
from labhelpers.results import Result, column, record, rows, with_text_fallback

if TYPE_CHECKING:
    from labhelpers.engine import Engine
    from labhelpers.lab.lab import Lab


@record
class RemainingResources(Result):
    """Resources that remain on the engine when a lab closes."""

    lab: Lab = column("the lab that closes", shown=False)
    resources: tuple[Resource, ...] = rows(
        "the resources in the order in which they can be removed", of=Resource
    )

    def remove(self, *chosen: str | Resource) -> list[str]:
        """Remove what is chosen by its name, by "kind name", or as a member of `resources`.

        Returns:
            A line for each thing that was removed, or that the engine refused to remove.

        Raises:
            BadInput: nothing is named, or a name that is not in the list.
        """
        if not chosen:
            raise BadInput(
                "nothing was removed: name what to remove",
                hint=f'for example .remove("{self.resources[0].name}")'
                if self.resources
                else "the list is empty",
            )
        picked = [t for t in self.resources if t in chosen or {t.name, str(t)} & set(chosen)]
        known = {word for thing in self.resources for word in (thing.name, str(thing))}
        unknown = [word for word in chosen if isinstance(word, str) and word not in known]
        if unknown:
            raise BadInput(
                f"nothing was removed; not in the list: {', '.join(unknown)}",
                hint="names in the list: " + (", ".join(str(t) for t in self.resources) or "none"),
            )
        with translate_errors(self.lab.engine):
            removed, kept = sessions.remove(self.lab.client, picked)
        return [f"removed {thing}" for thing in removed] + kept

    def __repr__(self) -> str:
        if not self.resources:
            return "Nothing else came onto the engine since this notebook began."
        lines = [f"  {described(thing)}" for thing in self.resources]
        how = 'Remove what you do not need: .remove("name", …). Nothing is removed automatically.'
        return "\n".join(["These remain on the engine when this notebook is closed:", *lines, how])

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        from labhelpers.lab.panel import remaining_panel

        return with_text_fallback(remaining_panel(self), repr(self))


@record
class Inventory(Result):
    """Resources of labs on an engine."""

    ended: tuple[Resource, ...] = column(
        "resources of closed sessions of this state directory: `clean` removes them", shown=False
    )
    in_use: tuple[Resource, ...] = column(
        "resources of open sessions of this state directory: notebooks and JupyterLab's terminals",
        shown=False,
    )
    reader_volumes: tuple[Resource, ...] = column(
        "volumes that you created to keep, of any session of this state directory", shown=False
    )
    tests: tuple[Resource, ...] = column("test engines of a running `./lab test`", shown=False)
    foreign: tuple[Resource, ...] = column(
        "labelled resources of no session of this state directory", shown=False
    )

    @property
    def owned(self) -> tuple[Resource, ...]:
        """Everything that sessions of this state directory made."""
        return (*self.ended, *self.in_use, *self.reader_volumes, *self.tests)


def inventory(engine: Engine) -> Inventory:
    """What labs made on the engine."""
    with translate_errors(engine):
        found = sessions.session_resources(engine.client)
        strangers = sessions.foreign_resources(engine.client)
    alive = {session for session in {thing.session for thing in found} if sessions.is_alive(session)}
    rest = [thing for thing in found if not thing.created_by_reader]
    return Inventory(
        ended=tuple(t for t in rest if t.session not in alive),
        in_use=tuple(t for t in rest if t.session in alive and t.chapter != TEST_ENGINES),
        reader_volumes=tuple(t for t in found if t.created_by_reader),
        tests=tuple(t for t in rest if t.session in alive and t.chapter == TEST_ENGINES),
        foreign=tuple(strangers),
    )


def owned_resources(engine: Engine) -> list[Resource]:
    """Everything on the engine that sessions of this state directory made."""
    return list(inventory(engine).owned)


def clean(engine: Engine) -> tuple[list[str], list[str]]:
    """Remove what sessions of this state directory left when they ended: what went, and what stays and why.

    What an open notebook made stays, so do volumes that the reader created, and volumes labelled `labhelpers.keep`.
    """
    with translate_errors(engine):
        removed, kept = sessions.reap_ended_sessions(engine.client)
    return list(map(str, removed)), kept


def remove(engine: Engine, chosen: Sequence[Resource]) -> tuple[list[str], list[str]]:
    """Remove things that the reader has confirmed: what went, and what stays and why."""
    with translate_errors(engine):
        removed, kept = sessions.remove(engine.client, list(chosen))
    return list(map(str, removed)), kept


def find_by_name(engine: Engine, wanted: Sequence[str]) -> list[Resource]:
    """What labs made under these names or ids, of whatever state directory.

    Raises:
        BadInput: no lab made a thing of that name.
        NotOwned: a notebook of another state directory, or a `./lab test`, is using it now.
    """
    there = inventory(engine)
    found = [*there.owned, *there.foreign]
    chosen = [thing for thing in found if _references(thing) & set(wanted)]
    missing = set(wanted).difference(*map(_references, chosen))
    if missing:
        raise BadInput(
            f"no lab created {', '.join(sorted(missing))} on this engine; nothing was removed",
            hint="`./lab status` lists the labs' resources; remove your own with `docker rm`, "
            "`docker volume rm` or `docker network rm`",
        )
    busy = sessions.live_foreign_sessions()
    used = [t for t in chosen if t in there.tests or (t in there.foreign and t.session in busy)]
    if used:
        raise NotOwned(
            f"{', '.join(map(str, used))}: in use by a running lab session; nothing was removed",
            hint="end that session first: shut down its notebook's kernel or stop its `./lab` command",
        )
    return chosen


def _references(thing: Resource) -> set[str]:
    """What a reader may call a thing: its name, its kind and name, or its id, also as `docker ps` shortens it."""
    digest = thing.id.removeprefix("sha256:")
    # the id of a volume is its name, whose beginning may be the name of another one
    ids = set() if thing.kind == "volume" else {thing.id, digest, digest[:12]}
    return {thing.name, str(thing), *ids}
