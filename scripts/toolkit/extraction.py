"""From page images to a prediction line: ask, judge, ask again warmer where the answer is invalid, join page windows.

`Asker` is what both backends are to this module: an answer for one window of pages at one temperature.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from toolkit.answers import Answer, NoAnswer, repeated_key, repeated_tail
from toolkit.batches import UnreadablePage
from toolkit.checks import business_problems
from toolkit.confidence import ConfidenceModel, features_of, places_of, raw_confidence
from toolkit.documents import Document, PageRenderer, Unreadable
from toolkit.evidence import DocumentWords, evidence_of
from toolkit.page_windows import union, united_scores, windows_of
from toolkit.predictions import judged, prediction_line
from toolkit.token_confidence import ValueScore, value_scores
from toolkit.wire_format import WireFormat

# The first answer is the most likely one; only where that is invalid is chance let in.
TEMPERATURES = (0.0, 0.2, 0.5, 0.8)
Asker = Callable[[list[Any], float, int], Awaitable[Answer]]


class Judge:
    """Judges answers in one wire form of one target schema, compiled once; `confidence` is the contract's fitted model."""

    def __init__(self, wire: WireFormat, confidence: dict[str, Any] | None = None) -> None:
        self.wire, self.schema = wire, wire.schema
        self.validator = wire.schema.validator()
        self.model = ConfidenceModel(**confidence) if confidence else None

    def verdict(self, answer: Answer) -> tuple[str, Any, str]:
        """`(status, prediction, sentence)`; the sentence is empty where there is nothing to say."""
        status, prediction = judged(self.wire, self.validator, answer.raw, answer.finish_reason)
        if status == "truncated":
            looped = repeated_tail(answer.raw)
            return status, None, f"a loop: the last {looped} characters repeat themselves" if looped else ""
        if status == "schema_error":
            return status, prediction, self.complaint(prediction)
        return status, prediction, repeated_key(self.schema, prediction) if status == "ok" else ""

    def scores(self, answer: Answer) -> dict[str, ValueScore] | None:
        """How sure the model was of each value of a valid answer; None where its tokens are not known."""
        return None if answer.tokens is None else value_scores(self.wire, answer.raw, answer.tokens)

    def trust(
        self, prediction: dict[str, Any], scores: dict[str, ValueScore] | None, words: DocumentWords | None
    ) -> dict[str, Any]:
        """What tells how far the answer can be trusted: `checks`, and where they are known `evidence`, `features`, `confidence`."""
        problems = business_problems(self.schema, prediction)
        found: dict[str, Any] = {"checks": [list(problem) for problem in problems]} if problems else {}
        places = places_of(self.schema, prediction, words) if words is not None else None
        if words is not None and places is not None:
            found["evidence"] = {name: evidence_of(words, place) for name, place in places.items() if place is not None}
        if scores is not None:
            features = features_of(self.schema, prediction, scores, places)
            found["features"] = features
            found["confidence"] = {
                name: round(self.model.probability(name, f) if self.model else raw_confidence(f), 4)
                for name, f in features.items()
            }
        return found

    def complaint(self, prediction: Any) -> str:
        from jsonschema.exceptions import best_match

        if prediction is None:
            return "not a JSON object"
        error = best_match(self.validator.iter_errors(prediction))
        return f"{error.json_path}: {error.message}"[:300] if error else ""


