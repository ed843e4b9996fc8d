"""Offline batch on one machine or many: Ray Data hands out the documents, each GPU runs vLLM's engine on its share.

Ray Data's map over actors is used rather than `ray.data.llm`, whose rows carry no finish reason (2.60): a truncated
answer must be known as one. Pages are rendered by Ray tasks on any CPU of the cluster.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.answers.answer import Answer, Usage
from toolkit.answers.predictions import PredictionLine, prediction_line
from toolkit.answers.row_shards import Shard
from toolkit.answers.token_confidence import text_tokens
from toolkit.console import say
from toolkit.extraction.documents import Document, PageRenderer, Unreadable
from toolkit.files import SCRIPTS, name_problem
from toolkit.model.contract import Contract
from toolkit.pages.evidence import DocumentWords
from toolkit.pages.ray_cluster import join_cluster
from toolkit.serving.vllm_plan import Plan, plan_serving

SERVER_ONLY = (
    "--served-model-name",
    "--host",
    "--port",
    "--allowed-media-domains",  # the engine gets only the pages that were rendered here
    "--enable-prompt-tokens-details",
    "--no-enable-log-requests",
    "--disable-access-log-for-endpoints",
)


@dataclass(frozen=True)
class RaySettings:
    """How a batch runs.

    address: the cluster's, or "local". model: a merged model's folder. actors: engines; None is one a GPU.
    batch_size: documents decoded together. window: pages of a request; None is the contract's.
    tries: answers to ask for while they are invalid. render_timeout: seconds for one document.
    """

    address: str
    model: Path
    actors: int | None
    batch_size: int
    window: int | None
    tries: int
    render_timeout: float


def engine_options(plan: Plan) -> dict[str, Any]:
    """The plan's settings as arguments of vLLM's engine; what belongs to the HTTP server only is left out."""
    options: dict[str, Any] = {}
    for setting in plan.settings:
        if not setting.flag.startswith("--") or setting.flag in SERVER_ONLY:
            continue
        name = setting.flag.removeprefix("--").replace("-", "_")
        if setting.value is None:
            options[name] = True
            continue
        text = str(setting.value)
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


class VllmEngine:
    """vLLM's engine in this process; answers like a LocalModel, its documents being lists of data URLs."""

    def __init__(self, model: str, contract: Contract, plan: Plan) -> None:
        os.environ.update(plan.environment)
        from vllm import LLM

        self.contract, self.plan = contract, contract.answer_plan
        self.engine = LLM(model=model, disable_log_stats=True, **engine_options(plan))

    def answers(
        self, documents: list[list[str]], shards: list[Shard], *, temperature: float = 0.0, seed: int = 0
    ) -> list[Answer]:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        from toolkit.extraction.chat_request import request_body

        sampling = [
            SamplingParams(
                temperature=temperature,
                seed=seed,
                max_tokens=self.contract.max_answer_tokens,
                logprobs=0,
                structured_outputs=StructuredOutputsParams(json=self.plan.wire_of(shard).grammar()),
            )
            for shard in shards
        ]
        tokenizer = self.engine.get_tokenizer()
        messages = [
            request_body(self.contract, "", urls, shard)["messages"]
            for urls, shard in zip(documents, shards, strict=True)
        ]
        outputs = self.engine.chat(messages, sampling, use_tqdm=False)
        answers = []
        for output in outputs:
            best = output.outputs[0]
            usage: Usage = {"prompt_tokens": len(output.prompt_token_ids), "completion_tokens": len(best.token_ids)}
            chosen = [step[token].logprob for step, token in zip(best.logprobs, best.token_ids, strict=True)]
            pieces = zip(tokenizer.batch_decode([[token] for token in best.token_ids]), chosen, strict=True)
            answers.append(Answer(best.text, str(best.finish_reason), usage, tokens=text_tokens(pieces, best.text)))
        return answers


class Extractor:
    """One actor: a batch of rendered documents in, their prediction lines out."""

    def __init__(self, model: str, contract: Contract, plan: Plan, window: int, tries: int, batch_size: int) -> None:
        from toolkit.extraction.local_model import BatchingAsker
        from toolkit.extraction.run import Judge

        self.judge, self.window, self.tries = Judge(contract.answer_plan, contract.confidence), window, tries
        self.ask = BatchingAsker(VllmEngine(model, contract, plan), batch_size, prepare=lambda url: url)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        from toolkit.extraction.run import prediction_of

        async def all_of_them() -> list[PredictionLine]:
            async def one(identity: str, urls: list[str], error: str, layer: Any) -> PredictionLine:
                if error:
                    return prediction_line(identity, "unreadable", None, None, error=error)
                words = DocumentWords(layer) if layer else None
                return await prediction_of(
                    self.judge, self.ask, Document(identity), urls, window=self.window, tries=self.tries, words=words
                )

            rows = zip(batch["identity"], batch["urls"], batch["error"], batch["layer"], strict=True)
            return await asyncio.gather(*(one(str(i), json.loads(u), str(e), json.loads(w)) for i, u, e, w in rows))

        return {"line": [json.dumps(line) for line in asyncio.run(all_of_them())]}


