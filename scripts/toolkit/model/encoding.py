"""Records as model inputs. Only the answer's tokens are supervised, nothing is cut, and images keep their size."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.pages.opening import open_page
from toolkit.records.prompt import Prompt
from toolkit.records.record import answer_text, images_of, prompt_of

IGNORED = -100
END_OF_ANSWER = "<|im_end|>"


def encode_prompt(processor: Any, prompt: Prompt, pages: list[Any]) -> dict[str, Any]:
    """Model inputs of one document before its answer: `input_ids` and `mm_token_type_ids` int64 [L], `pixel_values`
    float32 [patches, 1536], `image_grid_thw` int64 [pages, 3]."""
    refuse_control_text(processor, prompt.system + prompt.question, "the prompt")
    messages = prompt.messages([f"page {number}" for number in range(1, len(pages) + 1)])
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text], images=pages, return_tensors="pt")
    return {
        "input_ids": inputs["input_ids"][0],
        "mm_token_type_ids": inputs["mm_token_type_ids"][0],
        "pixel_values": inputs["pixel_values"],
        "image_grid_thw": inputs["image_grid_thw"],
    }


def encode_record(processor: Any, record: dict[str, Any], root: Path) -> dict[str, Any]:
    """`encode_prompt` plus the answer and `labels` int64 [L]: the answer's tokens and `<|im_end|>`, -100 elsewhere.

    The answer is tokenized apart from the prompt, as the model will write it, so its start need not be searched for.
    """
    import torch

    refuse_control_text(processor, answer_text(record), f"the answer of record {record['id']!r}")
    inputs = encode_prompt(processor, prompt_of(record), [open_page(root / image) for image in images_of(record)])
    check_placeholders(processor, inputs, record["id"])
    answer = torch.tensor(processor.tokenizer.encode(answer_text(record) + END_OF_ANSWER, add_special_tokens=False))
    prompt_length = len(inputs["input_ids"])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer])
    inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(answer)])
    inputs["labels"] = torch.cat([torch.full((prompt_length,), IGNORED), answer])
    return inputs


def encode_parts(processor: Any, record: dict[str, Any], root: Path) -> dict[str, Any]:
    """A record with `parts` (see AnswerPlan.written) in one row: the pages once, then each shard's line and answer.

    Like `encode_record`, with two more tensors. `segments` int64 [L]: 0 for what all shards share, else the number of
    the shard. `rope` int64 [3, L]: positions; each shard continues after the shared part, as if it were the only one.
    """
    import torch

    prompt, parts = prompt_of(record), record["parts"]
    for line, text in parts:
        refuse_control_text(processor, line + text, f"the answer of record {record['id']!r}")
    inputs = encode_prompt(
        processor, prompt.asking(parts[0][0]), [open_page(root / image) for image in images_of(record)]
    )
    check_placeholders(processor, inputs, record["id"])
    texts, common = shard_prompts(processor, record)
    shared = len(inputs["input_ids"]) - (len(texts[0]) - common)
    ids, types = [inputs["input_ids"][:shared]], inputs["mm_token_type_ids"][:shared]
    rope = [rope_positions(types, inputs["image_grid_thw"])]
    labels, segments = [torch.full((shared,), IGNORED)], [torch.zeros(shared, dtype=torch.long)]
    start = int(rope[0].max()) + 1
    for number, (text, (_, answer)) in enumerate(zip(texts, parts, strict=True), 1):
        line_ids = torch.tensor(text[common:])
        answer_ids = torch.tensor(processor.tokenizer.encode(answer + END_OF_ANSWER, add_special_tokens=False))
        length = len(line_ids) + len(answer_ids)
        ids += [line_ids, answer_ids]
        labels += [torch.full_like(line_ids, IGNORED), answer_ids]
        segments.append(torch.full((length,), number))
        rope.append(torch.arange(length).expand(3, -1) + start)
    inputs |= {
        "input_ids": torch.cat(ids),
        "labels": torch.cat(labels),
        "segments": torch.cat(segments),
        "rope": torch.cat(rope, 1),
    }
    behind = torch.zeros(len(inputs["input_ids"]) - shared, dtype=types.dtype)
    return inputs | {"mm_token_type_ids": torch.cat([types, behind])}


def shard_prompts(processor: Any, record: dict[str, Any]) -> tuple[list[list[int]], int]:
    """Token ids of each shard's prompt, with one placeholder a page, and the number of ids that all shards share."""
    prompt, pages = prompt_of(record), len(images_of(record))
    texts = [prompt_ids(processor, prompt.asking(line), pages) for line, _ in record["parts"]]
    common = next(
        (n for n, column in enumerate(itertools.zip_longest(*texts)) if len(set(column)) > 1), len(texts[0]) - 1
    )
    return texts, common


