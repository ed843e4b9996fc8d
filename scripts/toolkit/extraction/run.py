"""From page images to a prediction line: ask, judge, ask again warmer where the answer is invalid, join shards and page windows.

`Asker` is what both backends are to this module: an answer for one window of pages and one shard at one temperature.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from toolkit.answers.answer import Answer, Hearing, NoAnswer, repeated_key, repeated_tail
from toolkit.answers.confidence import ConfidenceModel, features_of, places_of, raw_confidence
from toolkit.answers.page_windows import union, united_scores, windows_of
from toolkit.answers.predictions import judged, prediction_line
from toolkit.answers.row_shards import AnswerPlan, Shard
from toolkit.answers.token_confidence import ValueScore, value_scores
from toolkit.console import StageError
from toolkit.extraction.documents import Document, PageRenderer, Unreadable
from toolkit.files import LoneSurrogate, strict_json
from toolkit.model.encoding import UnreadablePage
from toolkit.pages.evidence import DocumentWords, evidence_of
from toolkit.records.record import images_of
from toolkit.schema.checks import business_problems
from toolkit.schema.target import value_at

# The first answer is the most likely one; only where that is invalid is chance let in.
TEMPERATURES = (0.0, 0.2, 0.5, 0.8)
# Who wants a document's parts as they come: the window of pages (from 0), the shard, its public values.
Heard = Callable[[int, Shard, dict[str, Any]], None]


class Asker(Protocol):
    """A backend. Raises NoAnswer where it has none, UnreadablePage for a damaged page."""

    def prepare(self, page: Any) -> Any:
        """A page as the backend takes it; done once, however often the page is asked about."""

    async def __call__(
        self, pages: list[Any], shard: Shard, temperature: float, seed: int, hearing: Hearing | None = None
    ) -> Answer: ...


class Judge:
    """Judges answers of one plan, its schemas compiled once; `confidence` is the contract's fitted model."""

    def __init__(self, plan: AnswerPlan, confidence: dict[str, Any] | None = None) -> None:
        self.plan, self.schema = plan, plan.schema
        self.validator = plan.schema.validator()
        self._validators: dict[int, Any] = {}
        self.model = ConfidenceModel(**confidence) if confidence else None

    def verdict(self, answer: Answer, shard: Shard | None = None) -> tuple[str, Any, str]:
        """`(status, prediction, sentence)` of the answer of a shard (None: of a whole answer); the sentence is empty where there is
        nothing to say."""
        shard = shard or self.plan.whole
        if id(shard.schema) not in self._validators:
            self._validators[id(shard.schema)] = shard.schema.validator()
        validator = self._validators[id(shard.schema)]
        status, prediction = judged(self.plan.wire_of(shard), validator, answer.raw, answer.finish_reason)
        if status == "truncated":
            looped = repeated_tail(answer.raw)
            return status, None, f"a loop: the last {looped} characters repeat themselves" if looped else ""
        if status == "not_json":
            return status, None, broken_text(answer.raw)
        if status == "schema_error":
            return status, prediction, complaint(validator, prediction)
        return status, prediction, repeated_key(shard.schema, prediction) if status == "ok" else ""

    def scores(self, answer: Answer, shard: Shard) -> dict[str, ValueScore] | None:
        """How sure the model was of each value of a valid answer; None where its tokens are not known."""
        return None if answer.tokens is None else value_scores(self.plan.wire_of(shard), answer.raw, answer.tokens)

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


def broken_text(raw: str) -> str:
    """A sentence where an answer would be JSON but for half a surrogate pair; empty for every other answer."""
    try:
        strict_json(raw)
    except LoneSurrogate as error:
        return str(error)
    except ValueError:
        pass
    return ""


