"""Extract documents with a fine-tuned model: one prediction line per document, appended as it is made.

Reads a JSONL (its images; its answers are not looked at) or PDFs, images, folders, patterns; a base model and an adapter.
The contract beside the adapter (or the model) gives prompt, schema and resolution. Writes --out; run again, and only
documents that are missing there are answered. Exit code 1 where a document has no valid answer (each has its status).

    python scripts/extract_documents.py --model Qwen/Qwen3-VL-8B-Instruct --adapter outputs/bl-8b --in data/splits/test.jsonl --out data/predictions/test.jsonl
    python scripts/extract_documents.py --model outputs/bl-8b-merged --in data/pdfs --out data/predictions/new.jsonl
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.contract import FILE_NAME, Contract, load_contract
from toolkit.files import argument_path, expand_inputs, shown
from toolkit.page_images import IMAGE_SUFFIXES
from toolkit.predictions import finished_ids, judged, prediction_line
from toolkit.records import images_of, read_records


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--model", required=True, help="model folder, or hub name of the base model")
    parser.add_argument("--adapter", type=argument_path, default=None, help="adapter folder that train_lora.py wrote")
    parser.add_argument(
        "--contract",
        type=argument_path,
        default=None,
        help=f"folder whose {FILE_NAME} to use (default: the adapter, else the model)",
    )
    parser.add_argument(
        "--in",
        dest="inputs",
        nargs="+",
        required=True,
        metavar="PATH",
        help="one JSONL; or PDFs, images, folders, patterns",
    )
    parser.add_argument("--out", type=argument_path, required=True, help="prediction JSONL, appended to")
    parser.add_argument(
        "--root", type=argument_path, default=Path(), help="folder that a JSONL's image paths are relative to"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="documents decoded together (default: 8)")
    parser.add_argument("--no-grammar", action="store_true", help="decode freely; answers may then break the schema")
    parser.add_argument(
        "--shuffle-pages",
        action="store_true",
        help="control: give each document of a JSONL the pages of another one; a model that reads must fail",
    )
    parser.add_argument("--limit", type=int, default=None, help="only the first N documents")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads for torch; 0: its own choice")
    parser.add_argument("--overwrite", action="store_true", help="answer every document again")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.batch_size < 1:
        raise StageError("--batch-size must be at least 1")
    folder = args.contract or args.adapter or Path(args.model)
    contract = load_contract(folder)
    if args.overwrite:
        args.out.unlink(missing_ok=True)
    done = finished_ids(args.out)
    with tempfile.TemporaryDirectory(prefix="pages-") as scratch:
        documents, unreadable = documents_of(args, contract, Path(scratch))
        todo = [(identity, pages) for identity, pages in documents if identity not in done]
        lines = [
            prediction_line(identity, "unreadable", None, None, error=sentence)
            for identity, sentence in unreadable
            if identity not in done
        ]
        if done:
            say(f"{len(documents) + len(unreadable) - len(todo) - len(lines)} documents already in {shown(args.out)}")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        counts: Counter[str] = Counter()
        failed: list[str] = []
        with args.out.open("a", encoding="utf-8", newline="\n") as file:
            for line in predicted(args, contract, todo, lines):
                file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
                file.flush()
                counts[line["status"]] += 1
                if line["status"] != "ok":
                    failed.append(f"{line['id']} ({line['status']})")
    seconds = time.monotonic() - started
    total = sum(counts.values())
    say(
        f"{total} documents in {seconds:.1f} s: "
        + ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
        + f" -> {shown(args.out)}"
    )
    if failed:
        say(f"without a valid answer: {first_few(failed)}")
    result = {
        "documents": total,
        "already_there": len(done),
        "seconds": round(seconds, 2),
        "status": dict(sorted(counts.items())),
        "out": shown(args.out),
    }
    return console.finish(args, result, ExitCode.PROBLEMS if failed else ExitCode.OK)


def documents_of(
    args: Any, contract: Contract, scratch: Path
) -> tuple[list[tuple[str, list[Path]]], list[tuple[str, str]]]:
    """`(id, page images)` of every document, and `(id, sentence)` of those that cannot be read."""
    inputs = [argument_path(name) for name in args.inputs]
    if len(inputs) == 1 and inputs[0].suffix.lower() == ".jsonl":
        records = list(read_records(inputs[0], args.limit))
        pages = [[args.root / image for image in images_of(record)] for record in records]
        if args.shuffle_pages:
            if len(records) < 2:
                raise StageError("--shuffle-pages needs at least two documents")
            # A rotation: every document gets another one's pages, the same ones in every run.
            pages = pages[len(pages) // 2 :] + pages[: len(pages) // 2]
        return [(record["id"], images) for record, images in zip(records, pages, strict=True)], []
    if args.shuffle_pages:
        raise StageError("--shuffle-pages needs a JSONL")
    from toolkit.pdf_pages import UnreadableDocument, render_document

    documents, unreadable = [], []
    for number, source in enumerate(expand_inputs(inputs, [".pdf", *IMAGE_SUFFIXES])[: args.limit]):
        try:
            lines = render_document(str(source), str(scratch / str(number)), contract.image_max_tokens, "png", None)
            documents.append((source.name, [Path(line["image"]) for line in lines]))
        except UnreadableDocument as error:
            unreadable.append((source.name, str(error)))
        except OSError:
            raise
        except Exception as error:
            # Whatever a hostile file provokes in an engine is that file's failure, not the run's.
            unreadable.append((source.name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))
    names = Counter(identity for identity, _ in documents)
    if twice := [name for name, count in names.items() if count > 1]:
        raise StageError(
            f"several inputs are called {first_few(twice)}; a document's id is its file name, extract them into different --out files"
        )
    return documents, unreadable


def predicted(args: Any, contract: Contract, todo: list[tuple[str, list[Path]]], lines: list[dict[str, Any]]) -> Any:
    """Prediction lines as they are made."""
    yield from lines
    if not todo:
        return
    from toolkit.batches import open_page
    from toolkit.local_model import LocalModel, batches_of

    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    model = LocalModel(args.model, args.adapter, contract, grammar=not args.no_grammar)
    schema = contract.target
    validator = schema.validator()
    for batch in console.progress(list(batches_of(todo, args.batch_size)), what="batches"):
        opened = []
        for identity, pages in batch:
            try:
                opened.append((identity, [open_page(path) for path in pages]))
            except StageError as error:
                yield prediction_line(identity, "unreadable", None, None, error=str(error))
        if not opened:
            continue
        answers = model.answers([pages for _, pages in opened])
        for (identity, _), answer in zip(opened, answers, strict=True):
            status, prediction = judged(schema, validator, answer.raw, answer.finish_reason)
            yield prediction_line(
                identity,
                status,
                prediction,
                answer.raw,
                finish_reason=answer.finish_reason,
                usage=answer.usage,
                seconds=answer.seconds,
            )


if __name__ == "__main__":
    sys.exit(main())
