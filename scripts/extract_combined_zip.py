"""Extract zips of page images and PDFs safely, each into its own folder.

Reads --zip FILE (repeat it for more; without it every data/*.zip). Writes data/raw/<zip stem>/... with safe names.
Only images and PDFs come out (--all for everything). Members are refused one by one, and reported, when their name
leaves the folder, or when they are a link, encrypted, damaged or a zip bomb. The other members, and the other zips,
still come out, and the exit code is 1. A second run changes nothing. Two zips of one name do not share a folder: the
second is a problem.

    python scripts/extract_combined_zip.py --zip data/combined.zip
    python scripts/extract_combined_zip.py --zip data/combined.zip --zip data/bls_another.zip
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, say
from toolkit.files import (
    argument_path,
    expand_inputs,
    json_line,
    open_to_append,
    read_jsonl,
    safe_name,
    shown,
    write_problems,
)
from toolkit.pages.rendering import SOURCE_SUFFIXES
from toolkit.pages.zips import (
    Allowance,
    UnreadableZip,
    copy_member,
    fitting,
    member_name,
    opened_zip,
    refused,
    same_content,
)

WANTED = set(SOURCE_SUFFIXES)
TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.part")  # as `atomic` names them
SYNCED_ALONE = 100  # members; more are written to the disk together, which a million files need
OWNERS = "zips.jsonl"  # in --out-dir: which zip each folder belongs to


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument(
        "--zip", action="append", default=[], metavar="FILE", help="a zip; repeat for more (default: every data/*.zip)"
    )
    parser.add_argument(
        "--out-dir", type=Path, default=Path("data/raw"), help="parent of the folders (default: data/raw)"
    )
    parser.add_argument("--all", action="store_true", help="extract every kind of file, not only images and PDFs")
    parser.add_argument("--max-total-gb", type=float, default=50, help="stop a zip that unpacks to more (default: 50)")
    parser.add_argument(
        "--max-ratio",
        type=float,
        default=200,
        help="refuse a member that unpacks to more times its packed size (default: 200)",
    )
    parser.add_argument(
        "--names-encoding",
        default="cp437",
        metavar="CODEC",
        help="of member names that are neither marked as UTF-8 nor are it, for example gbk or cp1252 (default: cp437)",
    )
    parser.add_argument("--overwrite", action="store_true", help="write members again that are already there")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        "".encode(args.names_encoding)
    except LookupError:
        raise StageError(f"--names-encoding {args.names_encoding!r}: Python knows no such codec") from None
    zips = [argument_path(name) for name in args.zip] or expand_inputs(["data/*.zip"], [".zip"])
    owners = read_owners(args.out_dir / OWNERS)
    told: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    total = dict.fromkeys(("members", "extracted", "unchanged", "other_files"), 0)
    for path in zips:
        folder = args.out_dir / safe_name(path.stem)
        owner = owners.get(folder.name.casefold())
        try:
            if owner and owner != shown(path) and (Path(owner).is_file() and not args.overwrite):
                raise UnreadableZip(f"its folder {shown(folder)} belongs to {owner}; rename one, or give --overwrite")
            done = extract(path, folder, args, replace=args.overwrite or owner is not None)
        except UnreadableZip as error:
            problems.append({"zip": shown(path), "member": None, "problem": str(error)})
            continue
        if owner != shown(path):
            owners[folder.name.casefold()] = shown(path)
            note_owner(args.out_dir / OWNERS, folder, path)
        problems += done.problems
        told.append({"folder": shown(folder)})
        for name in total:
            total[name] += getattr(done, name)
        other = f", {done.other_files} files of other kinds left inside" if done.other_files else ""
        came = f"{done.extracted} extracted, {done.unchanged} already there"
        say(f"{shown(path)}: {came}{other} -> {shown(folder)}")
    return tell(args, zips, [line["folder"] for line in told], total, problems)


def tell(args: Any, zips: list[Path], folders: list[str], total: dict[str, int], problems: list[dict[str, Any]]) -> int:
    """Say and file what did not come out, and end the script. Raises StageError where no zip could be opened."""
    whole = [f"{problem['zip']}: {problem['problem']}" for problem in problems if problem["member"] is None]
    members = [
        f"{problem['zip']}: {problem['member']!r} {problem['problem']}"
        for problem in problems
        if problem["member"] is not None
    ]
    write_problems(args.out_dir / "problems.jsonl", problems, say if folders else lambda _: None)
    if not folders:
        raise StageError(console.first_few(whole))
    if whole:
        say(f"{len(whole)} of {len(zips)} zips were not extracted: {console.first_few(whole)}")
    if members:
        say(f"{len(members)} members were not extracted: {console.first_few(members)}")
    result = {"zips": len(zips), **total, "unreadable_zips": len(whole), "problems": len(problems), "folders": folders}
    return console.finish(args, result, ExitCode.PROBLEMS if problems else ExitCode.OK)


def read_owners(path: Path) -> dict[str, str]:
    """`{folder's name in lower case: its zip}` of what was extracted before; the last line of a folder counts."""
    if not path.is_file():
        return {}
    lines = [value for _, value in read_jsonl(path)]
    if not all(isinstance(line, dict) and isinstance(line.get("folder"), str) for line in lines):
        raise StageError(f"{shown(path)} does not say which zip each folder belongs to; remove it and run again")
    return {line["folder"]: str(line.get("zip")) for line in lines}


def note_owner(path: Path, folder: Path, owner: Path) -> None:
    with open_to_append(path) as file:
        file.write(json_line({"folder": folder.name.casefold(), "zip": shown(owner)}))


@dataclass
class Extracted:
    """What became of the members of one zip: each is counted in one of these, or is a problem."""

    allowance: Allowance
    sync_each: bool = True
    members: int = 0
    extracted: int = 0
    unchanged: int = 0
    other_files: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)


def extract(path: Path, folder: Path, args: Any, *, replace: bool) -> Extracted:
    """Extract one zip; with `replace` also over files of another content. Raises UnreadableZip."""
    file, archive = opened_zip(path)
    remove_cut_off(folder)
    allowance = Allowance(path.stat().st_size, args.max_total_gb * 2**30, args.max_ratio)
    done = Extracted(allowance, sync_each=len(archive.filelist) <= SYNCED_ALONE)
    taken: dict[str, str] = {}
    try:
        with file, archive:
            for member in archive.infolist():
                if member.filename.endswith(("/", "\\")) and not member.file_size:
                    continue  # a folder
                done.members += 1
                called, problem = member.filename, ""
                try:
                    called = member_name(member, args.names_encoding)
                except UnicodeDecodeError:
                    problem = f"its name is not {args.names_encoding} (--names-encoding)"
                problem = problem or take(archive, member, called, folder, args, done, taken, replace=replace)
                if problem:
                    done.problems.append({"zip": shown(path), "member": called, "problem": problem})
    except KeyboardInterrupt:
        remove_cut_off(folder)
        raise
    if done.extracted and not done.sync_each and hasattr(os, "sync"):
        os.sync()
    return done


def remove_cut_off(folder: Path) -> None:
    """Remove the temporary files that a killed run left in a zip's folder."""
    for root, _, names in os.walk(folder):
        for name in names:
            if TEMPORARY.fullmatch(name):
                Path(root, name).unlink(missing_ok=True)