def prompt_ids(processor: Any, prompt: Prompt, pages: int) -> list[int]:
    """Token ids before the answer with one placeholder a page."""
    text = processor.apply_chat_template(prompt.messages(["page"] * pages), add_generation_prompt=True, tokenize=False)
    return list(processor.tokenizer.encode(text, add_special_tokens=False))


def refuse_control_text(processor: Any, text: str, where: str) -> None:
    """Raises StageError where `text` contains a control token of the model, which would end a turn or mark an image."""
    for token in processor.tokenizer.all_special_tokens:
        if token in text:
            raise StageError(f"{where} contains the control token {token}; remove it from the text")


def check_placeholders(processor: Any, inputs: dict[str, Any], identity: str) -> None:
    """As many image placeholders as the grids have merged patches (t*h*w/4). Raises StageError with the record's id."""
    placeholder = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    found = int((inputs["input_ids"] == placeholder).sum())
    wanted = int(inputs["image_grid_thw"].prod(-1).sum()) // processor.image_processor.merge_size**2
    if found != wanted:
        rule = "the text of the record must not contain <|image_pad|>"
        raise StageError(f"record {identity!r}: {found} image placeholders for {wanted} vision tokens; {rule}")


def collate(examples: list[dict[str, Any]], pad_id: int, *, left: bool = False) -> dict[str, Any]:
    """Examples padded to one length (right for training, left for generation) with an attention mask."""
    import torch

    length = max(len(example["input_ids"]) for example in examples)
    fills = {"input_ids": pad_id, "mm_token_type_ids": 0, "labels": IGNORED}
    batch: dict[str, Any] = {}
    for name, fill in fills.items():
        if name not in examples[0]:
            continue
        rows = []
        for example in examples:
            missing = length - len(example[name])
            rows.append(torch.nn.functional.pad(example[name], (missing, 0) if left else (0, missing), value=fill))
        batch[name] = torch.stack(rows)
    batch["attention_mask"] = collate_mask([len(e["input_ids"]) for e in examples], length, left)
    batch["pixel_values"] = torch.cat([example["pixel_values"] for example in examples])
    batch["image_grid_thw"] = torch.cat([example["image_grid_thw"] for example in examples])
    return batch


def collate_mask(lengths: list[int], length: int, left: bool) -> Any:
    """The attention mask [records, length], int64, of records of these `lengths` padded on one side."""
    import torch

    positions = torch.arange(length)
    rows = [(positions >= length - n) if left else (positions < n) for n in lengths]
    return torch.stack(rows).long()


def rope_positions(token_types: Any, grids: Any, merge: int = 2) -> Any:
    """Positions of one record in the three axes of the model's rotary embedding (time, height, width): int64 [3, L].

    A text token advances all three axes. The tokens of a page share one time step; height and width count from there.
    The text after a page starts behind its larger side. As transformers' get_rope_index, without a loop over tokens.
    """
    import torch

    types = token_types.long()
    change = torch.nonzero(types[1:] != types[:-1])[:, 0] + 1
    bounds = [0, *change.tolist(), len(types)]
    pages = iter(grids.tolist())
    parts, at = [], 0
    for start, end in itertools.pairwise(bounds):
        if types[start] == 0:
            parts.append(torch.arange(end - start).expand(3, -1) + at)
            at += end - start
            continue
        _, high, wide = next(pages)
        high, wide = high // merge, wide // merge
        rows = torch.arange(high).repeat_interleave(wide)
        columns = torch.arange(wide).repeat(high)
        parts.append(torch.stack([torch.zeros_like(rows), rows, columns]) + at)
        at += max(high, wide)
    return torch.cat(parts, 1)


