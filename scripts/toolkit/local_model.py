"""Answers from a model on this machine: transformers' greedy generate under the same grammar as the server (xgrammar)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from toolkit.answers import Answer
from toolkit.batches import collate, encode_prompt, open_page
from toolkit.contract import Contract
from toolkit.target_schema import compact_json
from toolkit.token_confidence import text_tokens


class LocalModel:
    """A base model, or a base model with an adapter, that answers as its contract says; `loaded` is one already in memory."""

    def __init__(
        self, model: str, adapter: Path | None, contract: Contract, *, grammar: bool = True, loaded: Any = None
    ) -> None:
        from toolkit.qwen3vl import load_adapter, load_config, load_model, load_processor

        self.contract = contract
        self.config = load_config(model)
        self.processor = load_processor(str(adapter) if adapter else model, contract.image_max_tokens)
        self.processor.tokenizer.padding_side = "left"
        self.model = load_model(model) if loaded is None else loaded
        if adapter:
            self.model = load_adapter(self.model, adapter)
        self.model.eval()
        self.end_id = self.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.grammar = self._compiled_grammar() if grammar else None

    def _compiled_grammar(self) -> Any:
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(
            self.processor.tokenizer, vocab_size=self.config.text_config.vocab_size, stop_token_ids=[self.end_id]
        )
        # The same form that the server compiles with its white-space switch: separators without spaces, keys in order.
        return xgrammar.GrammarCompiler(info).compile_json_schema(
            compact_json(self.contract.wire_format.grammar()),
            any_whitespace=False,
            separators=(",", ":"),
            strict_mode=True,
        )

    def answers(self, documents: list[list[Any]], *, temperature: float = 0.0, seed: int = 0) -> list[Answer]:
        """One answer per document, decoded in one batch; a document is the list of its page images (PIL, RGB).

        Greedy at temperature 0, else sampled.
        """
        import torch
        import xgrammar.contrib.hf

        started = time.monotonic()
        inputs = [encode_prompt(self.processor, self.contract.prompt, pages) for pages in documents]
        batch = {
            name: value.to(self.model.device)
            for name, value in collate(inputs, self.processor.tokenizer.pad_token_id, left=True).items()
        }
        processors: list[Any] = [xgrammar.contrib.hf.LogitsProcessor(self.grammar)] if self.grammar is not None else []
        # Last, so that it sees what the grammar leaves: a server's log-probabilities are those too.
        chosen = ChosenTokens()
        processors.append(chosen)
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            torch.manual_seed(seed)
            sampling = {"do_sample": True, "temperature": temperature}
        with torch.inference_mode():
            output = self.model.generate(
                **batch, **sampling, max_new_tokens=self.contract.max_answer_tokens, logits_processor=processors,
                eos_token_id=self.end_id, pad_token_id=self.processor.tokenizer.pad_token_id,
            )  # fmt: skip
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

    `opened` turns a page as the tasks give it into what the model's `answers` takes.
    """

    GATHER_SECONDS = 0.05

    def __init__(self, model: Any, batch_size: int, opened: Callable[[Any], Any] = open_page) -> None:
        self.model, self.batch_size, self.opened = model, batch_size, opened
        self._waiting: list[tuple[list[Any], tuple[float, int], asyncio.Future[Answer]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, pages: list[Any], temperature: float, seed: int) -> Answer:
        opened = [self.opened(page) for page in pages]
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((opened, (temperature, seed), future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            if len(self._waiting) < self.batch_size:
                await asyncio.sleep(self.GATHER_SECONDS)
            how = self._waiting[0][1]
            batch = [item for item in self._waiting if item[1] == how][: self.batch_size]
            self._waiting = [item for item in self._waiting if item not in batch]
            try:
                answers = await asyncio.to_thread(
                    self.model.answers, [pages for pages, _, _ in batch], temperature=how[0], seed=how[1]
                )
            except Exception as error:
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, _, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


def batches_of(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
