"""From page images to a prediction line: request an answer, judge it, retry an invalid one, join shards and windows.

Both backends are an `Asker` to this module: it returns an answer for one window of pages and one shard at one
temperature.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from toolkit.answers.answer import Answer, NoAnswer, OnText, Usage, added, repeated_key, repeated_tail
from toolkit.answers.confidence import ConfidenceModel, features_of, places_of, raw_confidence
from toolkit.answers.page_windows import union, united_scores, windows_of
from toolkit.answers.predictions import JudgedAnswer, PredictionLine, failed_line, judged, prediction_line
from toolkit.answers.row_shards import AnswerPlan, Shard
from toolkit.answers.token_confidence import ValueScore, value_scores
from toolkit.console import StageError
from toolkit.extraction.documents import Document, PageRenderer, Unreadable
from toolkit.json_text import LoneSurrogate, strict_json
from toolkit.pages.evidence import DocumentWords, evidence_of
from toolkit.pages.opening import UnreadablePage
from toolkit.records.record import images_of
from toolkit.schema.checks import business_problems
from toolkit.schema.target import value_at

# The first answer is decoded greedily; only if it is invalid, the next ones are sampled.
TEMPERATURES = (0.0, 0.2, 0.5, 0.8)
# A streaming callback for the parts of a document: number of the page window (from 0), shard, its public values.
OnPart = Callable[[int, Shard, dict[str, Any]], None]


class Asker(Protocol):
    """A backend. Raises NoAnswer if it gives no answer, UnreadablePage for a damaged page."""

    def prepare(self, page: Any) -> Any:
        """A page in the backend's form. It is made once and used for every request about the page."""

    async def __call__(
        self, pages: list[Any], shard: Shard, temperature: float, seed: int, on_text: OnText | None = None
    ) -> Answer: ...


class Judge:
    """Judges answers of one plan and compiles its schemas once; `confidence` is the contract's fitted model."""

    def __init__(self, plan: AnswerPlan, confidence: dict[str, Any] | None = None) -> None:
        self.plan, self.schema = plan, plan.schema
        self.validator = plan.schema.validator()
        self._validators: dict[int, Any] = {}
        self.model = ConfidenceModel(**confidence) if confidence else None

    def verdict(self, answer: Answer, shard: Shard | None = None) -> JudgedAnswer:
        """The judged answer of a shard (None: of a whole answer)."""
        shard = shard or self.plan.whole
        if id(shard.schema) not in self._validators:
            self._validators[id(shard.schema)] = shard.schema.validator()
        validator = self._validators[id(shard.schema)]
        result = judged(self.plan.wire_of(shard), validator, answer.raw, answer.finish_reason)
        if result.status == "truncated":
            looped = repeated_tail(answer.raw)
            sentence = f"a loop: the last {looped} characters repeat themselves" if looped else ""
        elif result.status == "not_json":
            sentence = broken_text(answer.raw)
        elif result.status == "schema_error":
            sentence = complaint(validator, result.prediction)
        elif shard is self.plan.whole and (sentence := self.public_problem(result.prediction)):
            return result._replace(status="schema_error", sentence=sentence)
        else:
            sentence = repeated_key(shard.schema, result.prediction or {})
        return result._replace(sentence=sentence)

    def public_problem(self, prediction: dict[str, Any] | None) -> str:
        """Where an answer breaks the original schema although all that it requires is there; empty if it does not."""
        if self.schema.public_form is None or prediction is None:
            return ""
        public, absent = self.schema.public(prediction)
        return "" if absent else self.schema.public_form.complaint(public)

    def scores(self, answer: Answer, shard: Shard) -> dict[str, ValueScore] | None:
        """The token confidence of each value of a valid answer; None if its tokens are not known."""
        return None if answer.tokens is None else value_scores(self.plan.wire_of(shard), answer.raw, answer.tokens)

    def trust(
        self, prediction: dict[str, Any], scores: dict[str, ValueScore] | None, words: DocumentWords | None
    ) -> dict[str, Any]:
        """A prediction line's `checks` (the failed ones), and if they are known `evidence`, `features` and
        `confidence`.
        """
        keys: dict[str, Any] = {}
        if problems := business_problems(self.schema, prediction):
            keys["checks"] = [list(problem) for problem in problems]
        places = places_of(self.schema, prediction, words) if words is not None else None
        if words is not None and places is not None:
            keys["evidence"] = {name: evidence_of(words, place) for name, place in places.items() if place is not None}
        if scores is not None:
            features = features_of(self.schema, prediction, scores, places)
            keys["features"] = features
            keys["confidence"] = {
                name: round(self.model.probability(name, f) if self.model else raw_confidence(f), 4)
                for name, f in features.items()
            }
        return keys


