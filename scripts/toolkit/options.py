"""The flags that several scripts share, each declared once: the same name, type and meaning everywhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from toolkit.files import argument_path

PAGE_TOKENS = "vision tokens of a page at most"


def add_input(parser: argparse._ActionsContainer, what: str = "the JSONL") -> None:
    """`--in`, one file, as `args.input`."""
    parser.add_argument("--in", dest="input", type=argument_path, required=True, help=what)


def add_schema(parser: argparse._ActionsContainer, default: str = "the records' meta.schema") -> None:
    """`--schema`; `default` says in words which schema is taken without it."""
    parser.add_argument("--schema", type=argument_path, help=f"target schema (default: {default})")


def add_root(parser: argparse._ActionsContainer, default: str = "") -> None:
    """`--root`, the working directory unless given; `default` says so where the help should."""
    told = f" (default: {default})" if default else ""
    help_text = f"folder that image paths are relative to{told}"
    parser.add_argument("--root", type=argument_path, default=Path(), help=help_text)


def add_limit(parser: argparse._ActionsContainer, what: str = "documents") -> None:
    """`--limit N`: only the first N of `what`; None is all."""
    parser.add_argument("--limit", type=int, help=f"only the first N {what}")


def add_images_dir(parser: argparse._ActionsContainer, use: str) -> None:
    """`--images-dir`, repeatable, as a list; `use` says what the folders are searched for."""
    help_text = f"folder of page images, {use}"
    parser.add_argument("--images-dir", type=argument_path, action="append", default=[], help=help_text)


def add_image_max_tokens(parser: argparse._ActionsContainer, default: int | None, more: str = "") -> None:
    """`--image-max-tokens`: the budget of a page image in vision tokens of 32x32 px; `more` continues the help."""
    told = "" if default is None else f" (default: {default})"
    parser.add_argument("--image-max-tokens", type=int, default=default, help=f"{PAGE_TOKENS}{more}{told}")


def add_max_decoded_mb(parser: argparse._ActionsContainer, default: float) -> None:
    """`--max-decoded-mb`: the memory that one picture may take when it is decoded, in MB of 2**20 bytes."""
    parser.add_argument(
        "--max-decoded-mb",
        type=float,
        default=default,
        metavar="MB",
        help=f"refuse a picture that takes more memory when decoded (default: {default:g})",
    )


def add_text_layer_dir(parser: argparse._ActionsContainer, use: str, default: Path | None = None) -> None:
    """`--text-layer-dir`: the folder of the pages' words; `use` says what they are for."""
    told = "" if default is None else f" (default: {default.as_posix()})"
    parser.add_argument("--text-layer-dir", type=argument_path, default=default, help=f"{use}{told}")


def add_untrained(parser: argparse._ActionsContainer, page_tokens: int, answer_tokens: int) -> None:
    """`--schema`, `--image-max-tokens`, `--max-answer-tokens`: a base model without training, asked by a schema alone.

    The numbers are the defaults, for the help; what is not given is None.
    """
    help_text = "target schema for a base model without training, in place of a contract"
    parser.add_argument("--schema", type=argument_path, default=None, help=help_text)
    add_image_max_tokens(parser, None, f", with --schema (default: {page_tokens})")
    help_text = f"with --schema: tokens of an answer at most (default: {answer_tokens})"
    parser.add_argument("--max-answer-tokens", type=int, default=None, help=help_text)


def add_header_row(parser: argparse._ActionsContainer) -> None:
    """`--header-row`; see `label_table.HeaderRows`."""
    parser.add_argument(
        "--header-row",
        default="1",
        metavar="N",
        help="row of an Excel or CSV file that names the columns, below a title for example; 2-3 for two rows whose "
        "names belong together (default: 1)",
    )


def add_decimal(parser: argparse._ActionsContainer, choices: tuple[str, ...], texts: str, default: str) -> None:
    """`--decimal`: the decimal sign of `texts` where a field of the schema states none."""
    help_text = f"decimal sign of {texts} (default: {default})"
    parser.add_argument("--decimal", choices=choices, help=help_text)


# The two deployments of an endpoint: a new model goes to the one that has no traffic.
SLOTS = ("blue", "green")


def add_workspace(parser: argparse._ActionsContainer) -> None:
    """`--resource-group` and `--workspace` of Azure ML."""
    parser.add_argument("--resource-group", default="", help="(default: the Azure CLI's own)")
    parser.add_argument("--workspace", default="", help="(default: the Azure CLI's own)")
