"""`muster serve --explain`: what a deployment would do, and where each number of it comes from."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

from muster.job import Job, dump_job
from muster.job.schema import descriptions
from muster.net.settings import Deploy
from muster.run import part_lines
from muster.track.folder import JOB
from muster.track.sink import RunPlan
from muster.track.units import bytes_text

from .assembly import Assembly, assemble
from .examiner import Examiner
from .listen import Listen
from .server import plan


def explain(job: Job, listen: Listen, conf: str = "") -> tuple[RunPlan, list[str]]:
    """The plan of a deployment; its parts, the door, what travels, and every time-out and limit.

    Nothing is served, and nothing is left on disk but prepared data.

    Raises:
        UserError: The job cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="muster-explain-") as aside:
        folder = Path(aside)
        (folder / JOB).write_text(dump_job(job))
        with closing(Examiner(folder / JOB)) as examiner:
            start = examiner.start(folder, job.deploy.memory_mb)
        made = assemble(job, folder, start, lambda params: {}, store=None, evaluates=False)
        made.plane.close()
    job = replace(job, engine=start.engine(job.engine))
    lines = [*part_lines(made.conductor.algorithm), *_door(job, made, listen), *_settings(job.deploy)]
    return plan(job, made, None, conf, deployed="muster serve"), lines


def _door(job: Job, made: Assembly, listen: Listen) -> list[str]:
    """Who gets in, when the run begins, and what an update has."""
    deploy, layout, pace = job.deploy, made.spool.layout, made.conductor.algorithm.pace
    way = "plaintext" if listen.insecure else f"TLS and {'tokens' if listen.tokens else 'certificates'}"
    count = deploy.start_with or pace.max_out
    source = "deploy.start_with" if deploy.start_with else "as many as the pace sends work to"
    rule = "whole" if layout.rule is None else f"compressed by {layout.rule.part_name()}"
    size = bytes_text(layout.num_bytes) + (" before zstd" if deploy.zstd else "")
    return [
        f"listens on {listen.host}:{listen.port or 'any free port'}, {way}",
        f"begins when {count:,} of {made.conductor.roster.num_clients:,} clients have joined ({source})",
        f"an update travels {rule}: {size}; {bytes_text(layout.max_bytes)} are the most that is read",
        f"heartbeats come every {deploy.beat_secs:g} s (half of deploy.lease_secs)",
    ]


def _settings(deploy: Deploy) -> list[str]:
    """A line about each setting of the section, with its value and whether the job says it."""
    told, default = descriptions(Deploy), Deploy()
    return [
        f"deploy.{name} = {getattr(deploy, name)} "
        f"({'default' if getattr(deploy, name) == getattr(default, name) else 'of the job'}): {told[name]}"
        for name in (f.name for f in fields(Deploy))
    ]
