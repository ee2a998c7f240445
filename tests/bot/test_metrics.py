"""Metrics: their own registry, the names that operators' dashboards rely on, both exposition formats."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from bot.metrics import Measured, Metrics, Outcome


def test_what_was_counted_is_exposed() -> None:
    metrics = Metrics()
    metrics.messages_received.labels("site").inc()
    metrics.sends.labels("site", Outcome.SENT).inc(2)
    metrics.handler_seconds.labels("faq").observe(0.02)
    metrics.lanes.set(3)
    body, content_type = metrics.exposition()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert content_type.startswith("text/plain")
    assert samples["glmbot_messages_received_total", "site"] == 1
    assert samples["glmbot_sends_total", "site", "sent"] == 2
    assert samples["glmbot_handler_seconds_count", "faq"] == 1
    assert samples["glmbot_lanes",] == 3


def test_openmetrics_is_spoken_when_asked_for() -> None:
    body, content_type = Metrics().exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_two_bots_do_not_share_counters() -> None:
    first, second = Metrics(), Metrics()
    first.duplicates.labels("site").inc()
    assert second.registry.get_sample_value("glmbot_duplicates_total", {"connector": "site"}) is None
    assert REGISTRY.get_sample_value("glmbot_duplicates_total", {"connector": "site"}) is None


@pytest.mark.parametrize(
    "name",
    [
        *("messages_received", "messages_answered", "handler_errors", "sends", "duplicates", "loop_stalls"),
        *("handler_seconds", "ack_seconds", "answer_seconds"),
        *("lanes", "inbox_pending", "outbox_pending", "loop_lag_seconds"),
    ],
)
def test_every_metric_has_its_name(name: str) -> None:
    body, _ = Metrics().exposition()
    assert f"# TYPE glmbot_{name}" in body.decode()


class Model:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        Gauge("glmbot_model_waiting", "Requests in line", registry=self.registry).set(3)


def test_a_models_series_come_and_go() -> None:
    model, metrics = Model(), Metrics()
    assert isinstance(model, Measured)
    leave = metrics.include(model.registry)
    assert b"glmbot_model_waiting 3.0" in metrics.exposition()[0]
    leave()
    assert b"glmbot_model_waiting" not in metrics.exposition()[0]
