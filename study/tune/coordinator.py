"""A small Ray actor through which the driver and the trials of a study talk: stop signals, and broken devices."""

import contextlib
from typing import Any

DEVICE_REST_SECONDS = (10.0, 1800.0)
"""How long a device that failed is left alone: at first, and at most. The time doubles with each failure."""

ANSWER_SECONDS = 10.0


class Coordinator:
    """State that all processes of a study share. It is lost if the actor restarts, which costs no run."""

    def __init__(self, study: str, rest_seconds: tuple[float, float] = DEVICE_REST_SECONDS) -> None:
        self.study = study
        self.rest_seconds = rest_seconds
        self.stopping = False
        self.failures: dict[str, int] = {}

    def __repr__(self) -> str:
        """Return how Ray shows the actor."""
        return f"study {self.study}: coordinator"

    def stop(self) -> None:
        """Have every trial checkpoint and end."""
        self.stopping = True

    def is_stopping(self) -> bool:
        """Return whether trials are to checkpoint and end."""
        return self.stopping

    def device_failed(self, place: str) -> float:
        """Note a failure of a device; return for how many seconds to leave it alone."""
        before = self.failures.get(place, 0)
        self.failures[place] = before + 1
        first, most = self.rest_seconds
        return min(first * 2**before, most)

    def device_works(self, place: str) -> None:
        """Forget the failures of a device."""
        self.failures.pop(place, None)


class Coordination:
    """A handle of the actor, for the driver and for trials. No call raises: where Ray is dying, trials end anyway."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def stop(self) -> None:
        """Have every trial checkpoint and end. Does not wait."""
        with contextlib.suppress(Exception):
            self.actor.stop.remote()

    def is_stopping(self) -> bool:
        """Return whether trials are to checkpoint and end."""
        return bool(self._ask("is_stopping"))

    def device_failed(self, place: str) -> float:
        """Note a failure of a device; return for how many seconds to leave it alone."""
        return self._ask("device_failed", place) or DEVICE_REST_SECONDS[0]

    def device_works(self, place: str) -> None:
        """Forget the failures of a device."""
        with contextlib.suppress(Exception):
            self.actor.device_works.remote(place)

    def _ask(self, method: str, *arguments: str) -> Any:
        import ray

        try:
            return ray.get(getattr(self.actor, method).remote(*arguments), timeout=ANSWER_SECONDS)
        except Exception:  # Ray is ending, or the actor restarts
            return None


def start(study: str) -> Coordination:
    """Start the actor of a study, on the driver's node. It ends with its last handle."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Coordinator).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote(study)
    return Coordination(actor)
