"""Latency measured: documents asked of a server at a load, what each took, and the figures over all of them."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.answers.answer import Answer, OnText
from toolkit.answers.row_shards import AnswerPlan, Shard
from toolkit.console import StageError
from toolkit.evaluation.score_table import row_bucket
from toolkit.extraction.chat_request import SentPage
from toolkit.extraction.documents import Document
from toolkit.extraction.run import Judge, prediction_of
from toolkit.extraction.server_client import ServerModel

QUANTILES = (50, 90, 95, 99)
RESAMPLES = 1000
# Of vLLM's own histograms: what a request's time went into.
SERVER_TIMES = {
    "queue": "vllm:request_queue_time_seconds",
    "prefill": "vllm:request_prefill_time_seconds",
    "decode": "vllm:request_decode_time_seconds",
}
SERVER_COUNTS = {
    "prefix_cache_queries": "vllm:prefix_cache_queries_total",
    "prefix_cache_hits": "vllm:prefix_cache_hits_total",
    "page_cache_queries": "vllm:mm_cache_queries_total",
    "page_cache_hits": "vllm:mm_cache_hits_total",
}
COMPARISONS = {
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "=": lambda a, b: a == b,
}


@dataclass(frozen=True)
class Load:
    """How documents arrive.

    Closed loop: `concurrency` at a time, each when another has ended. Open loop: `rate` a second at random times
    (Poisson), whether or not the server keeps up.
    """

    concurrency: int | None = None
    rate: float | None = None

    @property
    def name(self) -> str:
        return f"{self.concurrency} at a time" if self.concurrency else f"{self.rate:g} a second"


@dataclass(frozen=True)
class Objective:
    """`p95=1.0s@rows<=50`: a quantile of the seconds of documents with so many rows."""

    text: str
    quantile: int
    seconds: float
    comparison: str = ""
    rows: int = 0

    @classmethod
    def parse(cls, text: str) -> Objective:
        match = re.fullmatch(r"p(50|90|95|99)=(\d+(?:\.\d+)?)s?(?:@rows(<=|>=|<|>|=)(\d+))?", text.strip())
        if not match:
            raise StageError(f"--slo {text!r}: give a quantile and seconds, for example p95=1.0s or p95=1.0s@rows<=50")
        return cls(text.strip(), int(match[1]), float(match[2]), match[3] or "", int(match[4] or 0))

    def concerns(self, rows: int) -> bool:
        return not self.comparison or bool(COMPARISONS[self.comparison](rows, self.rows))

    def verdict(self, documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Whether the documents meet it; one without an answer took for ever, and no documents meet nothing."""
        own = [one for one in documents if self.concerns(one["rows"])]
        found = quantile([one["seconds"] if one["status"] == "ok" else float("inf") for one in own], self.quantile)
        met = bool(own) and found <= self.seconds
        return {
            "slo": self.text,
            "documents": len(own),
            "seconds": None if found == float("inf") or not own else round(found, 4),
            "met": met,
        }


class Recorder:
    """An Asker that keeps what each request of one document took; with `gold` the server must write that answer."""

    def __init__(self, server: ServerModel, plan: AnswerPlan, gold: dict[str, Any] | None = None) -> None:
        self.server, self.plan, self.gold = server, plan, gold
        self.calls: list[dict[str, Any]] = []
        self.prepare_seconds = 0.0

    def prepare(self, page: Path) -> SentPage:
        began = time.monotonic()
        sent = self.server.prepare(page)
        self.prepare_seconds += time.monotonic() - began
        return sent

    async def __call__(
        self, pages: list[SentPage], shard: Shard, temperature: float, seed: int, on_text: OnText | None = None
    ) -> Answer:
        began = time.monotonic()
        forced = None
        if self.gold is not None:
            (part,) = self.plan.cut(self.gold, [shard]) if self.plan.sharded else [self.gold]
            forced = self.plan.wire_of(shard).encoded(part)
        answer = await self.server(pages, shard, temperature, seed, on_text, forced=forced)
        self.calls.append(
            {
                "line": shard.line,
                "began": began,
                "ended": time.monotonic(),
                "first_token": answer.first_token,
                **answer.usage,
            }
        )
        return answer

    def waves(self) -> list[list[dict[str, Any]]]:
        """The requests that were under way together, in order."""
        found: list[list[dict[str, Any]]] = []
        for call in sorted(self.calls, key=lambda call: call["began"]):
            if found and call["began"] < max(other["ended"] for other in found[-1]):
                found[-1].append(call)
            else:
                found.append([call])
        return found


