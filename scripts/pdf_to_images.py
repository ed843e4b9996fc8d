"""Render PDFs (and scans as TIFF, PNG, JPEG) to page images at an exact size in vision tokens.

Reads PDFs, images, folders or patterns. Writes <document>_page_0001.png ... and manifest.jsonl into --out-dir. With
--text-layer it also writes the PDF's own words and their boxes into data/ocr.

- A file that did not change is not rendered again.
- A file that cannot be read is reported and stops no other file (exit code 1). So is a page of which the two engines
  show different things, and a picture that decodes to more than --max-decoded-mb.
- The pages of a document appear together or not at all. Pages of the manifest are removed when their document was
  replaced or can no longer be rendered.
- --shard 2/4 renders the second of four shares. Each share has its own manifest, so each machine can take one.
- --ray spreads the documents over a Ray cluster.
- As the entry script of an Azure ML parallel job (init and run below) it renders the mini-batches that it is given.

    python scripts/pdf_to_images.py --in data/pdfs --out-dir data/images
    python scripts/pdf_to_images.py --in data/pdfs/*.pdf --image-max-tokens 2048 --format jpg --workers 4
    python scripts/pdf_to_images.py --in data/pdfs --shard 2/4
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from toolkit import console, options
from toolkit.console import ExitCode, say
from toolkit.files import (
    argument_path,
    is_machine_failure,
    name_problem,
    read_text,
    safe_name,
    sha256_of,
    shown,
    write_problems,
)
from toolkit.pages.batch_rendering import Rendered, Rendering, in_processes, on_cluster
from toolkit.pages.images import DEFAULT_MAX_TOKENS
from toolkit.pages.manifest import PageLine, PageManifest, move_pages
from toolkit.pages.pictures import DEFAULT_MAX_DECODED_MB
from toolkit.pages.rendering import SOURCE_SUFFIXES
from toolkit.pages.sources import document_sources

step: Any = None  # the arguments of an Azure ML parallel step, set by init()


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument(
        "--in",
        dest="inputs",
        nargs="+",
        required=True,
        metavar="PATH",
        help="PDFs, images, folders, patterns, or a .txt list of them, one a line",
    )
    parser.add_argument(
        "--out-dir", type=Path, default=Path("data/images"), help="folder of the page images (default: data/images)"
    )
    options.add_image_max_tokens(parser, DEFAULT_MAX_TOKENS, ", 32x32 px each")
    parser.add_argument("--format", choices=["png", "jpg"], default="png", help="image format (default: png)")
    parser.add_argument("--text-layer", action="store_true", help="also write the words of the PDF with their boxes")
    options.add_text_layer_dir(parser, "where", Path("data/ocr"))
    parser.add_argument(
        "--time-limit", type=float, default=120, help="seconds a document may take before it is given up (default: 120)"
    )
    options.add_max_decoded_mb(parser, DEFAULT_MAX_DECODED_MB)
    parser.add_argument(
        "--workers", type=int, default=0, help="processes; 0: one below 100 documents, else one a core (default: 0)"
    )
    parser.add_argument("--password-file", type=argument_path, help="passwords to try on protected PDFs, one a line")
    parser.add_argument("--shard", metavar="I/N", help="only the I-th of N shares, counted from 1")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="render on a Ray cluster (local: this machine); needs the package ray and paths that all machines share",
    )
    options.add_limit(parser)
    parser.add_argument("--overwrite", action="store_true", help="render again what is already there")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.image_max_tokens < 4:
        raise console.StageError("--image-max-tokens must be at least 4")
    if problem := name_problem(args.out_dir):
        raise console.StageError(f"--out-dir: {problem}")
    in_share, tag = share(args.shard)
    found = document_sources(with_lists(args.inputs), SOURCE_SUFFIXES)
    sources = [source for source in found.files[: args.limit] if in_share(source)]
    sources, problems = without_collisions(sources)
    problems += [{"source": shown(path), "problem": why} for path, why in found.problems.items() if in_share(path)]

    done: dict[str, list[PageLine]] = {}
    todo: list[Path] = []
    with PageManifest(args.out_dir, tag) as manifest:
        owners = {lines[0]["document"].casefold(): name for name, lines in manifest.documents.items()}
        for source in sources:
            name = shown(source)
            old = manifest.documents.get(name, [])
            owner = owners.get(safe_name(source.stem).casefold(), name)
            try:
                current = bool(old) and not args.overwrite and is_current(old, source, args)
            except OSError as error:  # a locked file, no permission: what was rendered of it stays
                problems.append({"source": name, "problem": f"it cannot be read ({error.strerror})"})
                continue
            if current:
                done[name] = old
            elif owner != name and Path(owner).is_file() and not args.overwrite:
                sentence = f"its page images would replace those of {owner}; rename one, or give --overwrite"
                problems.append({"source": name, "problem": sentence})
            else:
                todo.append(source)
        reused = len(done)
        for made in rendered(todo, args, tag or ".all"):
            name = shown(made.source)
            if made.problem:
                manifest.refuse(name)
                problems.append({"source": name, "problem": made.problem})
                continue
            owner = owners.get(made.lines[0]["document"].casefold(), name)
            if owner != name:
                manifest.refuse(owner)  # a document that is gone, or that --overwrite gives up
            lines = placed_lines(made.lines, args)
            try:
                manifest.place(name, lines, made.folder)
            except OSError as error:
                if is_machine_failure(error):
                    raise
                where = shown(error.filename2 or error.filename or args.out_dir)
                problems.append({"source": name, "problem": f"{where} cannot be replaced ({error.strerror})"})
                continue
            done[name] = lines
    order = {shown(source): number for number, source in enumerate(todo)}
    problems.sort(key=lambda problem: order.get(problem["source"], -1))

    pages = [line for lines in done.values() for line in lines]
    blank = [line["image"] for line in pages if line["blank"]]
    say(
        f"{len(done)} documents, {len(pages)} page images in {shown(args.out_dir)}"
        + (f" ({reused} documents unchanged)" if reused else "")
    )
    if blank:
        say(f"{len(blank)} blank pages: {console.first_few(blank)} (marked in {shown(manifest.path)})")
    if manifest.removed:
        say(f"{manifest.removed} files of replaced or refused documents removed")
    if problems:
        named = console.first_few(f"{p['source']}: {p['problem']}" for p in problems)
        say(f"{len(problems)} files could not be rendered: {named}")
    write_problems(args.out_dir / f"problems{tag}.jsonl", problems, say)
    code = ExitCode.PROBLEMS if problems else ExitCode.OK
    result = {
        "documents": len(done),
        "pages": len(pages),
        "unchanged": reused,
        "blank": len(blank),
        "removed": manifest.removed,
        "problems": len(problems),
        "manifest": shown(manifest.path),
    }
    return console.finish(args, result, code)


def with_lists(inputs: list[str]) -> list[str]:
    """The inputs with every .txt list in its place replaced by what it names."""
    found: list[str] = []
    for name in inputs:
        path = argument_path(name)
        if path.suffix.lower() == ".txt":
            lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
            if not lines:
                raise console.StageError(f"{shown(path)}: the list is empty")
            found += lines
        else:
            found.append(name)
    return found


def share(shard: str | None) -> tuple[Callable[[Path], bool], str]:
    """Whether a source lies in the I-th of N shares, and what the share's files carry in their names.

    A share holds whole names: two files whose images would collide meet in the same share, where that is reported.
    """
    if shard is None:
        return lambda _: True, ""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise console.StageError(f"--shard {shard!r}: give I/N with I from 1 to N, for example 2/4")
    index, count = int(match[1]), int(match[2])

    def in_share(source: Path) -> bool:
        name = safe_name(source.stem).casefold().encode()
        return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") % count == index - 1

    return in_share, f".shard-{index:04d}-of-{count:04d}"


def without_collisions(sources: list[Path]) -> tuple[list[Path], list[dict[str, Any]]]:
    """`(sources, problems)`: a file whose page images would have the names of an earlier file's becomes a problem.

    Names that differ only in case are the same, as on Windows and macOS.
    """
    owners: dict[str, Path] = {}
    problems = []
    for source in sources:
        name = safe_name(source.stem).casefold()
        if name in owners:
            sentence = f"its page images would overwrite those of {shown(owners[name])}; rename one"
            problems.append({"source": shown(source), "problem": sentence})
        else:
            owners[name] = source
    taken = {problem["source"] for problem in problems}
    return [source for source in sources if shown(source) not in taken], problems


def is_current(lines: list[PageLine], source: Path, args: Any) -> bool:
    """Whether these manifest lines are the whole document as this run would render it, with all files in place."""
    folder = args.out_dir.resolve()
    for line in lines:
        image = Path(line["image"])
        if line["image_max_tokens"] != args.image_max_tokens or image.suffix != "." + args.format:
            return False
        if not image.is_file() or image.parent.resolve() != folder:
            return False
    if args.text_layer and not (args.text_layer_dir / f"{lines[0]['document']}.json").is_file():
        return False
    return len(lines) == lines[0]["pages"] and lines[0]["source_sha256"] == sha256_of(source)


def placed_lines(lines: list[PageLine], args: Any) -> list[PageLine]:
    """Manifest lines with the places that their files get."""
    layer = shown(args.text_layer_dir / f"{lines[0]['document']}.json") if args.text_layer else None
    folder = Path(shown(args.out_dir))
    placed = [line.copy() for line in lines]
    for line in placed:
        line["image"] = (folder / Path(line["image"]).name).as_posix()
        line["text_layer"] = layer
    return placed


def init() -> None:
    """Azure ML parallel job, once a process: the step's program_arguments are this script's, but for --in."""
    global step
    step = build_parser().parse_known_args([*sys.argv[1:], "--in", "mini-batches"])[0]


def run(mini_batch: list[str]) -> list[str]:
    """Azure ML parallel job: one manifest line (JSON) a page, for the step's `append_row_to: manifest.jsonl`.

    A document that cannot be rendered gives none, so that the job's error threshold counts it. problems_<hash>.jsonl
    names it.
    """
    sources = [Path(name) for name in mini_batch]
    found: dict[Path, list[PageLine]] = {}
    for made in rendered(sources, step, ".step"):
        if made.problem:
            name = hashlib.sha256(os.fsencode(made.source)).hexdigest()[:16]
            problem = [{"source": shown(made.source), "problem": made.problem}]
            write_problems(step.out_dir / f"problems_{name}.jsonl", problem, say)
        else:
            found[made.source] = placed_lines(made.lines, step)
            move_pages(found[made.source], made.folder, step.out_dir)
    pages = [page for source in sources for page in found.get(source, [])]
    return [json.dumps(page, ensure_ascii=False, separators=(",", ":")) for page in pages]


def rendered(todo: list[Path], args: Any, run_name: str) -> Iterator[Rendered]:
    """Every document as it is finished, its files in a folder below --out-dir that is gone afterwards.

    `run_name` stands in that folder's name: what a killed run of the same name left is removed first.
    """
    prefix = f".rendering{run_name}-"
    if run_name != ".step" and args.out_dir.is_dir():  # mini-batches of one step run side by side
        for left in [entry.path for entry in os.scandir(args.out_dir) if entry.name.startswith(prefix)]:
            shutil.rmtree(left, ignore_errors=True)
    if not todo:
        return
    passwords = tuple(line for line in read_text(args.password_file).splitlines() if line) if args.password_file else ()
    how = Rendering(args.image_max_tokens, args.format, args.text_layer, passwords, args.max_decoded_mb)
    workers = args.workers or (1 if len(todo) < 100 else os.cpu_count() or 1)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    # On the file system of the images, so that moving them is renaming them.
    scratch = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=args.out_dir))
    try:
        results = (
            on_cluster(todo, scratch, how, address=args.ray, time_limit=args.time_limit)
            if args.ray
            else in_processes(todo, scratch, how, workers=workers, time_limit=args.time_limit)
        )
        for made in console.progress(results, total=len(todo), what="documents"):
            yield made
            shutil.rmtree(made.folder, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
