"""Answers from a model on this machine: transformers' `generate` under the same grammar as the server's (xgrammar)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.answers.answer import Answer, OnText, Usage
from toolkit.answers.row_shards import Shard
from toolkit.answers.token_confidence import text_tokens
from toolkit.model.contract import Contract
from toolkit.model.encoding import collate, encode_prompt
from toolkit.pages.opening import open_page
from toolkit.schema.target import compact_json


class LocalModel:
    """A base model, with or without an adapter, that answers as its contract says.

    `loaded` is a model that is already in memory. `autocast` computes in bfloat16, as training does. Without `grammar`
    answers may break the schema.
    """

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
            # As the server compiles it with its whitespace switch: separators without spaces, keys in order.
            self._grammars[id(wire)] = self._compiler.compile_json_schema(
                compact_json(wire.grammar()), any_whitespace=False, separators=(",", ":"), strict_mode=True
            )
        return self._grammars[id(wire)]

    def answers(
        self, documents: list[list[Any]], shards: list[Shard] | None = None, *, temperature: float = 0.0, seed: int = 0
    ) -> list[Answer]:
        """One answer per document, decoded in one batch: greedily at temperature 0, else sampled.

        A document is the list of its page images (PIL, RGB). `shards` names what is requested of each document
        (default: the whole answer, which only a model without shards gives).
        """
        import torch

        started = time.monotonic()
        shards = shards or [self.plan.whole] * len(documents)
        prompts = [self.contract.prompt.asking(shard.line) for shard in shards]
        inputs = [encode_prompt(self.processor, p, pages) for p, pages in zip(prompts, documents, strict=True)]
        batch = {
            name: value.to(self.model.device)
            for name, value in collate(inputs, self.processor.tokenizer.pad_token_id, left=True).items()
        }
        chosen = ChosenTokens()
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
                logits_processor=[*self._masks(shards), chosen],
                eos_token_id=self.end_id,
                pad_token_id=self.processor.tokenizer.pad_token_id,
            )
        seconds = round(time.monotonic() - started, 3)
        logprobs = chosen.logprobs(output)
        written = output[:, batch["input_ids"].shape[1] :].tolist()
        lengths = [len(example["input_ids"]) for example in inputs]
        return [self._answer(*parts, seconds) for parts in zip(written, logprobs, lengths, strict=True)]

    def _masks(self, shards: list[Shard]) -> list[Any]:
        """The grammars as logits processors. They come first, so that log-probabilities are of allowed tokens only."""
        import xgrammar.contrib.hf

        if self._compiler is None:
            return []
        return [xgrammar.contrib.hf.LogitsProcessor([self._grammar(shard) for shard in shards])]

    def _answer(self, ids: list[int], logprobs: list[float], prompt_tokens: int, seconds: float) -> Answer:
        """The answer of one document from the token ids behind its prompt, up to the end token."""
        stopped = self.end_id in ids
        ids = ids[: ids.index(self.end_id)] if stopped else ids
        tokenizer = self.processor.tokenizer
        text = tokenizer.decode(ids, skip_special_tokens=False)
        pieces = zip(tokenizer.batch_decode([[token] for token in ids]), logprobs, strict=False)
        usage: Usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(ids) + stopped}
        return Answer(text, "stop" if stopped else "length", usage, seconds, text_tokens(pieces, text))


class ChosenTokens:
    """A logits processor that changes nothing and keeps the log-probability of each chosen token."""

    def __init__(self) -> None:
        self.before: Any = None  # log-probabilities of the step before: float32 [documents, vocabulary]
        self.chosen: list[Any] = []  # one tensor [documents] a step

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self.before is not None:
            self.chosen.append(self.before.gather(-1, input_ids[:, -1:])[:, 0])
        self.before = scores.float().log_softmax(-1)
        return scores

    def logprobs(self, output: Any) -> list[list[float]]:
        """Log-probabilities by document and generated token; `output`: int64 [documents, prompt + answer] of
        generate.
        """
        import torch

        if self.before is None:
            return [[] for _ in output]
        last = self.before.gather(-1, output[:, -1:])[:, 0]
        return [list(map(float, row)) for row in torch.stack([*self.chosen, last], 1)]


class BatchingAsker:
    """An Asker that gathers the requests of many tasks into batches for one model, in the order they arrive.

    `prepare` turns a page into what the model's `answers` takes. Raises what `answers` raises.
    """

    GATHER_SECONDS = 0.05

    def __init__(self, model: Any, batch_size: int, prepare: Callable[[Any], Any] = open_page) -> None:
        self.model, self.batch_size, self.prepare = model, batch_size, prepare
        self._waiting: list[tuple[list[Any], Shard, tuple[float, int], asyncio.Future[Answer]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(
        self, pages: list[Any], shard: Shard, temperature: float, seed: int, on_text: OnText | None = None
    ) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((pages, shard, (temperature, seed), future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        answer = await future
        if on_text is not None:
            on_text(answer.raw)  # a batch is decoded to its end before its texts are known
        return answer

    async def _work(self) -> None:
        while self._waiting:
            if len(self._waiting) < self.batch_size:
                await asyncio.sleep(self.GATHER_SECONDS)
            sampling = self._waiting[0][2]
            temperature, seed = sampling
            batch = [item for item in self._waiting if item[2] == sampling][: self.batch_size]
            taken = {id(item) for item in batch}
            self._waiting = [item for item in self._waiting if id(item) not in taken]
            try:
                documents, shards = [pages for pages, *_ in batch], [shard for _, shard, *_ in batch]
                answers = await asyncio.to_thread(
                    self.model.answers, documents, shards, temperature=temperature, seed=seed
                )
            except Exception as error:
                for *_, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (*_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
