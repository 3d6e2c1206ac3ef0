"""What the service counts, as Prometheus reads it. No name of a client, no photo and no face leaves a trace in it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Meters:
    """The counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "fusiform_requests", "Requests by path and status.", ("path", "status"), registry=self.registry
        )
        self.refusals = Counter("fusiform_refusals", "Refused requests by reason.", ("reason",), registry=self.registry)
        self.seconds = Histogram(
            "fusiform_request_seconds",
            "From a request's head to its answer's end.",
            ("path",),
            registry=self.registry,
            buckets=SECONDS,
        )
        self.open = Gauge("fusiform_open_requests", "Requests under way.", registry=self.registry)
        self.ready = Gauge("fusiform_ready", "1 while requests are taken.", registry=self.registry)
        self.batches = Histogram(
            "fusiform_batch_photos",
            "Photos worked on together.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )
        self.batch_seconds = Counter("fusiform_batch_seconds", "Time spent on batches.", registry=self.registry)
        self.faces = Counter("fusiform_faces", "Faces answered for.", registry=self.registry)
        self.decoder_deaths = Gauge(
            "fusiform_decoder_deaths", "Decoding processes ended by a file since the start.", registry=self.registry
        )

    def text(self) -> bytes:
        return generate_latest(self.registry)
