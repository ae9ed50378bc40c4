import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from muster.core.errors import RunFolderError
from muster.core.record import Record, Span
from muster.track.folder import RunFolder
from muster.track.report import write_picture, write_report
from muster.track.sink import RunPlan
from worlds.summaries import summarise

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Walks a page: every tag must be closed in order; keeps the texts and the attributes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def records(n, every=1):
    def metrics(v):
        return {"accuracy": v / n, "loss": 1.0} if v % every == 0 else {}

    return [
        Record(
            *(v, 60.0 * v, 1.0 * v, 1.0 / (v + 1), metrics(v)),
            num_sent=5, num_accepted=2, num_late=1, num_lost=1, num_refused=1, up_bytes=10, down_bytes=30,
            device_secs_used=30.0, device_secs_wasted=10.0, clients=(v % 7, 8), num_online=12,
            wasted_by_reason={"late": 8.0, "dropped": 2.0},
            spans=(Span(v % 7, 60.0 * v - 60, 10.0, 40.0, 10.0, "accepted"),),
        )
        for v in range(1, n + 1)
    ]  # fmt: skip


def report_of(tmp_path, given, finished=True, planned=True, job="name: digits\n", **plan):
    run = RunFolder.create(tmp_path / "digits-1", job)
    for record in given:
        run.append(record)
    (run.path / "records.jsonl").touch()
    if planned:
        run.write_plan(
            RunPlan(**{"name": "digits", "algorithm": "fedavg", "data": "digits", "model": "mlp"} | plan,
                    num_clients=20, num_parameters=4810, model_bytes=19240, rounds=40)
        )  # fmt: skip
    if finished:
        run.write_summary(summarise(given, "rounds", "all rounds are done", None, 5 * 10**8, "cafe", 3))
    path = write_report(run.path)
    assert path == run.path / "report.html"
    html = path.read_text()
    return html, Page(html)


def test_a_report_has_everything_and_fetches_nothing(tmp_path):
    html, page = report_of(tmp_path, records(40, every=4), target_metric="accuracy", target_value=0.5)
    assert html.startswith("<!DOCTYPE html>")
    assert not [(k, v) for k, v in page.attributes if k in ("src", "href", "xlink:href", "action", "data")]
    assert not re.search(r"https?:|url\(|@import", html)
    assert "script" not in page.tags
    assert "nan" not in " ".join(
        v for k, v in page.attributes if k in ("points", "x", "y", "cx", "cy", "height")
    )
    titles = [
        *("Accuracy against rounds", "Accuracy against virtual time", "Accuracy against wall time"),
        *("Loss against rounds", "Loss against virtual time", "Loss against wall time"),
        "Time to each accuracy",
        *("Clients per round", "How long rounds took", "Duration of each round"),
        *("Clients online", "Timeline"),
        *("Network traffic so far", "Device time so far", "Device time wasted, by reason"),
        *("How often clients took part", "Who gave the updates", "Coverage"),
    ]
    assert [t for t in page.texts if t in titles] == titles
    assert page.tags.count("svg") == 18
    text = " ".join(page.texts)
    assert "Of 20; always 12, as asked at the end of each round." in text
    assert "In seconds a round. Of all device time: late 20.0 %, dropped 5.0 %." in text
    assert "8 of 20 clients took part (40.0 %)" in text  # 0..6 and 8
    assert "name: digits" in text and "cafe" in text and "finished" in text
    assert {"accepted", "late", "lost", "refused"} <= set(page.texts)
    assert "20 m 00 s" in page.texts  # to the target: accuracy 20/40, after 20 rounds of a minute


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    html, _ = report_of(tmp_path, records(10))
    again = write_report(tmp_path / "digits-1", tmp_path / "elsewhere.html")
    assert again == tmp_path / "elsewhere.html"
    assert again.read_text() == html


def test_the_picture_of_a_report(tmp_path):
    pytest.importorskip("matplotlib")
    report_of(tmp_path, records(10))
    path = write_picture(tmp_path / "digits-1")
    assert path == tmp_path / "digits-1" / "report.png"
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_what_comes_from_files_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    given = [Record(1, 1.0, 1.0, 1.0, {f"{evil}\"'&": 0.5}, num_accepted=1, clients=(1,))]
    html, page = report_of(
        tmp_path, given, name=evil, algorithm=evil, data=evil, model=evil, job=f"a: {evil}\n"
    )
    assert "<script" not in html and "script" not in page.tags
    assert page.texts.count(evil) >= 1


@pytest.mark.parametrize(
    "given",
    [
        [],
        [Record(0, 0.0, 0.1, metrics={"accuracy": 0.1})],
        [Record(0, 0.0, 0.0)],
        [Record(0, 0.0, 0.0), Record(1, 0.0, 0.0)],
        [Record(1, 5.0, 1.0, math.nan, {"accuracy": math.nan}, num_accepted=1, clients=(0,))],
        [Record(v, 5.0 * v, 1.0 * v) for v in range(30)],
    ],
    ids=["none", "untrained", "one, not evaluated", "no time passes", "diverged", "never evaluated"],
)
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("planned", [True, False])
def test_runs_of_little(tmp_path, given, finished, planned):
    _, page = report_of(tmp_path, given, finished, planned)
    assert ("unfinished" in page.texts) == (not finished)
    assert ("digits" in page.texts) == planned and ("digits-1" in page.texts) == (not planned)


def test_a_torn_record_is_told_on_the_page(tmp_path):
    report_of(tmp_path, records(3), finished=False)
    with (tmp_path / "digits-1" / "records.jsonl").open("ab") as file:
        file.write(b'{"version": 4')
    html = write_report(tmp_path / "digits-1").read_text()
    assert "line 4 is cut short" in html


def test_a_surrogate_run_says_so(tmp_path):
    html, _ = report_of(tmp_path, [Record(1, 1.0, 1.0, 2.0, surrogate=True)], clock_only=True)
    assert "Surrogate: losses come from a curve" in html and "Clock only" in html


def test_long_runs_are_thinned(tmp_path):
    html, page = report_of(tmp_path, records(5000))
    lines = [v for k, v in page.attributes if k == "points"]
    assert max(len(line.split()) for line in lines) <= 2000
    assert len(html) < 1_000_000
    assert "Bars are means over 42 rounds." in html  # 5,000 rounds, at most 120 bars


def test_one_long_round_and_wide_populations(tmp_path):
    given = [Record(1, 1e7, 1.0, clients=tuple(range(500))), Record(2, 1e7 + 1, 2.0, clients=(3,) * 100)]
    _, page = report_of(tmp_path, given)
    heights = [float(v) for k, v in page.attributes if k == "height"]
    assert heights and np.isfinite(heights).all() and min(heights) > 0


def test_no_run_no_report(tmp_path):
    with pytest.raises(RunFolderError, match="holds no run"):
        write_report(tmp_path)