async def prediction_of(
    judge: Judge,
    ask: Asker,
    document: Document,
    pages: list[Any],
    *,
    window: int,
    tries: int,
    words: DocumentWords | None = None,
) -> dict[str, Any]:
    """The prediction line of one document: every window answered, invalid answers asked again, one public answer and its trust."""
    windows = windows_of(pages, window)
    try:
        parts = await asyncio.gather(*(best_answer(judge, ask, part, tries) for part in windows))
    except NoAnswer as error:
        return prediction_line(document.identity, error.status, None, None, error=str(error))
    except UnreadablePage as error:
        return prediction_line(document.identity, "unreadable", None, None, error=str(error))
    usage: dict[str, int] = {}
    for part in parts:
        for name, count in part["usage"].items():
            usage[name] = usage.get(name, 0) + count
    line = {
        "finish_reason": next((p["finish_reason"] for p in parts if p["finish_reason"] != "stop"), "stop"),
        "usage": usage,
        "seconds": round(max(part["seconds"] for part in parts), 3),
        "attempts": sum(part["attempts"] for part in parts),
    }
    raw = parts[0]["raw"] if len(parts) == 1 else "\n".join(part["raw"] for part in parts)
    failed = next((part for part in parts if part["status"] != "ok"), None)
    sentences = [part["sentence"] for part in parts if part["sentence"]]
    if failed:
        where = "" if len(parts) == 1 else f"window {parts.index(failed) + 1} of {len(parts)}: "
        more = {"error": where + (failed["sentence"] or failed["status"])}
        return prediction_line(document.identity, failed["status"], failed["prediction"] if len(parts) == 1 else None, raw, **line, **more)  # fmt: skip
    answers = [part["prediction"] for part in parts]
    prediction, disagreements = union(judge.schema, answers)
    scores = parts[0]["scores"]
    if len(parts) > 1:
        known = [part["scores"] for part in parts if part["scores"] is not None]
        scores = united_scores(judge.schema, answers, known, prediction) if len(known) == len(parts) else None
    if len(parts) > 1:
        line["windows"] = len(parts)
        if complaint := judge.complaint(prediction):
            return prediction_line(document.identity, "schema_error", prediction, raw, **line, error=f"the {len(parts)} windows together: {complaint}")  # fmt: skip
    warnings = sentences + disagreements
    more = judge.trust(prediction, scores, words) | ({"warnings": warnings} if warnings else {})
    return prediction_line(document.identity, "ok", prediction, raw, **line, **more)


async def best_answer(judge: Judge, ask: Asker, pages: list[Any], tries: int) -> dict[str, Any]:
    """The first valid answer at rising temperatures; where none is, the first that keeps the schema, or the first."""
    best: dict[str, Any] = {}
    usage: dict[str, int] = {}
    seconds = 0.0
    attempts = 0
    for attempt in range(max(1, tries)):
        temperature = TEMPERATURES[min(attempt, len(TEMPERATURES) - 1)]
        answer = await ask(pages, temperature, attempt)
        attempts += 1
        seconds += answer.seconds
        for name, count in answer.usage.items():
            usage[name] = usage.get(name, 0) + count
        status, prediction, sentence = judge.verdict(answer)
        found = {
            "status": status,
            "prediction": prediction,
            "sentence": sentence,
            "raw": answer.raw,
            "finish_reason": answer.finish_reason,
            "scores": judge.scores(answer) if status == "ok" else None,
        }
        if not best or (status == "ok" and (not sentence or best["status"] != "ok")):
            best = found
        # A truncated answer costs the longest time there is, so it is asked once more, not --tries times.
        if (status == "ok" and not sentence) or (status == "truncated" and attempt):
            break
    return best | {"usage": usage, "seconds": seconds, "attempts": attempts}


async def extracted(
    documents: Iterable[Document] | AsyncIterator[Document | None],
    renderer: PageRenderer,
    judge: Judge,
    ask: Asker,
    *,
    window: int,
    tries: int,
    concurrency: int,
) -> AsyncIterator[dict[str, Any]]:
    """Prediction lines as they are finished, `concurrency` documents at a time; a failed document is a line too.

    A few documents more than are asked at once are rendered ahead, so that memory and disk stay bounded.
    """
    gate = asyncio.Semaphore(concurrency)
    running: set[asyncio.Task[dict[str, Any]]] = set()

    async def one(document: Document) -> dict[str, Any]:
        pages: list[Path] = []
        try:
            pages = await asyncio.wrap_future(renderer.pages_of(document))
            async with gate:
                layer = renderer.layer_of(document, pages)
                words = DocumentWords(layer) if layer else None
                return await prediction_of(judge, ask, document, pages, window=window, tries=tries, words=words)
        except Unreadable as error:
            return prediction_line(document.identity, "unreadable", None, None, error=str(error))
        finally:
            renderer.release(document, pages)

    try:
        async for document in as_async(documents):
            if document is not None:  # None: a watched folder has nothing new, time to hand out what is finished
                running.add(asyncio.create_task(one(document)))
            while len(running) >= concurrency + 2 * renderer.workers:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
            done = {task for task in running if task.done()}
            running -= done
            for task in done:
                yield task.result()
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def as_async(
    documents: Iterable[Document] | AsyncIterator[Document | None],
) -> AsyncIterator[Document | None]:
    if isinstance(documents, AsyncIterator):
        async for document in documents:
            yield document
    else:
        for document in documents:
            yield document
