"""Serve documents: a PDF or page images in, strict JSON with confidence out, over HTTP, in front of a vLLM.

Start the model first (serve_vllm.py, same machine or container), then this. POST /v1/extract takes a PDF, PNG, JPEG or
TIFF as body, or a form with page images in order. /v1/chat/completions and /v1/models are passed on. Pages are rendered
at the contract's size, the wire form is expanded, shards are fanned out, the answer is validated. Clients bring the key
in EXTRACTION_API_KEY (or in the file that EXTRACTION_API_KEY_FILE names) as a bearer token. Also: /health/live,
/health/ready, /ping (204 until it is ready); with the key, /metrics (Prometheus) and /openapi.json. /docs is there only
without a key. Its log has a line a request with times and status, nothing of any document.

    python scripts/serve_gateway.py --server http://127.0.0.1:8000/v1 --contract outputs/bl-8b-merged
    python scripts/serve_gateway.py --server http://127.0.0.1:8000/v1 --contract outputs/bl-8b-merged --max-pages 20
    python scripts/serve_gateway.py --server http://127.0.0.1:8000/v1 --schema schemas/invoice.schema.json
"""

from __future__ import annotations

import os
import sys

from toolkit import console, options
from toolkit.console import StageError, say
from toolkit.files import argument_path
from toolkit.model.contract import UNTRAINED_ANSWER_TOKENS, Untrained, chosen_contract
from toolkit.pages.images import DEFAULT_MAX_TOKENS
from toolkit.serving.settings import Limits, Settings
from toolkit.serving.vllm_plan import check_port

CLIENT_KEY_VARIABLE = "EXTRACTION_API_KEY"
CLIENT_KEY_FILE = "EXTRACTION_API_KEY_FILE"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument(
        "--server",
        required=True,
        metavar="URL",
        help="the vLLM behind it, up to /v1; its key is read from VLLM_API_KEY",
    )
    parser.add_argument("--contract", type=argument_path, default=None, help="the model folder that the server serves")
    options.add_untrained(parser, DEFAULT_MAX_TOKENS, UNTRAINED_ANSWER_TOKENS)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: only this machine)")
    parser.add_argument("--port", type=int, default=8080, help="port (default: 8080)")
    parser.add_argument("--max-bytes", type=int, default=32 * 2**20, help="of a request (default: 32 MiB)")
    parser.add_argument("--max-pages", type=int, default=50, help="of a document (default: 50)")
    parser.add_argument("--max-seconds", type=float, default=60, help="of a request, upload included (default: 60)")
    parser.add_argument("--concurrency", type=int, default=16, help="documents at the same time (default: 16)")
    parser.add_argument("--queue", type=int, default=64, help="documents that may wait; more get 429 (default: 64)")
    parser.add_argument("--workers", type=int, default=2, help="processes that render (default: 2)")
    parser.add_argument("--render-timeout", type=float, default=30, help="seconds to render one file (default: 30)")
    parser.add_argument(
        "--ready-file",
        type=argument_path,
        default=None,
        help="not ready while this file is missing (serve_container.py)",
    )
    parser.add_argument(
        "--metrics-port", type=int, default=None, help="serve /metrics at this port too, without a key (default: not)"
    )
    parser.add_argument("--no-key", action="store_true", help="let anybody in although --host is not this machine only")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    limits = Limits(args.max_bytes, args.max_pages, args.max_pages, args.max_seconds, args.concurrency, args.queue)
    settings = Settings(
        args.server.rstrip("/"),
        key=None if args.no_key else client_key(),
        server_key=os.environ.get("VLLM_API_KEY") or None,
        render_timeout=args.render_timeout,
        workers=args.workers,
        ready_file=args.ready_file,
    )
    if settings.key is None and args.host not in LOOPBACK and not args.no_key:
        raise StageError(f"--host {args.host} lets others in; set {CLIENT_KEY_VARIABLE}, or say --no-key")
    settings_of_base = Untrained(args.schema, args.image_max_tokens, args.max_answer_tokens)
    contract = chosen_contract(args.contract, settings_of_base)
    check_port(args.host, args.port)
    from toolkit.serving.connections import Connections, server_of
    from toolkit.serving.gateway import Gateway

    gateway = Gateway(contract, settings, limits)
    if args.metrics_port is not None:
        check_port(args.host, args.metrics_port)
        gateway.metrics_of_requests.serve(args.host, args.metrics_port)
    app = gateway.application()
    key = f"key from {CLIENT_KEY_VARIABLE}" if settings.key else "key none"
    url = f"http://{args.host}:{args.port}/v1/extract"
    say(f"{url} for {contract.target.title}, in front of {args.server}; {key}")
    connections = Connections(stalled_seconds=args.max_seconds)
    server_of(app, args.host, args.port, connections, shutdown_seconds=args.max_seconds).run()
    return 0


def client_key() -> str | None:
    """The key that clients must bring, from the environment or from a file. Raises StageError for an empty file."""
    if key := os.environ.get(CLIENT_KEY_VARIABLE):
        return key
    file = os.environ.get(CLIENT_KEY_FILE)
    if not file:
        return None
    key = argument_path(file).read_text(encoding="utf-8").strip()
    if not key:
        raise StageError(f"{CLIENT_KEY_FILE}: {file} is empty; put the key into it")
    return key


if __name__ == "__main__":
    sys.exit(main())
