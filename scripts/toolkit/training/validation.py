"""Scores of a model while it is trained."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from toolkit.model.contract import Contract
from toolkit.model.encoding import IGNORED, Collator, RecordDataset
from toolkit.training.loss import summed_loss


class Validation:
    """Scores a model in training.

    `eval_loss` is per answer token over all records. `eval_micro_f1`, `eval_row_f1` and `eval_valid` are of a fixed
    sample of records, answered as they will be served (prompt, sizes and grammar of the contract).
    """

    def __init__(
        self,
        processor: Any,
        contract: Contract,
        records: list[dict[str, Any]],
        root: Path,
        *,
        model: str,
        documents: int,
    ) -> None:
        """`root`: folder of the images; `model`: the base's name; `documents`: size of the sample."""
        self.processor, self.contract, self.records, self.root = processor, contract, records, root
        self.model = model
        self.sample = random.Random(0).sample(records, min(documents, len(records)))
        self._local: Any = None

    def __call__(self, model: Any) -> dict[str, float]:
        was_training = model.training
        model.eval()
        metrics = {"eval_loss": self.loss(model)} | (self.field_scores(model) if self.sample else {})
        model.train(was_training)
        return metrics

    def loss(self, model: Any) -> float:
        import torch

        dataset = RecordDataset(self.records, self.processor, self.root)
        collator = Collator(self.processor.tokenizer.pad_token_id)
        total, count = 0.0, 0
        autocast = torch.autocast(model.device.type, torch.bfloat16)
        with torch.no_grad(), autocast:
            for index in range(len(dataset)):
                batch = collator([dataset[index]])
                batch.pop("ids")
                labels = batch.pop("labels").to(model.device)
                inputs = {name: value.to(model.device) for name, value in batch.items()}
                total += float(summed_loss(model, inputs, labels))
                count += int((labels != IGNORED).sum())
        return round(total / count, 6)

    def field_scores(self, model: Any) -> dict[str, float]:
        from toolkit.evaluation.score_table import ScoreTable
        from toolkit.evaluation.scoring import score_document
        from toolkit.extraction.local_model import LocalModel
        from toolkit.extraction.run import Judge, records_answered

        if self._local is None:
            self._local = LocalModel(self.model, None, self.contract, loaded=model, autocast=True)
        judge, table = Judge(self.contract.answer_plan), ScoreTable(self.contract.target)
        lines = records_answered(self._local, judge, self.sample, self.root, 8)
        for record, line in zip(self.sample, lines, strict=True):
            gold = judge.plan.gold(record)
            table.add(score_document(self.contract.target, record["id"], gold, line["prediction"], line["status"]))
        scores = table.summary()
        rows = {} if scores["row_f1"] is None else {"eval_row_f1": round(scores["row_f1"], 4)}
        return {"eval_micro_f1": round(scores["micro_f1"], 4), **rows, "eval_valid": scores["valid"] / len(self.sample)}
