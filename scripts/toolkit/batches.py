"""Records become model inputs: the answer is supervised by construction, nothing is cut, images keep their exact size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.prompt import Prompt
from toolkit.records import answer_text, images_of, prompt_of

IGNORED = -100
END_OF_ANSWER = "<|im_end|>"


class UnreadablePage(StageError):
    """One page image is damaged or gone; other documents are not concerned."""


def open_page(path: Path) -> Any:
    """A page image as RGB. Raises UnreadablePage where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError) as error:
        raise UnreadablePage(
            f"{path.as_posix()}: the page image cannot be read ({' '.join(str(error).split())[:120]}); run verify_image_paths.py"
        ) from None


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

    The answer is tokenized by itself behind the prompt, as the model will write it, so no search for its start is needed.
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


def refuse_control_text(processor: Any, text: str, where: str) -> None:
    """Raises StageError where `text` spells one of the model's control tokens: it would end a turn or stand for an image."""
    for token in processor.tokenizer.all_special_tokens:
        if token in text:
            raise StageError(f"{where} contains the control token {token}; remove it from the text")


def check_placeholders(processor: Any, inputs: dict[str, Any], identity: str) -> None:
    """As many image placeholders as the grids have merged patches (t*h*w/4). Raises StageError with the record's id."""
    placeholder = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    found = int((inputs["input_ids"] == placeholder).sum())
    wanted = int(inputs["image_grid_thw"].prod(-1).sum()) // processor.image_processor.merge_size**2
    if found != wanted:
        raise StageError(
            f"record {identity!r}: {found} image placeholders for {wanted} vision tokens; the text of the record must not contain <|image_pad|>"
        )


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
    import torch

    positions = torch.arange(length)
    rows = [(positions >= length - n) if left else (positions < n) for n in lengths]
    return torch.stack(rows).long()


class RecordDataset:
    """A torch map-style dataset over records; images are decoded where the item is asked for (a loader's worker)."""

    def __init__(self, records: list[dict[str, Any]], processor: Any, root: Path) -> None:
        self.records, self.processor, self.root = records, processor, root

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return encode_record(self.processor, self.records[index], self.root)


class Collator:
    """Right-padding collator for training; a class so that spawned workers can unpickle it."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        return collate(examples, self.pad_id)