def broken_text(raw: str) -> str:
    """A sentence if only half a surrogate pair keeps an answer from being JSON; empty for every other answer."""
    try:
        strict_json(raw)
    except LoneSurrogate as error:
        return str(error)
    except ValueError:
        pass
    return ""


def complaint(validator: Any, prediction: Any) -> str:
    """Where and how a prediction breaks the schema, in one sentence; empty if it is valid."""
    from jsonschema.exceptions import best_match

    if prediction is None:
        return "not a JSON object"
    error = best_match(validator.iter_errors(prediction))
    return f"{error.json_path}: {error.message}"[:300] if error else ""


@dataclass(frozen=True)
class PartAnswer:
    """The judged answer for one window of pages, or for one shard of it.

    `sentences` say what is wrong with it, or unusual. `scores` are the token confidences by value name; None if
    the answer is not valid or its tokens are not known. `seconds` is decoding time; `attempts` counts the answers
    that were requested.
    """

    status: str
    prediction: dict[str, Any] | None
    sentences: list[str]
    raw: str
    finish_reason: str
    scores: dict[str, ValueScore] | None = None
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    attempts: int = 1
    shards: int = 1

    @property
    def valid_prediction(self) -> dict[str, Any]:
        """The public answer of a valid part. Raises ValueError if the part has none."""
        if self.prediction is None:
            raise ValueError(f"no answer ({self.status})")
        return self.prediction


def first_unfinished(parts: Iterable[PartAnswer]) -> str:
    """The first finish reason other than "stop"; "stop" if all parts are complete."""
    return next((part.finish_reason for part in parts if part.finish_reason != "stop"), "stop")


async def prediction_of(
    judge: Judge,
    ask: Asker,
    document: Document,
    pages: list[Any],
    *,
    window: int,
    tries: int,
    words: DocumentWords | None = None,
    on_part: OnPart | None = None,
) -> PredictionLine:
    """The prediction line of one document; every failure is a line with its status too.

    Every window of pages is answered. Invalid answers are requested again. The answers are merged into one public
    answer. `on_part` is called with each shard's valid answer when it arrives, before the shards are joined and
    checked. For an answer without shards it is called with the fields before the first list, once they are
    written.
    """
    try:
        prepared = await asyncio.gather(*(asyncio.to_thread(ask.prepare, page) for page in pages))
        windows = windows_of(list(prepared), window)
        parts = await asyncio.gather(
            *(window_answer(judge, ask, part, tries, on_part, number) for number, part in enumerate(windows))
        )
    except NoAnswer as error:
        return failed_line(document.identity, error.status, error)
    except UnreadablePage as error:
        return failed_line(document.identity, "unreadable", error)
    return merged_line(judge, document.identity, parts, words)


def merged_line(judge: Judge, identity: str, parts: list[PartAnswer], words: DocumentWords | None) -> PredictionLine:
    """The prediction line of a document from the answers of its windows, in page order."""
    several = len(parts) > 1
    facts: dict[str, Any] = {
        "finish_reason": first_unfinished(parts),
        "usage": added(part.usage for part in parts),
        "seconds": round(max(part.seconds for part in parts), 3),
        "attempts": sum(part.attempts for part in parts),
    }
    if judge.plan.sharded:
        facts["shards"] = sum(part.shards for part in parts)
    raw = "\n".join(part.raw for part in parts)
    failed = next((part for part in parts if part.status != "ok"), None)
    if failed:
        where = f"window {parts.index(failed) + 1} of {len(parts)}: " if several else ""
        facts["error"] = where + (" ".join(failed.sentences) or failed.status)
        return prediction_line(identity, failed.status, None if several else failed.prediction, raw, **facts)
    answers = [part.valid_prediction for part in parts]
    prediction, disagreements = union(judge.schema, answers)
    scores = parts[0].scores
    if several:
        known = [part.scores for part in parts if part.scores is not None]
        scores = united_scores(judge.schema, answers, known, prediction) if len(known) == len(parts) else None
        facts["windows"] = len(parts)
        if problem := complaint(judge.validator, prediction):
            facts["error"] = f"the {len(parts)} windows together: {problem}"
            return prediction_line(identity, "schema_error", prediction, raw, **facts)
    if (several or judge.plan.sharded) and (problem := judge.public_problem(prediction)):
        facts["error"] = f"its parts together: {problem}"
        return prediction_line(identity, "schema_error", prediction, raw, **facts)
    public, absent = judge.schema.public(prediction)
    warnings = [sentence for part in parts for sentence in part.sentences] + disagreements + absent
    facts |= judge.trust(prediction, scores, words) | ({"warnings": warnings} if warnings else {})
    return prediction_line(identity, "ok", public, raw, **facts)