def packed(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Examples one behind the other in one row, without padding: [1, sum of L].

    `position_ids` is [4, 1, sum of L]. Its first row starts at 0 with every record: attention separates records by it,
    so there must be no attention mask. The other three rows are for the rotary embedding.
    """
    import torch

    names = [name for name in ("input_ids", "mm_token_type_ids", "labels") if name in examples[0]]
    batch: dict[str, Any] = {name: torch.cat([example[name] for example in examples])[None] for name in names}
    positions = []
    for example in examples:
        own = torch.arange(len(example["input_ids"]))[None]
        positions.append(torch.cat([own, rope_positions(example["mm_token_type_ids"], example["image_grid_thw"])]))
    batch["position_ids"] = torch.cat(positions, 1)[:, None]
    for name in ("pixel_values", "image_grid_thw"):
        batch[name] = torch.cat([example[name] for example in examples])
    return batch


def packed_parts(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Examples of `encode_parts` one behind the other in one row.

    `attention_mask` bool [1, 1, S, S]: a token sees the earlier tokens of its record that are shared or of its own
    shard. `position_ids` [4, 1, S].
    """
    import torch

    names = ("input_ids", "mm_token_type_ids", "labels")
    batch: dict[str, Any] = {name: torch.cat([example[name] for example in examples])[None] for name in names}
    rope = torch.cat([example["rope"] for example in examples], 1)
    batch["position_ids"] = torch.cat([rope[:1], rope])[:, None]
    segments = torch.cat([example["segments"] for example in examples])
    record = torch.cat([torch.full_like(e["segments"], number) for number, e in enumerate(examples)])
    sees = (record[:, None] == record) & ((segments == 0) | (segments[:, None] == segments))
    batch["attention_mask"] = sees.tril()[None, None]
    for name in ("pixel_values", "image_grid_thw"):
        batch[name] = torch.cat([example[name] for example in examples])
    return batch


class RecordDataset:
    """A torch map-style dataset over records; images are decoded where the item is asked for (a loader's worker).

    An index is a record's number, or `(number, counts)` as TokenBatches gives it.
    Without `counts` nothing is supervised.
    """

    def __init__(self, records: list[dict[str, Any]], processor: Any, root: Path) -> None:
        self.records, self.processor, self.root = records, processor, root

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int | tuple[int, bool]) -> dict[str, Any]:
        number, counts = index if isinstance(index, tuple) else (index, True)
        record = self.records[number]
        example = (encode_parts if "parts" in record else encode_record)(self.processor, record, self.root)
        if not counts:
            example["labels"] = example["labels"].fill_(IGNORED)
        return example | {"id": self.records[number]["id"]}


class Collator:
    """Batches for training: packed, or padded on the left. Records in shards are always packed.

    Padding on the left lets all answers end in the same column, so the head computes only the last columns. A packed
    batch has no attention mask, which allows the fastest attention kernel. `ids` names the records.
    It is a class so that spawned workers can unpickle it.
    """

    def __init__(self, pad_id: int, *, pack: bool = False) -> None:
        self.pad_id, self.pack = pad_id, pack

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        ids = [example["id"] for example in examples]
        if "segments" in examples[0]:
            return packed_parts(examples) | {"ids": ids}
        if self.pack:
            return packed(examples) | {"ids": ids}
        batch = collate(examples, self.pad_id, left=True)
        if bool(batch["attention_mask"].all()):
            del batch["attention_mask"]
        return batch | {"ids": ids}