class Renderer:
    """One actor: a document in, its pages as data URLs out; rendering has a process of its own and a time limit."""

    def __init__(self, image_max_tokens: int, time_limit: float) -> None:
        # Ends with the actor: Ray stops actors without closing anything.
        self.renderer = PageRenderer(image_max_tokens, workers=1, time_limit=time_limit).__enter__()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from toolkit.extraction.chat_request import page_url
        from toolkit.pages.opening import UnreadablePage

        source = Path(row["source"]) if row["source"] else None
        layer = Path(row["text_layer"]) if row["text_layer"] else None
        document = Document(row["identity"], tuple(Path(page) for page in row["pages"]), source, layer)
        pages: list[Path] = []
        urls: list[str] = []
        error, words = "", None
        try:
            pages = self.renderer.pages_of(document).result()
            urls = [page_url(page) for page in pages]
            words = self.renderer.layer_of(document, pages)
        except (Unreadable, UnreadablePage) as problem:
            error = str(problem)
        self.renderer.release(document, pages)
        return {"identity": row["identity"], "urls": json.dumps(urls), "error": error, "layer": json.dumps(words)}


def extracted_with_ray(
    settings: RaySettings, contract: Contract, documents: list[Document]
) -> Iterator[PredictionLine]:
    """Prediction lines of `documents`, in the order in which actors finish. Paths must be the same on every machine."""
    todo = []
    for document in documents:
        if document.source is not None and (problem := name_problem(document.source)):
            yield prediction_line(document.identity, "unreadable", None, None, error=problem)
        else:
            todo.append(document)
    if not todo:
        return
    import ray

    model = settings.model.resolve()
    plan = engine_plan(model, contract, settings.window)
    # Workers find the toolkit as this process does.
    variables = {"PYTHONPATH": str(SCRIPTS), "OMP_WAIT_POLICY": "PASSIVE", **plan.environment}
    join_cluster(settings.address, {"env_vars": variables})
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        actors = max(1, gpus) if settings.actors is None else settings.actors
        machines = f"{len(ray.nodes())} machines, {gpus} GPUs"
        say(f"Ray: {machines}, {actors} engines, {int(resources['CPU'])} CPUs")
        window = settings.window or contract.max_pages
        engine = (str(model), contract, plan, window, settings.tries, settings.batch_size)
        dataset = ray.data.from_items(
            [row_of(document) for document in todo], override_num_blocks=max(1, min(len(todo), 4 * actors))
        )
        dataset = dataset.map(
            Renderer,
            fn_constructor_args=(contract.image_max_tokens, settings.render_timeout),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, len(todo) // 50)),
            num_cpus=0.5,
        )
        dataset = dataset.map_batches(
            Extractor,
            batch_size=max(1, min(settings.batch_size, -(-len(todo) // actors))),
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_gpus=1 if gpus else 0,
            num_cpus=1,
            fn_constructor_args=engine,
        )
        for row in dataset.iter_rows():
            yield json.loads(row["line"])
    finally:
        ray.shutdown()


def engine_plan(model: Path, contract: Contract, window: int | None) -> Plan:
    """The plan for one engine on this kind of machine. Raises StageError for a folder that is no model."""
    import torch

    from toolkit.model.folder import check_model_folder
    from toolkit.model.gpus import installed_driver, known_gpu

    config = check_model_folder(model, contract=False)
    driver = installed_driver() if torch.version.cuda else None
    return plan_serving(
        model,
        config,
        contract,
        profile="throughput",
        gpu=known_gpu(driver) if driver else None,
        adapters={},
        served_name=model.name,
        host="",
        port=0,
        max_pages=window,
    )


def row_of(document: Document) -> dict[str, Any]:
    """A document as a row of Ray's data set: its absolute paths as texts."""
    return {
        "identity": document.identity,
        "source": str(document.source.resolve()) if document.source else "",
        "pages": [str(page.resolve()) for page in document.pages],
        "text_layer": str(document.text_layer.resolve()) if document.text_layer else "",
    }
