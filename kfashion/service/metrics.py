"""What the service measures of itself, for Prometheus and for the dashboard."""

from collections import deque
from threading import Lock
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STAGES = ("embedding", "search", "total")
KEPT = 10_000  # measurements behind the percentiles
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """Counts since the start; percentiles of the last 10,000 recommendations. Safe to call from any thread."""

    def __init__(self):
        self.registry, self.lock = CollectorRegistry(), Lock()
        labels = ["method", "route", "status"]
        self.requests = Counter("kfashion_requests", "Answered requests", labels, registry=self.registry)
        self.duration = Histogram(
            "kfashion_request_seconds", "Time to the response", ["route"], buckets=BUCKETS, registry=self.registry
        )
        self.stage_seconds = Histogram(
            "kfashion_stage_seconds", "Recommendations by stage", ["stage"], buckets=BUCKETS, registry=self.registry
        )
        self.recommended = Counter("kfashion_recommendations", "Recommendation lists", registry=self.registry)
        self.hits = Counter("kfashion_cache_hits", "Inputs whose vector was known", registry=self.registry)
        self.empty = Counter("kfashion_empty_results", "Lists without a product", registry=self.registry)
        self.products = Gauge("kfashion_products", "Products that can be recommended", registry=self.registry)
        self.latencies = {stage: deque(maxlen=KEPT) for stage in STAGES}
        self.top_1, self.norms = deque(maxlen=KEPT), deque(maxlen=KEPT)
        self.counts = {"requests": 0, "client_errors": 0, "server_errors": 0, "lists": 0, "hits": 0, "empty": 0}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """An answered request; `route` is the pattern of its path."""
        self.requests.labels(method, route, status).inc()
        self.duration.labels(route).observe(seconds)
        with self.lock:
            self.counts["requests"] += 1
            self.counts["client_errors"] += 400 <= status < 500
            self.counts["server_errors"] += status >= 500

    def recommendation(self, seconds: dict[str, float], hit: bool, best: float | None, norm: float) -> None:
        """A list of recommendations.

        Args:
            seconds: by stage, see STAGES.
            hit: whether the vector of the input was known.
            best: cosine of the first; None where there is none.
            norm: length of the input's vector.
        """
        self.recommended.inc()
        self.hits.inc(hit)
        self.empty.inc(best is None)
        for stage, value in seconds.items():
            self.stage_seconds.labels(stage).observe(value)
        with self.lock:
            for stage, value in seconds.items():
                self.latencies[stage].append(1e3 * value)
            self.norms.append(norm)
            if best is not None:
                self.top_1.append(best)
            for name, amount in (("lists", 1), ("hits", hit), ("empty", best is None)):
                self.counts[name] += amount

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    def snapshot(self) -> dict[str, Any]:
        """The figures as plain values; null where nothing has been measured yet."""
        with self.lock:
            counts, latencies = dict(self.counts), {stage: np.array(each) for stage, each in self.latencies.items()}
            best, norms = np.array(self.top_1), np.array(self.norms)
        lists = counts["lists"]
        return {
            "request_count": counts["requests"],
            "client_errors": counts["client_errors"],
            "server_errors": counts["server_errors"],
            "latency_ms": {stage: _percentiles(each) for stage, each in latencies.items()},
            "recommendation_count": lists,
            "cache_hit_rate": counts["hits"] / lists if lists else None,
            "mean_top_1_similarity": float(best.mean()) if len(best) else None,
            "empty_result_share": counts["empty"] / lists if lists else None,
            "embedding_norm_range": [float(norms.min()), float(norms.max())] if len(norms) else None,
        }


def _percentiles(values: np.ndarray) -> dict[str, float | None]:
    if not len(values):
        return {"p50": None, "p95": None, "p99": None}
    return {f"p{each}": float(np.percentile(values, each)) for each in (50, 95, 99)}
