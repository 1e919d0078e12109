"""What a trial waits for on a busy cluster, and who holds it.

Ray tells of its nodes what is free, and of actors and placement groups what they hold; an id ends
with its driver's job. What plain tasks hold is nobody's in these tables: their drivers are named
without a number. tests/cluster/test_holders.py asks a live cluster.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from orchestrator.base.urls import redact
from orchestrator.cluster.connection import Resources

_KINDS = ("CPU", "GPU")
_JOB_DIGITS = 8  # the last four bytes of the id of an actor or a placement group
_COMMAND_LIMIT = 60


@dataclass(kw_only=True)
class Holder:
    """A driver on the cluster that is not this one."""

    job: str
    driver: str
    command: str
    holds: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        held = _listed(self.holds) if self.holds else "what its tasks need"
        return f"job {self.job} of {self.driver} ({self.command}) holds {held}"


def holders() -> list[Holder]:
    """The other live drivers of the connected cluster, those that hold the most first."""
    import ray

    from orchestrator.cluster.ray_private import jobs

    own = ray.get_runtime_context().get_job_id()
    found = {
        job["JobID"]: Holder(
            job=job["JobID"],
            driver=f"process {job['DriverPid']} on {job['DriverIPAddress']}",
            command=_command(job["Entrypoint"]),
        )
        for job in jobs()
        if not job["IsDead"] and job["JobID"] != own and "_ray_internal" not in job["Entrypoint"]
    }
    for held_id, resources in _held():
        holder = found.get(held_id[-_JOB_DIGITS:])
        if holder is not None:
            holder.holds.update({k: v for k, v in resources.items() if k in _KINDS and v})
    return sorted(found.values(), key=lambda h: sum(h.holds.values()), reverse=True)


def _held() -> list[tuple[str, dict[str, float]]]:
    """Ids and resources of placement groups, and of actors outside of them."""
    from ray.util import placement_group_table

    from orchestrator.cluster.ray_private import live_actors

    groups = [
        (key, dict(bundle))
        for key, group in placement_group_table().items()
        if group["state"] == "CREATED"
        for bundle in group["bundles"].values()
    ]
    # In a group an actor asks for the group's own kinds ("CPU_group_..."), which are counted above.
    actors = [(actor.actor_id.hex(), dict(actor.required_resources)) for actor in live_actors()]
    return groups + actors


def waiting_line(resources: Resources, waited_s: float) -> str:
    """One line for people: what a trial asks for, what is free, who holds the rest."""
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    wanted = [kind for kind in _KINDS if kind in resources.bundle]
    rooms = ", ".join(f"{free.get(k, 0):g} of {total.get(k, 0):g} {k}s" for k in wanted)
    line = f"no trial runs since {waited_s:.0f} s: one needs {resources}, and free are {rooms}"
    own = ray.get_runtime_context().get_job_id()
    if any(held_id.endswith(own) for held_id, bundle in _held() if bundle.keys() & set(wanted)):
        return f"{line}. A trial has its place: Ray is starting its processes there"
    needed = {k: resources.workers * resources.bundle[k] for k in wanted}
    others = holders()
    if all(free.get(kind, 0) >= amount for kind, amount in needed.items()):
        return f"{line}. Ray has yet to start its processes, or no node has room for a whole worker"
    if not others:
        return f"{line}. No other driver is on the cluster: earlier processes may still be ending"
    return f"{line}. {'; '.join(map(str, others))}. The trials start as soon as there is room"


def _listed(amounts: Counter[str]) -> str:
    return " and ".join(f"{amounts[kind]:g} {kind}s" for kind in _KINDS if amounts[kind])


def _command(entrypoint: str) -> str:
    text = redact(" ".join(entrypoint.split())) or "unknown command"
    return text if len(text) <= _COMMAND_LIMIT else f"{text[:_COMMAND_LIMIT]}..."
