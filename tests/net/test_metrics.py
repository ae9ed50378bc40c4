"""What Prometheus reads, and that no label grows with the number of clients."""

from __future__ import annotations

from pathlib import Path

from muster.core.record import Record
from muster.net import certs
from muster.net.identity import read_certificates
from muster.net.metrics import exposition, of_certificates, of_run
from muster.net.state_messages import Kind, Message, Status
from muster.net.state_server import StateServer
from muster.net.state_service import of_states
from muster.net.watch import Watch, write_live
from muster.track.folder import RunFolder


def lines(text: bytes) -> set[str]:
    return {line for line in text.decode().splitlines() if not line.startswith("#")}


def test_a_run_in_numbers(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", "")
    metrics = {"accuracy": 0.5}
    run.append(Record(3, 30.0, 1.0, 0.25, metrics, num_accepted=2, num_lost=1, up_bytes=7, clients=(4, 5)))
    write_live(run.path, {"idle": 8, "training": 2}, [])
    found = lines(exposition(lambda: of_run(Watch(run.path).look())))
    assert {
        "muster_round 3.0",
        "muster_run_active 1.0",
        "muster_training_loss 0.25",
        'muster_metric{metric="accuracy"} 0.5',
        'muster_clients{state="training"} 2.0',
        'muster_tasks_total{outcome="accepted"} 2.0',
        'muster_tasks_total{outcome="lost"} 1.0',
        'muster_bytes_total{direction="up"} 7.0',
    } <= found


def test_the_number_of_lines_does_not_depend_on_the_clients(tmp_path: Path) -> None:
    sizes = []
    for num in (1, 500):
        run = RunFolder.create(tmp_path / str(num), "")
        run.append(Record(1, 1.0, 1.0, num_accepted=num, clients=tuple(range(num))))
        sizes.append(len(lines(exposition(lambda path=run.path: of_run(Watch(path).look())))))
    assert sizes[0] == sizes[1]


def test_when_certificates_end(tmp_path: Path) -> None:
    certs.init(tmp_path)
    ends = read_certificates(tmp_path / "server.crt")[0].not_valid_after_utc.timestamp()
    name = 'muster_certificate_expiry_timestamp_seconds{file="server.crt"} '
    (line,) = (x for x in lines(exposition(lambda: of_certificates(tmp_path))) if x.startswith(name))
    assert float(line.removeprefix(name)) == ends


def test_the_state_server_in_numbers() -> None:
    server = StateServer()
    server.handle(Message(Kind.RESET, Status(0), num_workers=3))
    server.handle(Message(Kind.REPORT, Status(0, round=2)))
    found = lines(exposition(lambda: of_states(server)))
    assert {
        'muster_state_messages_total{type="RESET"} 1.0',
        'muster_state_messages_total{type="QUERY"} 0.0',
        'muster_state_workers{state="alive"} 3.0',
        "muster_state_round 2.0",
        "muster_state_queue_length 0.0",
    } <= found
