"""Extract documents with a fine-tuned model: one prediction line per document, appended as it is made.

Reads a JSONL (its images; its answers are not looked at) or PDFs, images, folders, patterns. Answers come from a
model on this machine (--model, --adapter) or from any OpenAI-compatible server (--server). The contract gives prompt,
schema and resolution. Writes --out; run again, and only what is missing there is answered. An invalid answer is asked
again, warmer; a document with more pages than the model was trained on is read in windows. Every value has a
confidence (calibrated where calibrate_confidence.py has run), and its place on the page where there is a text layer;
--review-below lists those a person should look at. Exit code 1 where a document has no valid answer (each has its
status and its reason).

    python scripts/extract_documents.py --model Qwen/Qwen3-VL-8B-Instruct --adapter outputs/bl-8b \\
        --in data/splits/test.jsonl --out data/predictions/test.jsonl
    python scripts/extract_documents.py --server http://127.0.0.1:8000/v1 --contract outputs/bl-8b-merged \\
        --in data/pdfs --out data/predictions/new.jsonl
    python scripts/extract_documents.py --server http://127.0.0.1:8000/v1 --contract outputs/bl-8b-merged \\
        --in inbox --watch --out data/predictions/inbox.jsonl

With --schema a base model answers without training: the baseline of an evaluation, or a first look without labels.

    python scripts/extract_documents.py --model Qwen/Qwen3-VL-8B-Instruct --schema schemas/invoice.schema.json \\
        --in data/pdfs --out data/predictions/zero_shot.jsonl
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit import console, options
from toolkit.answers.predictions import PredictionLine, finished_ids, unsure_values
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.extraction.documents import Document, PageRenderer, arriving, documents_of_files, documents_of_jsonl
from toolkit.files import argument_path, json_line, open_to_append, shown
from toolkit.model.contract import FILE_NAME, UNTRAINED_ANSWER_TOKENS, Contract, Untrained, chosen_contract
from toolkit.pages.evidence import TextLayers
from toolkit.pages.images import DEFAULT_MAX_TOKENS
from toolkit.schema.target import TargetSchema

if TYPE_CHECKING:
    from toolkit.extraction.local_model import BatchingAsker
    from toolkit.extraction.server_client import ServerModel

END = Document("")  # the watched folders' end


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    what = parser.add_argument_group("documents")
    what.add_argument(
        "--in",
        dest="inputs",
        nargs="+",
        required=True,
        metavar="PATH",
        help="one JSONL; or PDFs, images, folders, patterns",
    )
    what.add_argument("--out", type=argument_path, required=True, help="prediction JSONL, appended to")
    what.add_argument(
        "--root", type=argument_path, default=Path(), help="folder that a JSONL's image paths are relative to"
    )
    what.add_argument(
        "--text-layer-dir",
        type=argument_path,
        default=None,
        help="text layers of a JSONL's documents (PDFs bring their own): evidence, and surer confidence",
    )
    what.add_argument("--limit", type=int, default=None, help="only the first N documents")
    what.add_argument("--overwrite", action="store_true", help="answer every document again")
    what.add_argument("--watch", action="store_true", help="stay, and answer what appears in the folders of --in")
    what.add_argument(
        "--watch-for", type=float, default=None, metavar="SECONDS", help="with --watch: end after this time"
    )
    what.add_argument(
        "--shuffle-pages",
        action="store_true",
        help="control: give each document of a JSONL the pages of another one; a model that reads must fail",
    )
    who = parser.add_argument_group("who answers")
    who.add_argument("--model", default=None, help="model folder, or hub name of the base model")
    who.add_argument("--adapter", type=argument_path, default=None, help="adapter folder that train_lora.py wrote")
    who.add_argument("--server", default=None, metavar="URL", help="an OpenAI-compatible server, up to /v1")
    who.add_argument("--served-model", default=None, help="model name at the server (default: its first)")
    who.add_argument(
        "--contract",
        type=argument_path,
        default=None,
        help=f"folder whose {FILE_NAME} to use (default: the adapter, else the model)",
    )
    options.add_untrained(who, DEFAULT_MAX_TOKENS, UNTRAINED_ANSWER_TOKENS)
    who.add_argument(
        "--ray",
        nargs="?",
        const="local",
        default=None,
        metavar="ADDRESS",
        help="offline batch with Ray Data and vLLM on one machine (local) or a cluster; --model is then served inside",
    )
    who.add_argument("--ray-actors", type=int, default=None, help="engines (default: one a GPU)")
    how = parser.add_argument_group("how")
    how.add_argument("--batch-size", type=int, default=8, help="local: documents decoded together (default: 8)")
    how.add_argument("--concurrency", type=int, default=16, help="server: documents at the same time (default: 16)")
    how.add_argument("--tries", type=int, default=3, help="answers to ask for while they are invalid (default: 3)")
    how.add_argument(
        "--window", type=int, default=None, help="pages of a request (default: the longest training document)"
    )
    how.add_argument("--workers", type=int, default=2, help="processes that render PDFs (default: 2)")
    how.add_argument("--render-timeout", type=float, default=120, help="seconds for one document (default: 120)")
    how.add_argument("--timeout", type=float, default=300, help="server: seconds for one answer (default: 300)")
    how.add_argument("--attempts", type=int, default=6, help="server: sends of a request that fails (default: 6)")
    how.add_argument(
        "--patience", type=float, default=600, help="server: seconds to wait for one that is gone (default: 600)"
    )
    how.add_argument(
        "--review-below",
        type=float,
        default=None,
        metavar="P",
        help="list values of less confidence, and failed documents, in a file beside --out (.review.jsonl)",
    )
    how.add_argument(
        "--no-confidence", action="store_true", help="server: do not ask for log-probabilities (some APIs refuse them)"
    )
    how.add_argument("--no-grammar", action="store_true", help="local: decode freely; answers may break the schema")
    how.add_argument("--threads", type=int, default=0, help="local: CPU threads for torch; 0: its own choice")
    return parser


@dataclass(frozen=True)
class Extraction:
    """The flags of one run, see `build_parser`. Raises StageError if they do not go together."""

    inputs: list[str]
    out: Path
    root: Path
    text_layer_dir: Path | None
    limit: int | None
    overwrite: bool
    watch: bool
    watch_for: float | None
    shuffle_pages: bool
    model: str | None
    adapter: Path | None
    server: str | None
    served_model: str | None
    contract: Path | None
    schema: Path | None
    image_max_tokens: int | None
    max_answer_tokens: int | None
    ray: str | None
    ray_actors: int | None
    batch_size: int
    concurrency: int
    tries: int
    window: int | None
    workers: int
    render_timeout: float
    timeout: float
    attempts: int
    patience: float
    review_below: float | None
    no_confidence: bool
    no_grammar: bool
    threads: int

    @classmethod
    def of(cls, args: Any) -> Extraction:
        """The flags of a parsed command line."""
        return cls(**{flag.name: getattr(args, flag.name) for flag in fields(cls)})

    def __post_init__(self) -> None:
        if (self.server is None) == (self.model is None):
            raise StageError("give either --server URL or --model FOLDER (with --adapter for a base model)")
        if self.server and (self.adapter or self.no_grammar or self.ray):
            raise StageError("--adapter, --no-grammar and --ray belong to --model; a server has its own")
        if self.server and self.contract is None and self.schema is None:
            raise StageError(
                "--server needs --contract FOLDER (the model or adapter folder that the server serves), "
                "or --schema FILE where it serves a base model"
            )
        if self.review_below is not None and (self.no_confidence or not 0 < self.review_below <= 1):
            raise StageError("--review-below takes a confidence over 0 and at most 1, and --no-confidence gives none")
        if self.batch_size < 1 or self.concurrency < 1 or self.tries < 1:
            raise StageError("--batch-size, --concurrency and --tries must be at least 1")

    @property
    def contract_folder(self) -> Path | None:
        """The folder that holds the contract; None for a server that --schema alone describes."""
        folder = self.contract or self.adapter or self.model
        return Path(folder) if folder else None

    @property
    def review_file(self) -> Path:
        """The file for what a person should review, beside the predictions."""
        return self.out.with_suffix(".review.jsonl")


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    run = Extraction.of(args)
    settings = Untrained(run.schema, run.image_max_tokens, run.max_answer_tokens)
    contract = chosen_contract(run.contract_folder, settings)
    if run.overwrite:
        run.out.unlink(missing_ok=True)
        run.review_file.unlink(missing_ok=True)
    if run.review_below is not None and contract.confidence is None:
        say(
            "the contract is not calibrated, so --review-below compares bare token probabilities; "
            "calibrate_confidence.py makes them mean something"
        )
    done = finished_ids(run.out)
    lines, total = lines_of(run, contract, done)
    result, code = written(run, contract, done, lines, total)
    return console.finish(args, result, code)


def lines_of(run: Extraction, contract: Contract, done: set[str]) -> tuple[AsyncIterator[PredictionLine], int | None]:
    """The prediction lines to come, and how many if that is known; documents with an id in `done` are left out."""
    if run.watch and not run.ray:
        return predicted(run, contract, arrivals(run, done)), None
    documents = documents_of(run)
    todo = [document for document in documents if document.identity not in done]
    if run.ray:
        return as_async_lines(predicted_with_ray(run, contract, todo)), None
    if len(documents) > len(todo):
        say(f"{len(documents) - len(todo)} documents already in {shown(run.out)}")
    return predicted(run, contract, todo) if todo else as_async_lines([]), len(todo)


def predicted_with_ray(run: Extraction, contract: Contract, documents: list[Document]) -> Iterator[PredictionLine]:
    """Prediction lines of the documents, from engines on a Ray cluster."""
    from toolkit.serving.ray_batch import RaySettings, extracted_with_ray

    assert run.ray is not None and run.model is not None
    if run.adapter:
        raise StageError("--ray serves a merged model; merge the adapter with merge_adapter.py")
    settings = RaySettings(
        address=run.ray,
        model=Path(run.model),
        actors=run.ray_actors,
        batch_size=run.batch_size,
        window=run.window,
        tries=run.tries,
        render_timeout=run.render_timeout,
    )
    return extracted_with_ray(settings, contract, documents)


def documents_of(run: Extraction) -> list[Document]:
    """The documents of --in. Raises StageError for flags that do not fit their kind."""
    inputs = [argument_path(name) for name in run.inputs]
    if len(inputs) == 1 and inputs[0].suffix.lower() == ".jsonl":
        layers = TextLayers(run.text_layer_dir) if run.text_layer_dir else None
        return documents_of_jsonl(inputs[0], run.root, limit=run.limit, shuffle_pages=run.shuffle_pages, layers=layers)
    if run.text_layer_dir:
        raise StageError("--text-layer-dir goes with a JSONL; PDFs bring their text layer along")
    if run.shuffle_pages:
        raise StageError("--shuffle-pages needs a JSONL")
    return documents_of_files(inputs, limit=run.limit)


async def arrivals(run: Extraction, done: set[str]) -> AsyncIterator[Document | None]:
    """New documents of the watched folders, without holding up those that are being answered; None: nothing new."""
    folders = [argument_path(name) for name in run.inputs]
    say(f"watching {', '.join(shown(folder) for folder in folders)}; Ctrl-C ends it")
    stream = arriving(folders, seconds=run.watch_for)
    while True:
        document = await asyncio.to_thread(next, stream, END)
        if document is END:
            return
        if document is None or document.identity not in done:
            yield document


async def predicted(
    run: Extraction, contract: Contract, documents: Iterable[Document] | AsyncIterator[Document | None]
) -> AsyncIterator[PredictionLine]:
    """Prediction lines as they are made, by the server or on this machine."""
    from toolkit.extraction.run import Judge, extracted

    judge = Judge(contract.answer_plan, contract.confidence)
    window = run.window or contract.max_pages
    async with contextlib.AsyncExitStack() as stack:
        renderer = stack.enter_context(
            PageRenderer(contract.image_max_tokens, workers=run.workers, time_limit=run.render_timeout)
        )
        if run.server:
            ask: Any = await stack.enter_async_context(server_model(run, contract))
            concurrency = run.concurrency
        else:
            ask, concurrency = local_asker(run, contract), run.batch_size
        async for line in extracted(
            documents, renderer, judge, ask, window=window, tries=run.tries, concurrency=concurrency
        ):
            yield line


def server_model(run: Extraction, contract: Contract) -> ServerModel:
    """The client of --server, with the API key of the environment."""
    from toolkit.extraction.chat_request import API_KEY_VARIABLE
    from toolkit.extraction.server_client import ServerModel

    return ServerModel(
        str(run.server),
        contract,
        model=run.served_model,
        key=os.environ.get(API_KEY_VARIABLE),
        concurrency=run.concurrency * 2,
        timeout=run.timeout,
        attempts=run.attempts,
        patience=run.patience,
        confidence=not run.no_confidence,
        say=say,
    )


def local_asker(run: Extraction, contract: Contract) -> BatchingAsker:
    """The model of --model and --adapter, loaded on this machine."""
    from toolkit.extraction.local_model import BatchingAsker, LocalModel
    from toolkit.model.devices import say_unused_gpus

    say_unused_gpus("--ray answers on all of them, with a merged model")
    if run.threads:
        import torch

        torch.set_num_threads(run.threads)
    model = LocalModel(str(run.model), run.adapter, contract, grammar=not run.no_grammar)
    return BatchingAsker(model, run.batch_size)


async def as_async_lines(lines: Iterable[PredictionLine]) -> AsyncIterator[PredictionLine]:
    """Lines of a plain iterable as an asynchronous one."""
    for line in lines:
        yield line


def written(
    run: Extraction, contract: Contract, done: set[str], lines: AsyncIterator[PredictionLine], total: int | None
) -> tuple[dict[str, Any], ExitCode]:
    """Append each line as it comes and report the counts: `(result, exit code)`."""
    started = time.monotonic()
    counts: Counter[str] = Counter()
    failed: list[str] = []
    meter = console.Meter(total)
    to_review, schema = 0, contract.target

    async def write() -> None:
        nonlocal to_review
        with open_to_append(run.out) as file:
            async for line in lines:
                file.write(json_line(line))
                file.flush()
                if run.review_below is not None:
                    to_review += append_review(run, schema, line)
                counts[line["status"]] += 1
                meter.step(failed=line["status"] != "ok")
                if line["status"] != "ok":
                    failed.append(f"{line['id']} ({line['status']}{': ' + line['error'] if line.get('error') else ''})")

    interrupted = False
    try:
        asyncio.run(write())
    except KeyboardInterrupt:
        # Watching has no other end; a batch that is cut off is one that was not finished.
        interrupted = not run.watch
    finally:
        meter.close()
    seconds = time.monotonic() - started
    count = sum(counts.values())
    statuses = ", ".join(f"{n} {status}" for status, n in sorted(counts.items())) or "nothing to do"
    say(f"{count} documents in {seconds:.1f} s: {statuses} -> {shown(run.out)}")
    if run.review_below is not None:
        say(f"{to_review} entries for a person -> {shown(run.review_file)}")
    if failed:
        say(f"without a valid answer: {first_few(failed)}")
    if interrupted:
        raise KeyboardInterrupt
    result = {
        "documents": count,
        "already_there": len(done),
        "seconds": round(seconds, 2),
        "status": dict(sorted(counts.items())),
        "out": shown(run.out),
    }
    if run.review_below is not None:
        result |= {"to_review": to_review, "review": shown(run.review_file)}
    return result, ExitCode.PROBLEMS if failed else ExitCode.OK


def append_review(run: Extraction, schema: TargetSchema, line: PredictionLine) -> int:
    """Append what a person should review in one prediction line: each unsure value, or a document without an answer.

    Returns the number of entries.
    """
    known = {**line, "prediction": schema.normal(line["prediction"])} if line["prediction"] else line
    entries = [{"id": line["id"], **entry} for entry in unsure_values(known, float(run.review_below or 0))]
    with open_to_append(run.review_file) as file:
        for entry in entries:
            file.write(json_line(entry))
    return len(entries)


if __name__ == "__main__":
    sys.exit(main())