def take(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    called: str,
    folder: Path,
    args: Any,
    done: Extracted,
    taken: dict[str, str],
    *,
    replace: bool,
) -> str:
    """Extract one member and count it; a sentence part where it does not come out. `taken`: places, and whose."""
    name = called.replace("\\", "/")
    suffix = Path(name).suffix.lower()
    if problem := refused(member, name):
        return problem
    if not args.all and suffix not in WANTED:
        if suffix == ".zip":
            return "is a zip inside the zip; extract it by itself"
        done.other_files += 1
        return ""
    target = folder / fitting([safe_name(part) for part in name.split("/") if part not in ("", ".")] or ["_"])
    identity = unicodedata.normalize("NFC", target.as_posix()).casefold()
    if identity in taken:
        return f"has the same name as {taken[identity]!r} on Windows or macOS"
    if problem := done.allowance.refusal(member):
        return problem
    taken[identity] = called
    if target.is_file():
        if not args.overwrite and same_content(target, member):
            done.unchanged += 1
            done.allowance.take(member)
            return ""
        if not replace:
            return "is there already with other content, of an unknown origin; move that file, or give --overwrite"
    if problem := copy_member(archive, member, target, sync=done.sync_each):
        return problem
    done.extracted += 1
    done.allowance.take(member)
    return ""


if __name__ == "__main__":
    sys.exit(main())
