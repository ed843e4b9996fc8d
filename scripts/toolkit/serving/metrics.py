"""What the gateway counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server

SECONDS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("extract_requests", "documents by their status", ["status"], registry=registry)
        self.seconds = Histogram(
            "extract_seconds", "seconds of a document by part", ["part"], registry=registry, buckets=SECONDS_BUCKETS
        )
        self.pages = Counter("extract_pages", "page images rendered", registry=registry)
        self.under_way = Gauge("extract_documents_under_way", "documents that are worked on or wait", registry=registry)

    def text(self) -> str:
        """Prometheus' text format."""
        return generate_latest(self.registry).decode()

    def serve(self, host: str, port: int) -> None:
        """The same text at a port of its own, in a thread, without a key: for a Prometheus that can send none.

        Whoever reaches the port may read it, so a network policy or a firewall must keep others away.
        """
        start_http_server(port, addr=host, registry=self.registry)