async def measured(
    server: ServerModel,
    judge: Judge,
    document: Document,
    pages: list[Path],
    *,
    window: int,
    vision_tokens: int,
    gold: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask for one document once; with `gold` the server is made to give that answer.

    `status`, `rows`, `seconds` from page images to judged answer, and the parts of that time.
    """
    began = time.monotonic()
    recorder = Recorder(server, judge.plan, gold)
    line = await prediction_of(judge, recorder, document, pages, window=window, tries=1)
    seconds = time.monotonic() - began
    waves = recorder.waves()
    calls = [call for wave in waves for call in wave]
    tokens = [[int(call.get("completion_tokens", 0)) for call in wave] for wave in waves]
    longest = max(calls, key=lambda call: call.get("completion_tokens", 0), default=None)
    per_token = None
    if longest and longest["first_token"] is not None and longest.get("completion_tokens", 0) > 1:
        spent = longest["ended"] - longest["began"] - longest["first_token"]
        per_token = spent / (longest["completion_tokens"] - 1)
    answer = line["prediction"] if isinstance(line["prediction"], dict) else None
    rows = max(judge.plan.counts(judge.schema.normal(answer)).values(), default=0) if answer else 0
    return {
        "id": document.identity,
        "status": line["status"],
        "error": line.get("error"),
        "rows": rows,
        "seconds": seconds,
        "prepare": recorder.prepare_seconds,
        "first_token": waves[0][0]["first_token"] if waves else None,
        "per_token": per_token,
        "requests": len(calls),
        "waves": tokens,
        "completion_tokens": sum(map(sum, tokens)),
        "prompt_tokens": sum(int(call.get("prompt_tokens", 0)) for call in calls),
        "cached_tokens": sum(int(call.get("cached_tokens", 0)) for call in calls),
        "vision_tokens": vision_tokens,
        "text_tokens": max(0, int(calls[0].get("prompt_tokens", 0)) - vision_tokens) if calls else 0,
        "prediction": answer,
    }


async def run_load(
    load: Load, documents: Sequence[tuple[Document, list[Path], int]], count: int, ask: Any, *, seed: int
) -> list[dict[str, Any]]:
    """Measure `count` documents (repeated where there are fewer) at a load by `ask(document, pages, vision tokens)`.

    In an open loop a document's seconds count from when it was due, so that a late client or a full server shows.
    """
    chosen = [documents[index % len(documents)] for index in range(count)]
    if load.concurrency:
        gate = asyncio.Semaphore(load.concurrency)

        async def one(item: Any) -> dict[str, Any]:
            async with gate:
                return dict(await ask(*item))

        return list(await asyncio.gather(*(one(item) for item in chosen)))
    draw = random.Random(seed)
    due, at = [], 0.0
    for _ in chosen:
        at += draw.expovariate(float(load.rate or 1))
        due.append(at)
    start = time.monotonic()

    async def arrives(item: Any, when: float) -> dict[str, Any]:
        await asyncio.sleep(max(0.0, start + when - time.monotonic()))
        late = time.monotonic() - start - when
        found = dict(await ask(*item))
        return found | {"seconds": found["seconds"] + late, "late": late}

    return list(await asyncio.gather(*(arrives(item, when) for item, when in zip(chosen, due, strict=True))))


def quantile(values: Sequence[float], percent: int) -> float:
    """Between ranks, linearly (Hyndman and Fan's type 7, numpy's default); infinite values are allowed."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    place = percent / 100 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    if place == low or ordered[low] == ordered[high]:
        return ordered[low]
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Sequence[float], *, seed: int = 0) -> dict[str, Any]:
    """Quantiles with the 95 % intervals of a bootstrap over documents, and the mean; empty for no values."""
    import numpy

    if not values:
        return {}
    table = numpy.array(values, dtype=float)
    drawn = numpy.random.default_rng(seed).choice(table, (RESAMPLES, len(table)))
    found: dict[str, Any] = {"n": len(values), "mean": round(float(table.mean()), 4)}
    for percent in QUANTILES:
        low, high = numpy.quantile(numpy.quantile(drawn, percent / 100, axis=1), (0.025, 0.975))
        found[f"p{percent}"] = round(quantile(values, percent), 4)
        found[f"p{percent}_interval"] = [round(float(low), 4), round(float(high), 4)]
    return found