async def window_answer(
    judge: Judge, ask: Asker, pages: list[Any], tries: int, on_part: OnPart | None = None, window: int = 0
) -> PartAnswer:
    """The answer for one window of pages, as a whole or assembled from its shards. Raises what the backend raises."""
    plan = judge.plan
    if not plan.sharded:
        on_text = early_header(judge, on_part, window) if on_part is not None and plan.head is not None else None
        return await best_answer(judge, ask, pages, plan.whole, tries, on_text)
    shards: list[Shard] = []
    parts: list[PartAnswer] = []
    seconds = 0.0
    counts: dict[str, int] = {}

    async def shard_answer(shard: Shard) -> PartAnswer:
        answer = await best_answer(judge, ask, pages, shard, tries)
        if on_part is not None and answer.status == "ok":
            on_part(window, shard, answer.valid_prediction)
        return answer

    async def request(wave: list[Shard]) -> bool:
        """Request shards at the same time; whether all of them got a valid answer."""
        nonlocal seconds
        answers = await asyncio.gather(*map(shard_answer, wave))
        shards.extend(wave)
        parts.extend(answers)
        seconds += max(answer.seconds for answer in answers)
        return all(answer.status == "ok" for answer in answers)

    fine = True
    if plan.count is not None:
        # This request also brings the pages into the server's caches, so that the others find them there.
        fine = await request([plan.count])
        counts = parts[0].valid_prediction if fine else {}
    wave = plan.shards_for(counts) if fine else []
    while wave and (fine := await request(wave)):
        wave = plan.shards_behind(shards, [part.valid_prediction for part in parts], counts)
    return assembled_part(judge, shards, parts, counts, seconds)


def assembled_part(
    judge: Judge, shards: list[Shard], parts: list[PartAnswer], counts: dict[str, int], seconds: float
) -> PartAnswer:
    """One answer from the shards of a window; `counts` is the number of rows of each list that the model counted."""
    plan = judge.plan
    pairs = list(zip(shards, parts, strict=True))

    def answer(status: str, prediction: Any, sentences: list[str], scores: Any = None) -> PartAnswer:
        return PartAnswer(
            status,
            prediction,
            sentences,
            raw="\n".join(f"{shard.line}: {part.raw}" for shard, part in pairs),
            finish_reason=first_unfinished(parts),
            scores=scores,
            usage=added(part.usage for part in parts),
            seconds=seconds,
            attempts=max(part.attempts for part in parts),
            shards=len(shards),
        )

    sentences = [f"{shard.line}: {sentence}" for shard, part in pairs for sentence in part.sentences]
    failed = next(((shard, part) for shard, part in pairs if part.status != "ok"), None)
    if failed:
        shard, part = failed
        return answer(part.status, None, sentences or [f"{shard.line}: {part.status}"])
    prediction, origin, problems = plan.assembled(shards, [part.valid_prediction for part in parts])
    if problem := complaint(judge.validator, prediction):
        return answer("schema_error", prediction, [f"the shards together: {problem}"])
    scores = [part.scores for part in parts if part.scores is not None]
    merged_scores = shard_scores(plan, shards, scores, origin) if len(scores) == len(parts) else None
    return answer("ok", prediction, sentences + problems + miscounts(prediction, counts), merged_scores)


def miscounts(prediction: dict[str, Any], counts: dict[str, int]) -> list[str]:
    """A sentence for each list whose number of rows is not the one counted: a wrong count means a misread page."""
    sentences = []
    for name, count in counts.items():
        read = len(value_at(prediction, tuple(name.split("."))))
        if count != read:
            sentences.append(f"{name}: {count} rows counted, {read} read")
    return sentences


def early_header(judge: Judge, on_part: OnPart, window: int) -> OnText:
    """A text callback that reports the fields before an answer's first list, once, if they keep the schema."""
    head = judge.plan.head
    assert head is not None
    validator = head.schema.validator()
    reported = False

    def on_text(text: str) -> None:
        nonlocal reported
        values = None if reported else judge.plan.head_so_far(text)
        if values is not None and validator.is_valid(values):
            reported = True
            on_part(window, head, values)

    return on_text


