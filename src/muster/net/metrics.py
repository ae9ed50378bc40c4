"""`/metrics` for Prometheus: a run and the certificates. No label has a client in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core.errors import UserError

from .identity import read_certificates
from .watch import Snapshot

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from starlette.routing import Route

Source = Callable[[], Iterable["Metric"]]


def of_run(snapshot: Snapshot) -> Iterator[Metric]:
    """What a run has done, and what its clients are doing."""
    tally = snapshot.tally
    yield gauge("muster_round", "Model versions made.", tally.version)
    yield gauge(
        "muster_run_active", "1 while the run has not ended.", snapshot.state in ("running", "waiting")
    )
    yield gauge("muster_last_record_age_seconds", "Since the newest version was recorded.", snapshot.age_secs)
    yield gauge("muster_virtual_seconds", "Time of the run, virtual in a simulation.", tally.now_secs)
    if snapshot.loss is not None:
        yield gauge("muster_training_loss", "Mean training loss of the newest version.", snapshot.loss)
    yield gauges("muster_metric", "Of the test set, when last evaluated.", "metric", tally.metrics)
    state = "muster_clients" if snapshot.live else "muster_last_round_tasks"
    yield gauges(state, "Clients by state, or tasks of the newest version.", "state", snapshot.clients)
    yield counters("muster_tasks", "Tasks by what came of them.", "outcome", tally.num_tasks)
    moved = {"up": tally.up_bytes, "down": tally.down_bytes}
    yield counters("muster_bytes", "Model bytes on the network.", "direction", moved)
    yield counters("muster_device_seconds", "Clients' time by its use.", "use", tally.device_secs)


def of_certificates(folder: Path) -> Iterator[Metric]:
    """When the server's certificate and the authority end."""
    ends = {
        file: read_certificates(folder / file)[0].not_valid_after_utc.timestamp()
        for file in ("server.crt", "ca.crt")
    }
    help_ = "When it ends, in seconds since 1970."
    yield gauges("muster_certificate_expiry_timestamp_seconds", help_, "file", ends)


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


def gauge(name: str, text: str, value: float) -> Metric:
    """A value that goes up and down."""
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, text, value=float(value))


def gauges(name: str, text: str, label: str, values: Any) -> Metric:
    """The same by a label."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family


def counters(name: str, text: str, label: str, values: Any) -> Metric:
    """Values by a label that only go up."""
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family