def summary(
    load: Load, documents: list[dict[str, Any]], seconds: float, server: dict[str, Any] | None
) -> dict[str, Any]:
    """The figures of one run; times are of documents with an answer, and those that had none are counted."""
    fine = [one for one in documents if one["status"] == "ok"]
    warm = [one for one in fine if not one.get("cold")]
    rows = sorted(
        {row_bucket(one["rows"]) for one in warm},
        key=lambda name: min(one["rows"] for one in warm if row_bucket(one["rows"]) == name),
    )
    errors: dict[str, int] = {}
    for one in documents:
        if one["status"] != "ok":
            errors[one["status"]] = errors.get(one["status"], 0) + 1
    return {
        "load": load.name,
        "concurrency": load.concurrency,
        "rate": load.rate,
        "documents_asked": len(documents),
        "errors": errors,
        "wall_seconds": round(seconds, 3),
        "documents_per_second": round(len(fine) / seconds, 3) if seconds else None,
        "tokens_per_second": round(sum(one["completion_tokens"] for one in fine) / seconds, 1) if seconds else None,
        "cold": [round(one["seconds"], 4) for one in fine if one.get("cold")],
        "seconds": spread([one["seconds"] for one in warm]),
        "first_token": spread([one["first_token"] for one in warm if one["first_token"] is not None]),
        "per_token": spread([one["per_token"] for one in warm if one["per_token"] is not None]),
        "prepare": spread([one["prepare"] for one in warm]),
        "late": spread([one["late"] for one in warm if "late" in one]),
        "requests": spread([one["requests"] for one in warm]),
        "completion_tokens": spread([one["completion_tokens"] for one in warm]),
        "rows": {name: spread([one["seconds"] for one in warm if row_bucket(one["rows"]) == name]) for name in rows},
        "cached_share": round(sum(o["cached_tokens"] for o in warm) / max(1, sum(o["prompt_tokens"] for o in warm)), 4),
        "server": server,
    }


def server_figures(before: str, after: str) -> dict[str, Any] | None:
    """What vLLM's own metrics say of the requests between two readings of /metrics.

    Mean seconds a request in queue, prefill and decoding; queries and hits of the prefix cache (in tokens) and of the
    image cache. None where the server has no such metrics.
    """

    def total(text: str, name: str) -> float:
        return sum(
            float(value)
            for value in re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? ([0-9.eE+-]+)$", text, re.MULTILINE)
        )

    count = total(after, SERVER_TIMES["queue"] + "_count") - total(before, SERVER_TIMES["queue"] + "_count")
    if count <= 0:
        return None
    found: dict[str, Any] = {"requests": int(count)}
    for label, name in SERVER_TIMES.items():
        found[label] = round((total(after, name + "_sum") - total(before, name + "_sum")) / count, 5)
    for label, name in SERVER_COUNTS.items():
        found[label] = int(total(after, name) - total(before, name))
    return found
