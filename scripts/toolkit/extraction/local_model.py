"""Answers from a model on this machine: transformers' greedy generate under the same grammar as the server (xgrammar)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from toolkit.answers.answer import Answer, Hearing
from toolkit.answers.row_shards import Shard
from toolkit.answers.token_confidence import text_tokens
from toolkit.model.contract import Contract
from toolkit.model.encoding import collate, encode_prompt, open_page
from toolkit.schema.target import compact_json


class LocalModel:
    """A base model, or a base model with an adapter, that answers as its contract says; `loaded` is one already in memory, `autocast`
    computes in bfloat16 as training does."""

    def __init__(
        self,
        model: str,
        adapter: Path | None,
        contract: Contract,
        *,
        grammar: bool = True,
        loaded: Any = None,
        autocast: bool = False,
    ) -> None:
        from toolkit.model.loading import load_adapter, load_config, load_model, load_processor

        self.contract = contract
        self.config = load_config(model)
        self.processor = load_processor(str(adapter) if adapter else model, contract.image_max_tokens)
        self.processor.tokenizer.padding_side = "left"
        self.model = load_model(model) if loaded is None else loaded
        if adapter:
            self.model = load_adapter(self.model, adapter)
        self.autocast = autocast
        self.plan = contract.answer_plan
        self.model.eval()
        self.end_id = self.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self._compiler: Any = self._grammar_compiler() if grammar else None
        self._grammars: dict[int, Any] = {}

    def _grammar_compiler(self) -> Any:
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(
            self.processor.tokenizer, vocab_size=self.config.text_config.vocab_size, stop_token_ids=[self.end_id]
        )
        return xgrammar.GrammarCompiler(info)

    def _grammar(self, shard: Shard) -> Any:
        wire = self.plan.wire_of(shard)
        if id(wire) not in self._grammars:
            # The same form that the server compiles with its white-space switch: separators without spaces, keys in order.
            self._grammars[id(wire)] = self._compiler.compile_json_schema(
                compact_json(wire.grammar()), any_whitespace=False, separators=(",", ":"), strict_mode=True
            )
        return self._grammars[id(wire)]

    def answers(
        self, documents: list[list[Any]], shards: list[Shard] | None = None, *, temperature: float = 0.0, seed: int = 0
    ) -> list[Answer]:
        """One answer per document, decoded in one batch; a document is the list of its page images (PIL, RGB), `shards` what is asked of
        each (default: the whole answer, which only a model without shards gives).

        Greedy at temperature 0, else sampled.
        """
        import torch
        import xgrammar.contrib.hf

        started = time.monotonic()
        shards = shards or [self.plan.whole] * len(documents)
        prompts = [self.contract.prompt.asking(shard.line) for shard in shards]
        inputs = [encode_prompt(self.processor, p, pages) for p, pages in zip(prompts, documents, strict=True)]
        batch = {
            name: value.to(self.model.device)
            for name, value in collate(inputs, self.processor.tokenizer.pad_token_id, left=True).items()
        }
        processors: list[Any] = []
        if self._compiler is not None:
            processors.append(xgrammar.contrib.hf.LogitsProcessor([self._grammar(shard) for shard in shards]))
        # Last, so that it sees what the grammar leaves: a server's log-probabilities are those too.
        chosen = ChosenTokens()
        processors.append(chosen)
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            torch.manual_seed(seed)
            sampling = {"do_sample": True, "temperature": temperature}
        device = self.model.device.type
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=self.autocast):
            output = self.model.generate(
                **batch,
                **sampling,
                max_new_tokens=self.contract.max_answer_tokens,
                logits_processor=processors,
                eos_token_id=self.end_id,
                pad_token_id=self.processor.tokenizer.pad_token_id,
            )
        seconds = time.monotonic() - started
        logprobs = chosen.logprobs(output)
        result = []
        for number, row in enumerate(output[:, batch["input_ids"].shape[1] :].tolist()):
            stopped = self.end_id in row
            tokens = row[: row.index(self.end_id)] if stopped else row
            usage = {"prompt_tokens": len(inputs[number]["input_ids"]), "completion_tokens": len(tokens) + stopped}
            text = self.processor.tokenizer.decode(tokens, skip_special_tokens=False)
            pieces = zip(
                self.processor.tokenizer.batch_decode([[token] for token in tokens]), logprobs[number], strict=False
            )
            answer = Answer(text, "stop" if stopped else "length", usage, round(seconds, 3), text_tokens(pieces, text))
            result.append(answer)
        return result


class ChosenTokens:
    """A logits processor that changes nothing and keeps the log-probability of each chosen token."""

    def __init__(self) -> None:
        self.before: Any = None
        self.found: list[Any] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self.before is not None:
            self.found.append(self.before.gather(-1, input_ids[:, -1:])[:, 0])
        self.before = scores.float().log_softmax(-1)
        return scores

    def logprobs(self, output: Any) -> list[list[float]]:
        """By document and generated token; `output` is what generate returned, [documents, prompt + answer]."""
        import torch

        if self.before is None:
            return [[] for _ in output]
        last = self.before.gather(-1, output[:, -1:])[:, 0]
        return [list(map(float, row)) for row in torch.stack([*self.found, last], 1)]


class BatchingAsker:
    """Gathers what many tasks ask at the same time into batches of one model, in the order asked. Use as an Asker.

    `prepare` turns a page into what the model's `answers` takes.
    """

    GATHER_SECONDS = 0.05

    def __init__(self, model: Any, batch_size: int, prepare: Callable[[Any], Any] = open_page) -> None:
        self.model, self.batch_size, self.prepare = model, batch_size, prepare
        self._waiting: list[tuple[list[Any], Shard, tuple[float, int], asyncio.Future[Answer]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(
        self, pages: list[Any], shard: Shard, temperature: float, seed: int, hearing: Hearing | None = None
    ) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((pages, shard, (temperature, seed), future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        answer = await future
        if hearing is not None:
            hearing(answer.raw)  # a batch is written to its end before anything is told of it
        return answer

    async def _work(self) -> None:
        while self._waiting:
            if len(self._waiting) < self.batch_size:
                await asyncio.sleep(self.GATHER_SECONDS)
            how = self._waiting[0][2]
            batch = [item for item in self._waiting if item[2] == how][: self.batch_size]
            taken = {id(item) for item in batch}
            self._waiting = [item for item in self._waiting if id(item) not in taken]
            try:
                answers = await asyncio.to_thread(
                    self.model.answers,
                    [pages for pages, *_ in batch],
                    [shard for _, shard, *_ in batch],
                    temperature=how[0],
                    seed=how[1],
                )
            except Exception as error:
                for *_, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (*_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


def batches_of(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