def complaint(validator: Any, prediction: Any) -> str:
    from jsonschema.exceptions import best_match

    if prediction is None:
        return "not a JSON object"
    error = best_match(validator.iter_errors(prediction))
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
    heard: Heard | None = None,
) -> dict[str, Any]:
    """The prediction line of one document: every window answered, invalid answers asked again, one public answer and its trust. `heard` is told of each
    shard's valid answer when it is there, before the shards are joined and checked; of a whole answer's fields before its first list, once they are written."""
    try:
        prepared = await asyncio.gather(*(asyncio.to_thread(ask.prepare, page) for page in pages))
        windows = windows_of(list(prepared), window)
        parts = await asyncio.gather(
            *(window_answer(judge, ask, part, tries, heard, number) for number, part in enumerate(windows))
        )
    except NoAnswer as error:
        return prediction_line(document.identity, error.status, None, None, error=str(error))
    except UnreadablePage as error:
        return prediction_line(document.identity, "unreadable", None, None, error=str(error))
    line = {
        "finish_reason": next((p["finish_reason"] for p in parts if p["finish_reason"] != "stop"), "stop"),
        "usage": added(part["usage"] for part in parts),
        "seconds": round(max(part["seconds"] for part in parts), 3),
        "attempts": sum(part["attempts"] for part in parts),
    }
    if judge.plan.sharded:
        line["shards"] = sum(part["shards"] for part in parts)
    raw = parts[0]["raw"] if len(parts) == 1 else "\n".join(part["raw"] for part in parts)
    failed = next((part for part in parts if part["status"] != "ok"), None)
    sentences = [sentence for part in parts for sentence in part["sentences"]]
    if failed:
        where = "" if len(parts) == 1 else f"window {parts.index(failed) + 1} of {len(parts)}: "
        more = {"error": where + (" ".join(failed["sentences"]) or failed["status"])}
        return prediction_line(
            document.identity, failed["status"], failed["prediction"] if len(parts) == 1 else None, raw, **line, **more
        )
    answers = [part["prediction"] for part in parts]
    prediction, disagreements = union(judge.schema, answers)
    scores = parts[0]["scores"]
    if len(parts) > 1:
        known = [part["scores"] for part in parts if part["scores"] is not None]
        scores = united_scores(judge.schema, answers, known, prediction) if len(known) == len(parts) else None
    if len(parts) > 1:
        line["windows"] = len(parts)
        if problem := complaint(judge.validator, prediction):
            return prediction_line(
                document.identity,
                "schema_error",
                prediction,
                raw,
                **line,
                error=f"the {len(parts)} windows together: {problem}",
            )
    warnings = sentences + disagreements
    more = judge.trust(prediction, scores, words) | ({"warnings": warnings} if warnings else {})
    return prediction_line(document.identity, "ok", prediction, raw, **line, **more)