def shard_scores(
    plan: AnswerPlan, shards: list[Shard], scores: list[dict[str, ValueScore]], origin: list[tuple[int, int]]
) -> dict[str, ValueScore]:
    """The shards' scores under the names that their values have in the assembled answer.

    A list as a whole has the score of its least certain shard. `origin`: the source of each row, see AssembledAnswer.
    """
    merged: dict[str, ValueScore] = {}
    for shard, known in zip(shards, scores, strict=True):
        if shard.rows is None and shard is not plan.count:
            merged |= known
    for rows in plan.schema.lists:
        own = {n for n, shard in enumerate(shards) if shard.rows is not None and shard.rows.name == rows.name}
        places = [(number, inner) for number, inner in origin if number in own]
        for index, (number, inner) in enumerate(places):
            before, after = f"{rows.name}[{inner}]", f"{rows.name}[{index}]"
            of_row = {name: score for name, score in scores[number].items() if is_in_row(name, before)}
            merged |= {after + name[len(before) :]: score for name, score in of_row.items()}
        of_list = [k[rows.name] for s, k in zip(shards, scores, strict=True) if s.rows is not None and rows.name in k]
        if of_list:
            merged[rows.name] = min(of_list)
    return merged


def is_in_row(name: str, row: str) -> bool:
    """Whether a value or a list is the row of that name, or in it."""
    return name == row or name.startswith((f"{row}.", f"{row}["))


async def best_answer(
    judge: Judge, ask: Asker, pages: list[Any], shard: Shard, tries: int, on_text: OnText | None = None
) -> PartAnswer:
    """The first valid answer at rising temperatures; if none is valid, the first that keeps the schema or the first."""
    best: PartAnswer | None = None
    usage = Usage()
    seconds = 0.0
    attempts = 0
    for attempt in range(max(1, tries)):
        temperature = TEMPERATURES[min(attempt, len(TEMPERATURES) - 1)]
        answer = await ask(pages, shard, temperature, attempt, on_text)
        attempts += 1
        seconds += answer.seconds
        usage = added([usage, answer.usage])
        status, prediction, sentence = judge.verdict(answer, shard)
        if best is None or (status == "ok" and (not sentence or best.status != "ok")):
            scores = judge.scores(answer, shard) if status == "ok" else None
            sentences = [sentence] if sentence else []
            best = PartAnswer(status, prediction, sentences, answer.raw, answer.finish_reason, scores)
        # A truncated answer takes the longest time possible, so it is requested once more, not --tries times.
        if (status == "ok" and not sentence) or (status == "truncated" and attempt):
            break
    assert best is not None
    return replace(best, usage=usage, seconds=seconds, attempts=attempts)


def records_answered(
    model: Any, judge: Judge, records: list[dict[str, Any]], root: Path, batch_size: int
) -> list[PredictionLine]:
    """Prediction lines of records by a LocalModel, each requested once, with all its pages in one window.

    Raises StageError if a page cannot be read.
    """
    from toolkit.extraction.local_model import BatchingAsker

    async def answer_all() -> list[PredictionLine]:
        ask = BatchingAsker(model, batch_size)
        # Not all at once: every document in flight holds its decoded pages in memory.
        gate = asyncio.Semaphore(2 * batch_size)

        async def answer_record(record: dict[str, Any]) -> PredictionLine:
            async with gate:
                pages = [root / image for image in images_of(record)]
                line = await prediction_of(judge, ask, Document(record["id"]), pages, window=len(pages), tries=1)
            if line["status"] == "unreadable":
                raise StageError(line["error"])
            return line

        return await asyncio.gather(*(answer_record(record) for record in records))

    return asyncio.run(answer_all())


async def extracted(
    documents: Iterable[Document] | AsyncIterator[Document | None],
    renderer: PageRenderer,
    judge: Judge,
    ask: Asker,
    *,
    window: int,
    tries: int,
    concurrency: int,
) -> AsyncIterator[PredictionLine]:
    """Prediction lines in the order they are finished; a failed document is a line too.

    `concurrency` documents are answered at a time, and only a few more are rendered ahead, so that memory and disk
    use stay bounded.
    """
    gate = asyncio.Semaphore(concurrency)
    running: set[asyncio.Task[PredictionLine]] = set()

    async def answer_document(document: Document) -> PredictionLine:
        pages: list[Path] = []
        try:
            pages = await asyncio.wrap_future(renderer.pages_of(document))
            async with gate:
                layer = renderer.layer_of(document, pages)
                words = DocumentWords(layer) if layer else None
                return await prediction_of(judge, ask, document, pages, window=window, tries=tries, words=words)
        except Unreadable as error:
            return failed_line(document.identity, "unreadable", error)
        finally:
            renderer.release(document, pages)

    try:
        async for document in as_async(documents):
            if document is not None:  # None: a watched folder has nothing new, so only hand out what is finished
                running.add(asyncio.create_task(answer_document(document)))
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
    """The documents of a plain or an asynchronous iterable."""
    if isinstance(documents, AsyncIterator):
        async for document in documents:
            yield document
    else:
        for document in documents:
            yield document
