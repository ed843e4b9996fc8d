"""Extract documents with a fine-tuned model: one prediction line per document, appended as it is made.

Reads a JSONL (its images; its answers are not looked at) or PDFs, images, folders, patterns. Answers come from a model on
this machine (--model, --adapter) or from any OpenAI-compatible server (--server). The contract gives prompt, schema and
resolution. Writes --out; run again, and only what is missing there is answered. An invalid answer is asked again, warmer;
a document with more pages than the model was trained on is read in windows. Every value has a confidence (calibrated where
calibrate_confidence.py has run), and its place on the page where there is a text layer; --review-below lists those a person
should look at. Exit code 1 where a document has no valid answer (each has its status and its reason).

    python scripts/extract_documents.py --model Qwen/Qwen3-VL-8B-Instruct --adapter outputs/bl-8b --in data/splits/test.jsonl --out data/predictions/test.jsonl
    python scripts/extract_documents.py --server http://127.0.0.1:8000/v1 --contract outputs/bl-8b-merged --in data/pdfs --out data/predictions/new.jsonl
    python scripts/extract_documents.py --server http://127.0.0.1:8000/v1 --contract outputs/bl-8b-merged --in inbox --watch --out data/predictions/inbox.jsonl
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.answers.predictions import finished_ids, unsure_values
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.extraction.documents import Document, PageRenderer, arriving, documents_of_files, documents_of_jsonl
from toolkit.files import argument_path, json_line, open_to_append, shown
from toolkit.model.contract import FILE_NAME, Contract, load_contract
from toolkit.pages.evidence import TextLayers

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


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    contract = load_contract(contract_folder(args))
    if args.overwrite:
        args.out.unlink(missing_ok=True)
        review_file(args).unlink(missing_ok=True)
    if args.review_below is not None and contract.confidence is None:
        say(
            "the contract is not calibrated, so --review-below compares bare token probabilities; calibrate_confidence.py makes them mean something"
        )
    done = finished_ids(args.out)
    if args.ray:
        from toolkit.serving.ray_batch import extracted_with_ray

        lines: Any = extracted_with_ray(args, contract, [d for d in documents_of(args) if d.identity not in done])
        return written(args, done, as_async_lines(lines), None)
    documents = None if args.watch else documents_of(args)
    todo = [document for document in documents or [] if document.identity not in done]
    if documents is not None and len(documents) > len(todo):
        say(f"{len(documents) - len(todo)} documents already in {shown(args.out)}")
    if documents is not None and not todo:
        return written(args, done, as_async_lines([]), 0)
    source: Iterable[Document] | AsyncIterator[Document | None] = arrivals(args, done) if args.watch else todo
    return written(args, done, predicted(args, contract, source), None if args.watch else len(todo))


def contract_folder(args: Any) -> Path:
    """The folder that holds the contract; also refuses flags that do not go together."""
    if (args.server is None) == (args.model is None):
        raise StageError("give either --server URL or --model FOLDER (with --adapter for a base model)")
    if args.server and (args.adapter or args.no_grammar or args.ray):
        raise StageError("--adapter, --no-grammar and --ray belong to --model; a server has its own")
    if args.server and args.contract is None:
        raise StageError("--server needs --contract FOLDER: the model or adapter folder that the server serves")
    if args.review_below is not None and (args.no_confidence or not 0 < args.review_below <= 1):
        raise StageError("--review-below takes a confidence over 0 and at most 1, and --no-confidence gives none")
    if args.batch_size < 1 or args.concurrency < 1 or args.tries < 1:
        raise StageError("--batch-size, --concurrency and --tries must be at least 1")
    return Path(args.contract or args.adapter or args.model)


def documents_of(args: Any) -> list[Document]:
    inputs = [argument_path(name) for name in args.inputs]
    if len(inputs) == 1 and inputs[0].suffix.lower() == ".jsonl":
        layers = TextLayers(args.text_layer_dir) if args.text_layer_dir else None
        return documents_of_jsonl(
            inputs[0], args.root, limit=args.limit, shuffle_pages=args.shuffle_pages, layers=layers
        )
    if args.text_layer_dir:
        raise StageError("--text-layer-dir goes with a JSONL; PDFs bring their text layer along")
    if args.shuffle_pages:
        raise StageError("--shuffle-pages needs a JSONL")
    return documents_of_files(inputs, limit=args.limit)


async def arrivals(args: Any, done: set[str]) -> AsyncIterator[Document | None]:
    """New documents of the watched folders, without holding up those that are being answered; None: nothing new."""
    folders = [argument_path(name) for name in args.inputs]
    say(f"watching {', '.join(shown(folder) for folder in folders)}; Ctrl-C ends it")
    stream = arriving(folders, seconds=args.watch_for)
    while True:
        document = await asyncio.to_thread(next, stream, END)
        if document is END:
            return
        if document is None or document.identity not in done:
            yield document


async def predicted(
    args: Any, contract: Contract, documents: Iterable[Document] | AsyncIterator[Document | None]
) -> AsyncIterator[dict[str, Any]]:
    """Prediction lines as they are made, by the server or by this machine."""
    from toolkit.extraction.run import Judge, extracted

    judge = Judge(contract.answer_plan, contract.confidence)
    window = args.window or contract.max_pages
    async with contextlib.AsyncExitStack() as stack:
        renderer = stack.enter_context(
            PageRenderer(contract.image_max_tokens, workers=args.workers, time_limit=args.render_timeout)
        )
        if args.server:
            from toolkit.extraction.server_client import API_KEY_VARIABLE, ServerModel

            ask: Any = await stack.enter_async_context(
                ServerModel(
                    args.server,
                    contract,
                    model=args.served_model,
                    key=os.environ.get(API_KEY_VARIABLE),
                    concurrency=args.concurrency * 2,
                    timeout=args.timeout,
                    attempts=args.attempts,
                    patience=args.patience,
                    confidence=not args.no_confidence,
                    say=say,
                )
            )

            concurrency = args.concurrency
        else:
            from toolkit.extraction.local_model import BatchingAsker, LocalModel
            from toolkit.model.devices import say_unused_gpus

            say_unused_gpus("--ray answers on all of them, with a merged model")
            if args.threads:
                import torch

                torch.set_num_threads(args.threads)
            ask = BatchingAsker(
                LocalModel(args.model, args.adapter, contract, grammar=not args.no_grammar), args.batch_size
            )
            concurrency = args.batch_size
        async for line in extracted(
            documents, renderer, judge, ask, window=window, tries=args.tries, concurrency=concurrency
        ):
            yield line


async def as_async_lines(lines: Iterable[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for line in lines:
        yield line


def written(args: Any, done: set[str], lines: AsyncIterator[dict[str, Any]], total: int | None) -> int:
    """Append each line as it comes; tell what came."""
    started = time.monotonic()
    counts: Counter[str] = Counter()
    failed: list[str] = []
    meter = console.Meter(total)
    to_review = 0

    async def write() -> None:
        nonlocal to_review
        with open_to_append(args.out) as file:
            async for line in lines:
                file.write(json_line(line))
                file.flush()
                if args.review_below is not None:
                    to_review += append_review(args, line)
                counts[line["status"]] += 1
                meter.step(failed=line["status"] != "ok")
                if line["status"] != "ok":
                    failed.append(f"{line['id']} ({line['status']}{': ' + line['error'] if line.get('error') else ''})")

    interrupted = False
    try:
        asyncio.run(write())
    except KeyboardInterrupt:
        # Watching has no other end; a batch that is cut off is one that was not finished.
        interrupted = not args.watch
    finally:
        meter.close()
    seconds = time.monotonic() - started
    count = sum(counts.values())
    statuses = ", ".join(f"{n} {status}" for status, n in sorted(counts.items())) or "nothing to do"
    say(f"{count} documents in {seconds:.1f} s: {statuses} -> {shown(args.out)}")
    if args.review_below is not None:
        say(f"{to_review} entries for a person -> {shown(review_file(args))}")
    if failed:
        say(f"without a valid answer: {first_few(failed)}")
    if interrupted:
        raise KeyboardInterrupt
    result = {
        "documents": count,
        "already_there": len(done),
        "seconds": round(seconds, 2),
        "status": dict(sorted(counts.items())),
        "out": shown(args.out),
    }
    if args.review_below is not None:
        result |= {"to_review": to_review, "review": shown(review_file(args))}
    return console.finish(args, result, ExitCode.PROBLEMS if failed else ExitCode.OK)


def review_file(args: Any) -> Path:
    return Path(args.out.with_suffix(".review.jsonl"))


def append_review(args: Any, line: dict[str, Any]) -> int:
    """Append what a person should look at in one prediction line: each unsure value, or the document where it has none at all."""
    entries = [{"id": line["id"], **entry} for entry in unsure_values(line, args.review_below)]
    with open_to_append(review_file(args)) as file:
        for entry in entries:
            file.write(json_line(entry))
    return len(entries)


if __name__ == "__main__":
    sys.exit(main())