def added(usages: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for usage in usages:
        for name, count in usage.items():
            total[name] = total.get(name, 0) + count
    return total


async def window_answer(
    judge: Judge, ask: Asker, pages: list[Any], tries: int, heard: Heard | None = None, window: int = 0
) -> dict[str, Any]:
    """The answer for one window of pages, whole or joined from its shards: `status`, `prediction`, `sentences`, `raw`, `finish_reason`,
    `scores`, `usage`, `seconds`, `attempts`, `shards`."""
    plan = judge.plan
    if not plan.sharded:
        hearing = early_header(judge, heard, window) if heard is not None and plan.head is not None else None
        return await best_answer(judge, ask, pages, plan.whole, tries, hearing) | {"shards": 1}
    shards: list[Shard] = []
    found: list[dict[str, Any]] = []
    seconds = 0.0
    counts: dict[str, int] = {}

    async def one(shard: Shard) -> dict[str, Any]:
        answer = await best_answer(judge, ask, pages, shard, tries)
        if heard is not None and answer["status"] == "ok":
            heard(window, shard, answer["prediction"])
        return answer

    async def asked(wave: list[Shard]) -> bool:
        """Ask shards at the same time; whether all have a valid answer."""
        nonlocal seconds
        answers = await asyncio.gather(*map(one, wave))
        shards.extend(wave)
        found.extend(answers)
        seconds += max(answer["seconds"] for answer in answers)
        return all(answer["status"] == "ok" for answer in answers)

    fine = True
    if plan.count is not None:
        # It also brings the pages into the server's caches, so that the others find them there.
        fine = await asked([plan.count])
        counts = found[0]["prediction"] if fine else {}
    wave = plan.shards_for(counts) if fine else []
    while wave and (fine := await asked(wave)):
        wave = plan.shards_behind(shards, [part["prediction"] for part in found], counts)
    result = {
        "raw": "\n".join(f"{shard.line}: {part['raw']}" for shard, part in zip(shards, found, strict=True)),
        "finish_reason": next((p["finish_reason"] for p in found if p["finish_reason"] != "stop"), "stop"),
        "usage": added(part["usage"] for part in found),
        "seconds": seconds,
        "attempts": max(part["attempts"] for part in found),
        "shards": len(shards),
        "scores": None,
    }
    said = [f"{shard.line}: {s}" for shard, part in zip(shards, found, strict=True) for s in part["sentences"]]
    failed = next(((s, part) for s, part in zip(shards, found, strict=True) if part["status"] != "ok"), None)
    if failed:
        shard, part = failed
        sentences = said or [f"{shard.line}: {part['status']}"]
        return result | {"status": part["status"], "prediction": None, "sentences": sentences}
    parts = [part["prediction"] for part in found]
    prediction, origin, problems = plan.joined(shards, parts)
    if problem := complaint(judge.validator, prediction):
        return result | {
            "status": "schema_error",
            "prediction": prediction,
            "sentences": [f"the shards together: {problem}"],
        }
    # More rows than counted is what the closing shard is for; it is said, since a count that is wrong is a page misread.
    short = [
        f"{name}: {n} rows counted, {len(value_at(prediction, tuple(name.split('.'))))} read"
        for name, n in counts.items()
        if n != len(value_at(prediction, tuple(name.split("."))))
    ]
    scores = [part["scores"] for part in found]
    if all(known is not None for known in scores):
        result["scores"] = shard_scores(plan, shards, scores, origin)
    return result | {"status": "ok", "prediction": prediction, "sentences": said + problems + short}


def early_header(judge: Judge, heard: Heard, window: int) -> Hearing:
    """Tells of a whole answer's fields before its first list, once, where they keep the schema."""
    head = judge.plan.head
    assert head is not None
    validator = head.schema.validator()
    told = False

    def hearing(text: str) -> None:
        nonlocal told
        values = None if told else judge.plan.head_so_far(text)
        if values is not None and validator.is_valid(values):
            told = True
            heard(window, head, values)

    return hearing


def shard_scores(
    plan: AnswerPlan, shards: list[Shard], scores: list[dict[str, ValueScore]], origin: list[tuple[int, int]]
) -> dict[str, ValueScore]:
    """The shards' scores under the names that their values have in the joined answer; a list as a whole is as sure as its least sure
    shard. `origin`: where each row comes from, see AnswerPlan.joined."""
    found: dict[str, ValueScore] = {}
    for shard, known in zip(shards, scores, strict=True):
        if shard.rows is None and shard is not plan.count:
            found |= known
    for rows in plan.schema.lists:
        places = [(s, i) for s, i in origin if shards[s].rows is not None and shards[s].rows.name == rows.name]  # type: ignore[union-attr]
        for index, (number, inner) in enumerate(places):
            for leaf in rows.leaves:
                name = rows.value_name(inner, leaf)
                if name in scores[number]:
                    found[rows.value_name(index, leaf)] = scores[number][name]
        of_list = [k[rows.name] for s, k in zip(shards, scores, strict=True) if s.rows is not None and rows.name in k]
        if of_list:
            found[rows.name] = min(of_list)
    return found


async def best_answer(
    judge: Judge, ask: Asker, pages: list[Any], shard: Shard, tries: int, hearing: Hearing | None = None
) -> dict[str, Any]:
    """The first valid answer at rising temperatures; where none is, the first that keeps the schema, or the first."""
    best: dict[str, Any] = {}
    usage: dict[str, int] = {}
    seconds = 0.0
    attempts = 0
    for attempt in range(max(1, tries)):
        temperature = TEMPERATURES[min(attempt, len(TEMPERATURES) - 1)]
        answer = await ask(pages, shard, temperature, attempt, hearing)
        attempts += 1
        seconds += answer.seconds
        usage = added([usage, answer.usage])
        status, prediction, sentence = judge.verdict(answer, shard)
        found = {
            "status": status,
            "prediction": prediction,
            "sentences": [sentence] if sentence else [],
            "raw": answer.raw,
            "finish_reason": answer.finish_reason,
            "scores": judge.scores(answer, shard) if status == "ok" else None,
        }
        if not best or (status == "ok" and (not sentence or best["status"] != "ok")):
            best = found
        # A truncated answer costs the longest time there is, so it is asked once more, not --tries times.
        if (status == "ok" and not sentence) or (status == "truncated" and attempt):
            break
    return best | {"usage": usage, "seconds": seconds, "attempts": attempts}


def records_answered(
    model: Any, judge: Judge, records: list[dict[str, Any]], root: Path, batch_size: int
) -> list[dict[str, Any]]:
    """Prediction lines of records by a model in this process (a LocalModel), each asked once, all its pages in one window."""
    from toolkit.extraction.local_model import BatchingAsker

    async def all_of_them() -> list[dict[str, Any]]:
        ask = BatchingAsker(model, batch_size)
        # Not all at once: every document in flight holds its decoded pages.
        gate = asyncio.Semaphore(2 * batch_size)

        async def one(record: dict[str, Any]) -> dict[str, Any]:
            async with gate:
                pages = [root / image for image in images_of(record)]
                line = await prediction_of(judge, ask, Document(record["id"]), pages, window=len(pages), tries=1)
            if line["status"] == "unreadable":
                raise StageError(line["error"])
            return line

        return await asyncio.gather(*(one(record) for record in records))

    return asyncio.run(all_of_them())


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
