"""A scrape as Prometheus does it, with its own parser. For tests only."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from tests.waiting import LIMIT

METRICS_TOKEN = "a-token-for-whoever-scrapes"


class Scrape:
    """What one answer of `/metrics` says."""

    def __init__(self, text: str) -> None:
        self.families = {one.name: one for one in text_string_to_metric_families(text)}

    @property
    def samples(self) -> Iterator[Sample]:
        for family in self.families.values():
            yield from family.samples

    def find(self, name: str, **labels: str) -> dict[str, float]:
        """The values of the samples of that name that have these labels, by node."""
        return {
            one.labels.get("node", ""): one.value
            for one in self.samples
            if one.name == name and labels.items() <= one.labels.items()
        }

    def value(self, name: str, **labels: str) -> float:
        """The one value that fits."""
        (value,) = self.find(name, **labels).values()
        return value

    def buckets(self, name: str, node: str) -> dict[float, float]:
        """How many values of a node's histogram were at most each bound."""
        return {
            float(one.labels["le"]): one.value
            for one in self.samples
            if one.name == f"{name}_bucket" and one.labels["node"] == node
        }


async def ask(base: str, authorization: str | None = f"Bearer {METRICS_TOKEN}") -> HTTPResponse:
    headers = {"Authorization": authorization} if authorization is not None else {}
    return await AsyncHTTPClient().fetch(
        f"http://{base}/metrics", headers=headers, raise_error=False, request_timeout=LIMIT
    )


async def scrape(base: str) -> Scrape:
    """A good answer, as Prometheus reads it."""
    answer = await ask(base)
    assert answer.code == 200, answer.body
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return Scrape(answer.body.decode())
