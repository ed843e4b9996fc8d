"""The loss: cross-entropy over the answer's tokens only."""

from __future__ import annotations

from typing import Any

from toolkit.console import StageError, say
from toolkit.model.encoding import END_OF_ANSWER, IGNORED, RecordDataset
from toolkit.model.lengths import answers_of


def show_supervised_text(dataset: RecordDataset, tokenizer: Any) -> None:
    """Print what the loss sees of the first record; it must be the answer and its end mark, to the letter."""
    example = dataset[0]
    text = tokenizer.decode(example["labels"][example["labels"] != IGNORED])
    wanted = "".join(text + END_OF_ANSWER for text in answers_of(dataset.records[0]))
    if text != wanted:
        raise StageError(f"the tokenizer does not give the answer back: {text[:100]!r} for {wanted[:100]!r}")
    say(f"supervised text of the first record: {text if len(text) < 400 else text[:400] + ' ...'}")


def answer_logits(model: Any, inputs: dict[str, Any], labels: Any) -> tuple[Any, Any]:
    """`(logits [N, vocabulary], labels [N])` of the N supervised tokens.

    The head runs over no other token of a packed row, and only over the last columns of a batch padded on the left. At
    Qwen's vocabulary the logits of a prompt token cost 1.8 MB forward and backward.
    """
    import torch

    supervised = labels[:, 1:] != IGNORED
    # With a cache transformers (5.17) does not look for packed records in the positions, and they see each other.
    inputs = inputs | {"use_cache": False}
    if labels.shape[0] == 1:
        keep = torch.nonzero(supervised[0])[:, 0]
        if len(keep) == 0:  # a batch without a loss still takes part: the other processes wait for its gradients
            keep = torch.zeros(1, dtype=torch.long, device=labels.device)
        logits = model(**inputs, logits_to_keep=keep).logits[0]
        return logits, labels[0, keep + 1]
    first = int(torch.nonzero(supervised.any(0))[0, 0]) if supervised.any() else supervised.shape[1] - 1
    columns = labels.shape[1] - first
    logits = model(**inputs, logits_to_keep=columns).logits[:, :-1]
    wanted = labels[:, first + 1 :]
    mask = wanted != IGNORED
    return (logits[mask], wanted[mask]) if mask.any() else (logits[:1, 0], wanted[:1, 0])


def summed_loss(model: Any, inputs: dict[str, Any], labels: Any) -> Any:
    """Cross-entropy summed over the supervised tokens of a batch, float32."""
    import torch

    logits, wanted = answer_logits(model, inputs, labels)
    return torch.nn.functional.cross_entropy(logits.float(), wanted, ignore_index=IGNORED, reduction="sum")
