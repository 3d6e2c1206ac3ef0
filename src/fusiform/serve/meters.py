"""What the service counts, as Prometheus reads it. No name of a client, no photo and no face leaves a trace in it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

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
        self.open = Gauge("fusiform_open_requests", "Requests whose photos are being answered.", registry=self.registry)
        self.arriving = Gauge("fusiform_arriving_requests", "Requests whose body arrives.", registry=self.registry)
        self.photos = Gauge("fusiform_waiting_photos", "Photos of open requests.", registry=self.registry)
        self.wait = Gauge(
            "fusiform_queue_seconds", "Expected until the next photo would be answered.", registry=self.registry
        )
        self.bodies = Gauge("fusiform_body_bytes", "Held of requests' bodies.", registry=self.registry)
        self.pixels = Gauge("fusiform_waiting_pixels", "Decoded and not answered.", registry=self.registry)
        self.ready = Gauge("fusiform_ready", "1 while requests are taken.", registry=self.registry)
        self.batches = Histogram(
            "fusiform_batch_photos",
            "Photos worked on together.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )
        self.batch_seconds = Counter("fusiform_batch_seconds", "Time spent on batches.", registry=self.registry)
        self.faces = Counter("fusiform_faces", "Faces answered for.", registry=self.registry)
        self.decoder_deaths = Counter(
            "fusiform_decoder_deaths", "Decoding processes ended by a file.", registry=self.registry
        )
        self.model = Info("fusiform_model", "What answers.", registry=self.registry)
        ProcessCollector(registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)
