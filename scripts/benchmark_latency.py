"""Measure the latency of an OpenAI-compatible endpoint on your documents: this project's server or another API.

Documents (a JSONL, PDFs, images, folders) are requested as extract_documents.py requests them, shards included. Each is
timed from its page images to its judged answer. Quantiles have 95 % intervals. The first document of all is the cold
one and is listed apart.

--concurrency N keeps N documents in flight. --rate R lets R a second arrive at random (open loop), which shows whether
a server falls behind. Both can be repeated. --as-gold makes a vLLM write the labels' own answers. With --wire and
--rows-per-shard it writes them in another form than the contract's: what an answer would cost, before a model is
trained to give it. --slo p95=1.0s@rows<=50 sets the exit code: 1 where it is missed or a document has no answer.
Writes --out (JSON, also for estimate_latency.py --calibrate) and --report (HTML with plots). --against compares with an
earlier --out.

    python scripts/benchmark_latency.py --server http://127.0.0.1:8000/v1 --contract outputs/bl-8b-merged \\
        --in data/splits/test.jsonl --out data/latency/bl-8b.json
    python scripts/benchmark_latency.py --server http://127.0.0.1:8000/v1 --contract outputs/bl-8b-merged \\
        --in data/pdfs --concurrency 1 --rate 4 --slo "p95=1.0s@rows<=50" --out data/latency/bl-8b.json \\
        --report data/latency/bl-8b.html
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.answers.wire_format import WIRES
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.extraction.documents import PageRenderer, Unreadable, documents_of_files, documents_of_jsonl
from toolkit.files import argument_path, read_json, shown, write_json
from toolkit.latency.measured import Load, Objective, measured, run_load, server_figures, spread, summary
from toolkit.model.contract import load_contract
from toolkit.model.token_counts import vision_tokens
from toolkit.options import add_limit, add_root
from toolkit.records.record import gold_of, read_records
from toolkit.reports.latency_page import write_latency_page

FORMAT_VERSION = 1


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--server", required=True, metavar="URL", help="an OpenAI-compatible endpoint, up to /v1")
    parser.add_argument(
        "--contract",
        type=argument_path,
        required=True,
        help="model or adapter folder whose contract the requests follow",
    )
    parser.add_argument("--served-model", default=None, help="model name at the server (default: its first)")
    parser.add_argument(
        "--in",
        dest="inputs",
        nargs="+",
        required=True,
        metavar="PATH",
        help="one JSONL; or PDFs, images, folders, patterns",
    )
    add_root(parser)
    add_limit(parser)
    parser.add_argument(
        "--concurrency",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="documents at a time; repeat (default: 1)",
    )
    parser.add_argument(
        "--rate",
        type=float,
        action="append",
        default=[],
        metavar="R",
        help="documents a second, at random times; repeat",
    )
    parser.add_argument(
        "--requests",
        type=int,
        default=None,
        metavar="N",
        help="documents of each run, taken round (default: each once)",
    )
    parser.add_argument(
        "--window", type=int, default=None, help="pages of a request (default: the longest training document)"
    )
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one answer (default: 120)")
    parser.add_argument(
        "--no-stream",
        action="store_true",
        help="plain answers: no time to the first token, for endpoints that cannot stream",
    )
    parser.add_argument(
        "--as-gold",
        action="store_true",
        help="vLLM and a JSONL with answers: the grammar allows the gold answer only, whatever the model would say",
    )
    parser.add_argument(
        "--wire", choices=WIRES, default=None, help="with --as-gold: form of the answer (default: the contract's)"
    )
    parser.add_argument(
        "--rows-per-shard",
        type=int,
        default=None,
        metavar="ROWS",
        help="with --as-gold: rows of a shard, 0: whole answers (default: the contract's)",
    )
    parser.add_argument(
        "--fields-per-shard",
        type=int,
        default=None,
        metavar="FIELDS",
        help="with --as-gold: header fields of a shard (default: the contract's)",
    )
    parser.add_argument(
        "--slo",
        action="append",
        default=[],
        metavar="SLO",
        help="p50, p90, p95 or p99=SECONDS, for example p95=1.0s@rows<=50; repeat",
    )
    parser.add_argument("--seed", type=int, default=0, help="of arrival times (default: 0)")
    parser.add_argument("--name", default=None, help="what this run is called in tables (default: the server's model)")
    parser.add_argument("--out", type=argument_path, required=True, help="JSON to write")
    parser.add_argument("--report", type=argument_path, default=None, help="HTML to write")
    parser.add_argument(
        "--against", type=argument_path, default=None, metavar="FILE", help="an earlier --out to compare with"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    loads = [Load(concurrency=n) for n in args.concurrency] + [Load(rate=r) for r in args.rate] or [Load(concurrency=1)]
    if any((load.concurrency or 1) < 1 or (load.rate or 1) <= 0 for load in loads) or (args.requests or 1) < 1:
        raise StageError("--concurrency and --requests take whole numbers from 1 on, --rate a number over 0")
    objectives = [Objective.parse(text) for text in args.slo]
    if args.out.exists() and not args.overwrite:
        raise StageError(f"{shown(args.out)} is there already; choose another --out, or --overwrite")
    earlier = read_benchmark(args.against) if args.against else None
    contract = load_contract(args.contract)
    names = ("wire", "rows_per_shard", "fields_per_shard")
    forms = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if forms and not args.as_gold:
        reason = "a model answers in the form it was trained in"
        raise StageError(f"--wire, --rows-per-shard and --fields-per-shard go with --as-gold: {reason}")
    if forms:
        contract = dataclasses.replace(contract, **forms, max_shards=max(contract.max_shards, 64))
    result = asyncio.run(benchmark(args, contract, loads))
    result["slo"] = [
        {"load": run["load"], **objective.verdict(run["documents"])}
        for run in result["runs"]
        for objective in objectives
    ]
    tell(result, earlier)
    write_json(args.out, result)
    say(f"-> {shown(args.out)}")
    if args.report:
        write_latency_page(args.report, result, earlier)
        say(f"-> {shown(args.report)}")
    errors = sum(sum(run["errors"].values()) for run in result["runs"])
    missed = [line for line in result["slo"] if not line["met"]]
    small = {key: value for key, value in result.items() if key != "runs"}
    small["runs"] = [{key: value for key, value in run.items() if key != "documents"} for run in result["runs"]]
    return console.finish(
        args, small | {"out": shown(args.out)}, ExitCode.PROBLEMS if errors or missed else ExitCode.OK
    )


def read_benchmark(path: Path) -> dict[str, Any]:
    """The result in a file that this script wrote. Raises StageError for another file."""
    value = read_json(path)
    if not isinstance(value, dict) or value.get("benchmark_latency") != FORMAT_VERSION:
        raise StageError(f"{shown(path)}: not a file that this version of benchmark_latency.py wrote")
    return value


async def benchmark(args: Any, contract: Any, loads: list[Load]) -> dict[str, Any]:
    """Render the documents, then measure each load in turn. A request is sent once, so that an error is counted."""
    import httpx

    from toolkit.extraction.chat_request import API_KEY_VARIABLE
    from toolkit.extraction.run import Judge
    from toolkit.extraction.server_client import ServerModel

    judge = Judge(contract.answer_plan)
    inputs = [argument_path(name) for name in args.inputs]
    jsonl = len(inputs) == 1 and inputs[0].suffix.lower() == ".jsonl"
    documents = (
        documents_of_jsonl(inputs[0], args.root, limit=args.limit, shuffle_pages=False)
        if jsonl
        else documents_of_files(inputs, limit=args.limit)
    )
    if args.as_gold and not jsonl:
        raise StageError("--as-gold needs a JSONL with answers")
    gold = {record["id"]: gold_of(record) for record in read_records(inputs[0], args.limit)} if args.as_gold else {}
    most = max(load.concurrency or 64 for load in loads)
    key = os.environ.get(API_KEY_VARIABLE)
    with PageRenderer(contract.image_max_tokens, workers=1) as renderer:
        async with ServerModel(
            args.server,
            contract,
            model=args.served_model,
            key=key,
            concurrency=most,
            timeout=args.timeout,
            attempts=1,
            patience=1,
            confidence=False,
            stream=not args.no_stream,
            say=say,
        ) as server:
            ready, render, unreadable = rendered(renderer, documents)
            if not ready:
                raise StageError(f"no document could be read: {first_few(unreadable)}")

            async def ask(document: Any, pages: list[Path], vision: int) -> dict[str, Any]:
                return await measured(
                    server,
                    judge,
                    document,
                    pages,
                    window=args.window or contract.max_pages,
                    vision_tokens=vision,
                    gold=gold.get(document.identity),
                )

            metrics = f"{args.server.rstrip('/').removesuffix('/v1')}/metrics"

            async def reading() -> str:
                try:
                    async with httpx.AsyncClient() as client:
                        answer = await client.get(metrics, timeout=10)
                    return answer.text if answer.status_code == 200 else ""
                except httpx.TransportError:
                    return ""

            first = await ask(*ready[0]) | {"cold": True}
            runs = []
            for load in loads:
                say(f"{load.name}: {args.requests or len(ready)} documents")
                before = await reading()
                began = time.monotonic()
                done = await run_load(load, ready, args.requests or len(ready), ask, seed=args.seed)
                seconds = time.monotonic() - began
                figures = server_figures(before, await reading())
                for line in (first, *done):
                    line.pop("prediction", None)
                runs.append(
                    summary(load, [first, *done], seconds, figures)
                    | {"documents": [rounded(line) for line in (first, *done)]}
                )
            name = args.name or str(server.model)
    return {
        "benchmark_latency": FORMAT_VERSION,
        "name": name,
        "server": args.server,
        "model": server.model,
        "wire": contract.wire,
        "rows_per_shard": contract.rows_per_shard,
        "fields_per_shard": contract.fields_per_shard,
        "image_max_tokens": contract.image_max_tokens,
        "as_gold": args.as_gold,
        "render": render,
        "unreadable": unreadable,
        "runs": runs,
    }


def rendered(renderer: PageRenderer, documents: list[Any]) -> tuple[list[Any], dict[str, Any], list[str]]:
    """`(document, pages, vision tokens)` of each readable document, the rendering times, and what could not be read.

    Documents are rendered one after the other; the times (seconds, as quantiles) are empty where none was rendered.
    """
    ready, seconds, unreadable = [], [], []
    for document in console.progress(documents, total=len(documents), what="documents"):
        began = time.monotonic()
        try:
            pages = renderer.pages_of(document).result()
        except Unreadable as error:
            unreadable.append(f"{document.identity}: {error}")
            continue
        if document.source is not None:
            seconds.append(time.monotonic() - began)
        try:
            ready.append((document, pages, sum(vision_tokens(page, renderer.image_max_tokens) for page in pages)))
        except OSError as error:
            unreadable.append(f"{document.identity}: {error}")
    if unreadable:
        say(f"{len(unreadable)} documents cannot be read and are left out: {first_few(unreadable)}")
    return ready, spread(seconds), unreadable


def rounded(line: dict[str, Any]) -> dict[str, Any]:
    """A document's line with its figures to 5 decimals."""
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in line.items()}


