"""Counters of a service, for Prometheus."""

from vov3d.extras import install

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
except ImportError as error:
    raise ImportError(f"vov3d.serving needs prometheus-client: {install('serve')}") from error

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_VIEWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "vov3d_requests", "Requests for labels, by status and cause", ["status", "code"], registry=self.registry
        )
        self.seconds = Histogram(
            "vov3d_seconds",
            "Seconds of a labelled request: upload, queue, decode, model, total",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram("vov3d_batch_views", "Views in a batch", buckets=_VIEWS, registry=self.registry)
        self.batch_seconds = Histogram(
            "vov3d_batch_seconds", "Seconds of a batch in the network", buckets=_SECONDS, registry=self.registry
        )
        self.bytes = Counter("vov3d_upload_bytes", "Bytes of uploads and downloads", registry=self.registry)
        self.lost = Counter(
            "vov3d_decoders_replaced",
            "Decoding processes that were replaced, by cause",
            ["cause"],
            registry=self.registry,
        )
        self.in_work = Gauge("vov3d_requests_in_work", "Requests from upload to answer", registry=self.registry)
        self.waiting = Gauge("vov3d_views_waiting", "Views that wait for the network", registry=self.registry)
        self.temp = Gauge("vov3d_temp_bytes", "Bytes of uploads on disk", registry=self.registry)
        self.ready = Gauge("vov3d_ready", "1 if new requests are taken", registry=self.registry)

    def text(self) -> bytes:
        """Returns everything in Prometheus's text format."""
        return generate_latest(self.registry)
