"""What a worker and a volume service count."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import generate_latest

from rapidfireai_worker.layout import Volume
from rapidfireai_worker.metrics import WorkerMetrics
from rapidfireai_worker.volume.feed import FedRun, Feed, Outbox
from rapidfireai_worker.volume.metrics import VolumeMetrics

EXPERIMENT, RUN = "0" * 8 + "-0000" * 3 + "-" + "0" * 12, "1" * 8 + "-1111" * 3 + "-" + "1" * 12


def trained(metrics: WorkerMetrics) -> float:
    return metrics.tokens.labels("trained")._value.get()


def test_trained_tokens_are_counted_once_whoever_trained_before() -> None:
    metrics = WorkerMetrics("e", "e-w-0")
    metrics.begun("new", 0)
    metrics.reported("new", {"num_tokens": 100.0})
    metrics.reported("new", {"num_tokens": 150.0})
    assert trained(metrics) == 150
    metrics.begun("moved", 8)
    metrics.reported("moved", {"num_tokens": 1000.0})
    metrics.reported("moved", {"num_tokens": 1010.0})
    assert trained(metrics) == 160
    metrics.reported("moved", {"num_tokens": 1000.0})  # its chunk is tried again
    metrics.reported("moved", {"num_tokens": 1010.0})
    assert trained(metrics) == 170


def test_every_series_of_a_worker_says_whose_it_is() -> None:
    lines = generate_latest(WorkerMetrics("e", "e-w-0").registry).decode().splitlines()
    samples = [line for line in lines if line.startswith("rapidfire_worker_")]
    assert samples
    assert all('experiment="e"' in line and 'worker="e-w-0"' in line for line in samples)


def test_a_volume_service_shows_what_is_free_and_what_waits(tmp_path: Path) -> None:
    metrics = VolumeMetrics(tmp_path, lambda: Outbox(5, 2.5))
    metrics.removed("retention", 7)
    metrics.uploaded("bundles", 9)
    text = generate_latest(metrics.registry).decode()
    for line in (
        "rapidfire_volume_mlflow_outbox_bytes 5.0",
        "rapidfire_volume_mlflow_outbox_age_seconds 2.5",
        'rapidfire_volume_removed_bytes_total{reason="retention"} 7.0',
        'rapidfire_volume_upload_bytes_total{kind="bundles"} 9.0',
    ):
        assert line in text
    assert "rapidfire_volume_free_bytes " in text


def test_a_volume_that_cannot_be_measured_costs_its_size_alone(tmp_path: Path) -> None:
    text = generate_latest(VolumeMetrics(tmp_path / "none", Outbox).registry).decode()
    assert "rapidfire_volume_free_bytes " not in text.replace("# HELP rapidfire_volume_free_bytes ", "").replace(
        "# TYPE rapidfire_volume_free_bytes ", ""
    )
    assert "rapidfire_volume_mlflow_outbox_bytes 0.0" in text


def test_what_is_logged_and_not_sent_waits_in_the_outbox(tmp_path: Path) -> None:
    feed = Feed(Volume(tmp_path), "http://127.0.0.1:9")
    feed._runs = {RUN: FedRun(RUN, "r", EXPERIMENT, "m")}
    assert feed.outbox() == Outbox()
    log = Volume(tmp_path).run(EXPERIMENT, RUN).metrics
    log.parent.mkdir(parents=True)
    log.write_text("12345\n")
    assert feed.outbox().bytes == 6