def tell(result: dict[str, Any], earlier: dict[str, Any] | None) -> None:
    """Print each run, its row buckets, the server's own times, the objectives, and the comparison."""
    shards, render = result["rows_per_shard"], result["render"]
    form = f"{result['wire']}, " + (f"shards of {shards} rows" if shards else "whole answers")
    say(f"{result['name']} at {result['server']}: {form}; seconds with 95 % intervals")
    if render:
        took = f"p50 {render['p50']:.3f}, p95 {render['p95']:.3f}"
        say(f"  rendering a document takes {took} (not in the figures below)")
    for run in result["runs"]:
        if not run["seconds"]:
            say(f"  {run['load']}: no document has an answer ({run['errors']})")
            continue
        quantiles = [(q, run["seconds"][q], *run["seconds"][f"{q}_interval"]) for q in ("p50", "p90", "p95", "p99")]
        figures = "  ".join(f"{q} {value:.3f} [{low:.3f}, {high:.3f}]" for q, value, low, high in quantiles)
        say(f"  {run['load']:14s} {figures}")
        more = [f"{run['documents_per_second']:.2f} documents/s", f"{run['tokens_per_second']:.0f} tokens/s"]
        if run["cold"]:
            more.append(f"the first of all {run['cold'][0]:.3f} s")
        if run["first_token"]:
            more.append(f"first token p50 {run['first_token']['p50']:.3f}")
        if run["per_token"]:
            more.append(f"{1000 * run['per_token']['p50']:.1f} ms a token")
        more.append(f"{run['cached_share']:.0%} of the prompt from the cache")
        say(f"    {', '.join(more)}" + (f"; without an answer: {run['errors']}" if run["errors"] else ""))
        rows = (f"{name}: p50 {v['p50']:.3f}, p95 {v['p95']:.3f} ({v['n']})" for name, v in run["rows"].items())
        say(f"    by rows: {', '.join(rows)}")
        if run["server"]:
            own = run["server"]
            means = ", ".join(f"{part} {own[part]:.3f}" for part in ("queue", "prefill", "decode"))
            say(f"    the server's own means of {own['requests']} requests: {means}")
    for run, other in paired(result, earlier):
        now, then = run["seconds"], other["seconds"]
        medians = f"p50 {now['p50']:.3f} for {then['p50']:.3f} ({now['p50'] / then['p50']:.2f} x)"
        tails = f"p95 {now['p95']:.3f} for {then['p95']:.3f}"
        say(f"  against {earlier['name'] if earlier else ''}, {run['load']}: {medians}, {tails}")
    for line in result["slo"]:
        seconds = "no answer" if line["seconds"] is None else f"{line['seconds']:.3f} s"
        verdict = "met" if line["met"] else "MISSED"
        say(f"  {line['slo']} at {line['load']}: {verdict}, {seconds} over {line['documents']} documents")


def paired(result: dict[str, Any], earlier: dict[str, Any] | None) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Runs of the same load in both files that have answers."""
    others = {run["load"]: run for run in (earlier or {}).get("runs", [])}
    return [
        (run, others[run["load"]])
        for run in result["runs"]
        if run["load"] in others and run["seconds"] and others[run["load"]]["seconds"]
    ]


if __name__ == "__main__":
    sys.exit(main())
