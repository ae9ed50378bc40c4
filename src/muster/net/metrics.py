"""`/metrics` for Prometheus: a run, the certificates, the state server. No label has a client in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core.errors import UserError

from .identity import read_certificates
from .state_server import StateServer
from .watch import Snapshot

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from starlette.routing import Route

Source = Callable[[], Iterable["Metric"]]


def of_run(snapshot: Snapshot) -> Iterator[Metric]:
    """What a run has done, and what its clients are doing."""
    tally = snapshot.tally
    yield _gauge("muster_round", "Model versions made.", tally.version)
    yield _gauge(
        "muster_run_active", "1 while the run has not ended.", snapshot.state in ("running", "waiting")
    )
    yield _gauge(
        "muster_last_record_age_seconds", "Since the newest version was recorded.", snapshot.age_secs
    )
    yield _gauge("muster_virtual_seconds", "Time of the run, virtual in a simulation.", tally.now_secs)
    if snapshot.loss is not None:
        yield _gauge("muster_training_loss", "Mean training loss of the newest version.", snapshot.loss)
    yield _gauges("muster_metric", "Of the test set, when last evaluated.", "metric", tally.metrics)
    state = "muster_clients" if snapshot.live else "muster_last_round_tasks"
    yield _gauges(state, "Clients by state, or tasks of the newest version.", "state", snapshot.clients)
    yield _counters("muster_tasks", "Tasks by what came of them.", "outcome", tally.num_tasks)
    moved = {"up": tally.up_bytes, "down": tally.down_bytes}
    yield _counters("muster_bytes", "Model bytes on the network.", "direction", moved)
    yield _counters("muster_device_seconds", "Clients' time by its use.", "use", tally.device_secs)


def of_certificates(folder: Path) -> Iterator[Metric]:
    """When the server's certificate and the authority end."""
    ends = {
        file: read_certificates(folder / file)[0].not_valid_after_utc.timestamp()
        for file in ("server.crt", "ca.crt")
    }
    help_ = "When it ends, in seconds since 1970."
    yield _gauges("muster_certificate_expiry_timestamp_seconds", help_, "file", ends)


def of_state_server(server: StateServer) -> Iterator[Metric]:
    """What ESync's state server has handled."""
    yield _counters("muster_state_messages", "Messages handled.", "type", server.num_handled)
    yield _gauge("muster_state_queue_length", "Messages that wait.", server.num_queued)
    alive = sum(row.alive for row in server.table.rows.values())
    workers = {"alive": alive, "dead": len(server.table.rows) - alive}
    yield _gauges("muster_state_workers", "Workers by state.", "state", workers)
    yield _gauge("muster_state_round", "The newest round that a worker has entered.", server.table.round)


def route(*sources: Source) -> Route:
    """`GET /metrics`, over all sources."""
    from prometheus_client import CONTENT_TYPE_LATEST
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def metrics(request: Request) -> Response:
        try:
            return Response(exposition(*sources), media_type=CONTENT_TYPE_LATEST)
        except UserError as error:  # the run has not begun, or its folder cannot be read
            return Response(str(error), 503)

    return Route("/metrics", metrics)


def exposition(*sources: Source) -> bytes:
    """The metrics of all sources in Prometheus's text format."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class All(Collector):
        def collect(self) -> Iterable[Metric]:
            for source in sources:
                yield from source()

    registry = CollectorRegistry(auto_describe=False)
    registry.register(All())
    return generate_latest(registry)


def _gauge(name: str, text: str, value: float) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, text, value=float(value))


def _gauges(name: str, text: str, label: str, values: Any) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family


def _counters(name: str, text: str, label: str, values: Any) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family
