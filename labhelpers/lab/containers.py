"""Operations on containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import requests
from docker.errors import APIError, ImageNotFound, NotFound
from docker.models.containers import Container

from labhelpers.engine.arguments import name_of, time_limit
from labhelpers.engine.error_translation import translate_errors
from labhelpers.engine.removal import kill_container, remove_container
from labhelpers.engine.run_once import DEFAULT_LOG_DRIVER, TIMEOUT_S, has_readable_logs, run_once
from labhelpers.engine.streams import ExecResult, execute
from labhelpers.errors import TimedOut
from labhelpers.lab import refusals
from labhelpers.lab.base import Base
from labhelpers.lab.docker_py import translate_options
from labhelpers.lab.operations import (
    Exec,
    Kill,
    Pause,
    Remove,
    Restart,
    Run,
    RunOnce,
    Start,
    Stop,
    Unpause,
    Update,
    Wait,
    make_operation,
)
from labhelpers.results import Result, column, record


@record
class Output(Result):
    """What a command in a container answered."""

    exit_code: int = column("exit code, 0 for success")
    stdout: str = column("standard output, as text")
    stderr: str = column("standard error, as text")

    def __str__(self) -> str:
        return self.stdout + self.stderr


class Containers(Base):
    """The operations of `Lab` on containers."""

    def run(self, image: str, command: str | Sequence[str] | None = None, **options: Any) -> Container:
        """Make a container and start it, in the background; `labhelpers.lab.operations.Run` lists the options.

        Options may also be spelled as in docker-py where they mean the same: `mem_limit`, `detach=True`, …

        Raises:
            BadInput: an unknown option, or an invalid value.
            ImageMissing: the engine does not have the image.
            NameTaken, PortTaken: the name or a port belongs to something else.
            EngineRefused: the engine refused the request for another reason.
        """
        run = make_operation(
            Run, image, command, **self._with_log(self._with_userns(translate_options(options)))
        )
        self._print_command(run)
        body = run.api()
        name = body.pop("name", None)
        body["Labels"] = body.get("Labels", {}) | self._labels("container")
        with translate_errors(self.engine):
            try:
                made = self.client.api.create_container_from_config(body, name)  # type: ignore[no-untyped-call]
            except ImageNotFound as error:
                raise refusals.image_missing(image, error) from None
            except APIError as error:
                if error.status_code == 409 and name:
                    raise self._name_taken("container", name, error) from None
                raise
            self._warn(made.get("Warnings") or [])
            try:
                self.client.api.start(made["Id"])
            except BaseException as error:
                # or its name would stay in use
                remove_container(self.client.api, made["Id"], v=True)
                if isinstance(error, APIError):
                    raise refusals.not_started(self.client, run, error) from None
                raise
            return self.client.containers.get(made["Id"])

    def run_once(
        self,
        image: str,
        command: str | Sequence[str] | None = None,
        *,
        limit_s: float = TIMEOUT_S,
        **options: Any,
    ) -> Output:
        """Run a command in a container of its own, wait for it, give its output, and remove the container.

        The output is read as the command writes it, so that it does not depend on the engine's log driver.

        Args:
            limit_s: how long it may be silent, in seconds.
            options: those of `labhelpers.lab.operations.Run`, without a name.

        Raises:
            BadInput, ImageMissing, EngineRefused: see `run`.
            LabError: it was silent for `limit_s`.
        """
        run = make_operation(RunOnce, image, command, **self._with_userns(translate_options(options)))
        self._print_command(run)
        body = run.api()
        body["Labels"] = body.get("Labels", {}) | self._labels("container")
        with translate_errors(self.engine):
            try:
                done = run_once(self.client.api, body, limit_s=time_limit(limit_s))
            except ImageNotFound as error:
                raise refusals.image_missing(image, error) from None
            except APIError as error:
                raise refusals.not_started(self.client, run, error) from None
        return _output(done)

    def exec(self, container: Container | str, command: str | Sequence[str], **options: Any) -> Output:
        """Run one more process in a running container, wait for it, and give its output.

        With `detach` it is only started, and the output is empty.

        Raises:
            ContainerMissing, NotRunning: the container is gone or does not run.
        """
        call = make_operation(Exec, name_of(container), command, **options)
        self._print_command(call)
        request = call.api()
        with translate_errors(self.engine, container=call.container):
            if request.pop("detach", False):
                self.client.api.exec_start(self.client.api.exec_create(**request)["Id"], detach=True)
                return Output(0, "", "")
            return _output(execute(self.client.api, **request))

    def update(self, container: Container | str, **options: Any) -> None:
        """Change the limits of a container that the lab made, while it runs; see `labhelpers.lab.operations.Update`.

        Raises:
            BadInput: a value that cannot be meant, or nothing to change.
            NotOurs: the lab did not create it.
            EngineRefused: the engine refused the request, for example for less memory than is in use.
            LabError: it is gone.
        """
        call = make_operation(Update, name_of(container), **options)
        with self._changing(call):
            api: Any = self.client.api  # its own update_container() knows neither --cpus nor --pids-limit
            answer = api._post_json(api._url("/containers/{0}/update", call.container), data=call.api())
            api._result(answer, True)

    def stop(self, container: Container | str, *, timeout_s: int | None = None) -> None:
        """Stop a container that the lab made; it is killed if it has not ended after `timeout_s` (else 10 s).

        Raises:
            NotOurs: the lab did not create it.
            LabError: it is gone.
        """
        call = make_operation(Stop, name_of(container), timeout_s)
        with self._changing(call):
            self.client.api.stop(**call.api())

    def remove(self, container: Container | str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove a container that the lab made; a running one only with `force`.

        Raises:
            NotOurs: the lab did not create it.
            LabError: it is gone, or it runs.
        """
        call = make_operation(Remove, name_of(container), force, volumes)
        with self._changing(call):
            remove_container(self.client.api, **call.api())

    @contextmanager
    def running(
        self, image: str, command: str | Sequence[str] | None = None, **options: Any
    ) -> Iterator[Container]:
        """A container for the duration of a block; it is removed with its anonymous volumes. Options as for `run`.

        Raises:
            BadInput, ImageMissing, NameTaken, PortTaken, EngineRefused: as `run`.
        """
        container = self.run(image, command, **options)
        try:
            yield container
        finally:
            self._print_command(make_operation(Remove, name_of(container), True, True))
            with translate_errors(self.engine), suppress(NotFound):  # the block has removed it
                remove_container(self.client.api, str(container.id), v=True, force=True)

    def start(self, container: Container | str) -> None:
        """Start a container that the lab made and that is stopped.

        Raises:
            NotOurs: the lab did not create it.
            ContainerMissing: there is no such container.
            EngineRefused: the engine did not start it.
        """
        call = make_operation(Start, name_of(container))
        with self._changing(call):
            self.client.api.start(**call.api())

    def restart(self, container: Container | str, *, timeout_s: int | None = None) -> None:
        """Stop a container that the lab made, and start it; it is killed after `timeout_s` (else 10 s).

        Raises:
            NotOurs: the lab did not create it.
            ContainerMissing: there is no such container.
        """
        call = make_operation(Restart, name_of(container), timeout_s)
        with self._changing(call):
            self.client.api.restart(**call.api())

    def kill(self, container: Container | str, signal: str | None = None) -> None:
        """Send a signal to the first process of a container; without one, SIGKILL, and wait for its end.

        Raises:
            NotOurs: the lab did not create it.
            ContainerMissing: there is no such container.
            NotRunning: it does not run.
        """
        call = make_operation(Kill, name_of(container), signal)
        with self._changing(call):
            if signal is None:
                kill_container(self.client.containers.get(call.container))
            else:
                self.client.api.kill(**call.api())

    def pause(self, container: Container | str) -> None:
        """Freeze the processes of a container that the lab made.

        Raises:
            NotOurs: the lab did not create it.
            ContainerMissing: there is no such container.
        """
        call = make_operation(Pause, name_of(container))
        with self._changing(call):
            self.client.api.pause(**call.api())

    def unpause(self, container: Container | str) -> None:
        """Let the processes of a paused container go on.

        Raises:
            NotOurs: the lab did not create it.
            ContainerMissing: there is no such container.
        """
        call = make_operation(Unpause, name_of(container))
        with self._changing(call):
            self.client.api.unpause(**call.api())

    def wait(self, container: Container | str, *, limit_s: float = TIMEOUT_S) -> int:
        """Wait until a container ends, and give its exit code.

        Raises:
            ContainerMissing: there is no such container.
            TimedOut: it still runs after `limit_s`.
        """
        call = make_operation(Wait, name_of(container))
        api: Any = self.client.api  # its types know no fractions of a second
        self._print_command(call)
        with translate_errors(self.engine, container=call.container):
            try:
                return int(api.wait(call.container, timeout=time_limit(limit_s))["StatusCode"])
            except (requests.ReadTimeout, requests.ConnectionError) as error:
                if "timed out" not in str(error).lower():
                    raise
                raise TimedOut(
                    f"timed out after {limit_s:g} s waiting for the container {call.container!r} to end",
                    hint=f"see what it does: docker logs {call.container}; or stop it: lab.stop({call.container!r})",
                ) from None

    def _with_log(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Options of `run`: what a container of the lab writes can be read, also where the engine keeps no logs."""
        with translate_errors(self.engine):
            return (
                options
                if has_readable_logs(self.engine.info)
                else {"log_driver": DEFAULT_LOG_DRIVER, **options}
            )

    def _with_userns(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Options of `run`: an engine with `userns-remap` wants all namespaces of a container from one place.

        It refuses namespaces of the host without the host's user namespace, and those of a container with another user
        namespace than that container's.
        Source: moby, daemon/daemon_unix.go, verifyPlatformContainerSettings; runc, libcontainer/configs/validate.
        """
        with translate_errors(self.engine):
            if not self.engine.remaps_users:
                return options
            modes = [str(options.get(name) or "") for name in ("network", "pid", "ipc")]
            shared = [mode.removeprefix("container:") for mode in modes if mode.startswith("container:")]
            is_hosts = "host" in modes or any(map(self._has_hosts_userns, shared))
        return {"userns_mode": "host", **options} if is_hosts else options

    def _has_hosts_userns(self, container: str) -> bool:
        try:
            found = self.client.api.inspect_container(container)
        except NotFound:  # the engine says so when it creates the other one
            return False
        return bool(found["HostConfig"].get("UsernsMode") == "host")


def _output(result: ExecResult) -> Output:
    return Output(
        result.exit_code, *(part.decode(errors="replace") for part in (result.stdout, result.stderr))
    )
