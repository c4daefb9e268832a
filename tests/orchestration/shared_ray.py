"""The Ray cluster that the tests of this folder share: started once, and restarted after a test that breaks it."""

import os
from contextlib import ExitStack
from unittest import mock

from experiment_runs import environment

from raykd.orchestration.session import ray_session

TO_JOIN = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")  # what another process needs in addition to the address


class SharedRay:
    """A private Ray cluster of this process, as on a laptop, with two CPUs and no GPU on any machine."""

    def __init__(self) -> None:
        self._address = ""  # HOST:PORT of its GCS while it runs
        self._to_join: dict[str, str | None] = {}
        self._stack = ExitStack()

    def start(self) -> str:
        """Start it unless it runs, and return its address, HOST:PORT. This imports Ray; nothing may do so before."""
        if not self._address:
            with ExitStack() as stack:
                stack.enter_context(mock.patch.dict(os.environ, environment(cpus=2), clear=True))
                stack.enter_context(ray_session())
                import ray

                self._address = ray.get_runtime_context().gcs_address
                self._to_join = _variables()
                self._stack = stack.pop_all()
        return self._address

    def stop(self) -> None:
        """Stop it if it runs, and restore the environment from before it."""
        self._address = ""
        self._stack.close()

    def damage(self) -> str | None:
        """Return why the next test cannot use it; None if it can, or if this Ray cluster does not run."""
        if not self._address:
            return None
        import ray

        if not ray.is_initialized():
            return "it was shut down"
        if (found := ray.get_runtime_context().gcs_address) != self._address:
            return f"this process is connected to {found} instead of {self._address}"
        if (found := _variables()) != self._to_join:
            return f"the environment has {found} instead of {self._to_join}"
        return None

    def restart(self) -> None:
        """Replace it by a new one, which has another address."""
        self.stop()
        self.start()


def _variables() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in TO_JOIN}
