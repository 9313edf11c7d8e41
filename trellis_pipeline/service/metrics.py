"""Figures for Prometheus. Each service has a registry of its own, so that several can live in one process."""

from __future__ import annotations

from decimal import Decimal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# From an instant draft to a slow GPU.
SECONDS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640)


class Metrics:
    """What is counted. Counters of money start where the billing log stands, so a restart loses nothing."""

    def __init__(self, billed: int, billed_usd: Decimal) -> None:
        registry = self._registry = CollectorRegistry()
        self.billed = Counter("trellis_generations_billed", "Results billed, ever", registry=registry)
        self.billed.inc(billed)
        self.billed_usd = Counter("trellis_billed_usd", "Dollars billed, ever", registry=registry)
        self.billed_usd.inc(float(billed_usd))
        self.failed = Counter(
            "trellis_generations_failed", "Results that failed", ["code"], registry=registry
        )
        self.accepted = Counter("trellis_tasks_accepted", "3dInference tasks accepted", registry=registry)
        self.in_progress = Gauge(
            "trellis_tasks_in_progress", "Results being generated now", registry=registry
        )
        self.queued = Gauge("trellis_tasks_queued", "Results waiting for their turn", registry=registry)
        self.seconds = Histogram(
            "trellis_generation_seconds", "Generation time of a result", registry=registry, buckets=SECONDS
        )
        self.wait = Histogram(
            "trellis_queue_seconds", "From acceptance to the start", registry=registry, buckets=SECONDS
        )
        self.requests = Counter(
            "trellis_requests", "Tasks received, by type", ["task_type"], registry=registry
        )
        self.answers = Counter("trellis_answers", "HTTP answers of /v1", ["status"], registry=registry)
        self.deliveries = Counter(
            "trellis_deliveries", "Webhook calls and uploads", ["kind", "outcome"], registry=registry
        )

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)
