"""Fit how likely each value of an answer is right, and store the fitted model in extraction_config.json.

Reads predictions of the validation split and its gold. The predictions carry the features: token probabilities,
business checks, the page's own text. Use neither the documents that the model was trained on nor those it will be
judged on.

The fitted model is stored in extraction_config.json of --contract; from then on extract_documents.py writes calibrated
confidences. Repeat this after merging or quantizing, because these change the model's probabilities. Cross-validation
over documents tells what the confidences are worth.

    python scripts/extract_documents.py --model Qwen/Qwen3-VL-8B-Instruct --adapter outputs/bl-8b \\
        --in data/splits/val.jsonl --out data/predictions/val.jsonl
    python scripts/calibrate_confidence.py --pred data/predictions/val.jsonl --gold data/splits/val.jsonl \\
        --contract outputs/bl-8b
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.answers.confidence import FEATURES, ConfidenceModel, fitted, quality, raw_confidence
from toolkit.answers.predictions import PredictionFile, read_gold
from toolkit.console import ExitCode, StageError, say
from toolkit.evaluation.scoring import judged_values
from toolkit.files import argument_path, shown
from toolkit.model.contract import FILE_NAME, load_contract
from toolkit.schema.answer_shape import in_shape
from toolkit.schema.answer_values import field_name
from toolkit.schema.target import TargetSchema

FOLDS = 5
FEWEST_WRONG = 5


@dataclasses.dataclass
class Values:
    """Values of one document: names, features, and whether each is right."""

    names: list[str]
    features: list[list[Any]]
    right: list[bool]


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--pred", type=argument_path, required=True, help="predictions of the validation split")
    parser.add_argument("--gold", type=argument_path, required=True, help="the validation split")
    parser.add_argument(
        "--contract", type=argument_path, required=True, help=f"folder whose {FILE_NAME} gets the fitted model"
    )
    parser.add_argument("--dry-run", action="store_true", help="tell what it is worth, write nothing")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    contract = load_contract(args.contract)
    documents = values_of(contract.target, args.pred, args.gold)
    values = sum(len(document.right) for document in documents)
    wrong = values - sum(sum(document.right) for document in documents)
    say(f"{len(documents)} documents, {values} values, {wrong} of them wrong")
    if wrong < FEWEST_WRONG or wrong == values:
        if wrong < values:
            few = f"{wrong} wrong values of {values} are not enough to tell right from wrong"
            say(f"{few}; nothing was stored, give more validation documents")
        else:
            say("no value is right; there is nothing to calibrate, and nothing was stored")
        counts = {"documents": len(documents), "values": values, "wrong": wrong, "stored": False}
        return console.finish(args, counts, ExitCode.PROBLEMS)
    model = fit(documents)
    worth = quality(*cross_validated(documents))
    bare = quality(
        [raw_confidence(f) for document in documents for f in document.features],
        [right for document in documents for right in document.right],
    )
    print(f"{'':28s}{'AUROC':>9s}{'calibration error':>20s}{'accuracy at 80 %':>19s}")
    for label, row in (("token probabilities alone", bare), (f"fitted ({FOLDS}-fold)", worth)):
        print(f"{label:28s}{row['auroc']:9.4f}{row['ece']:20.4f}{row['accuracy_at_80']:19.4f}")
    weights = ", ".join(f"{name} {model.weights[name]:.3f}" for name in FEATURES)
    say(f"weights: {weights}, offset {model.offset:.3f}")
    if not args.dry_run:
        dataclasses.replace(contract, confidence=model.as_dict()).save(args.contract)
        say(f"stored in {shown(args.contract / FILE_NAME)}")
    kept = ("values", "accuracy", "auroc", "ece", "accuracy_at_80")
    result = {
        "documents": len(documents),
        "wrong": wrong,
        "tokens_alone": {key: bare[key] for key in kept},
        "fitted": {key: worth[key] for key in kept},
        "weights": model.weights,
        "fields": len({field_name(name) for document in documents for name in document.names}),
        "stored": not args.dry_run,
    }
    return console.finish(args, result)


def values_of(schema: TargetSchema, predictions: Path, gold: Path) -> list[Values]:
    """The judged values of every document with a valid answer."""
    file = PredictionFile(predictions, schema)
    documents, failed, bare = [], 0, 0
    for identity, answer, _ in read_gold(gold):
        line = file.get(identity)
        if line is None or line.get("status") != "ok" or not isinstance(line.get("prediction"), dict):
            failed += 1
            continue
        known = line.get("features")
        if not known:
            bare += 1
            continue
        gold_answer, said = in_shape(schema.raw, answer), in_shape(schema.raw, line["prediction"])
        judged = [
            (name, known[name], right) for name, right in judged_values(schema, gold_answer, said) if name in known
        ]
        if not judged:
            bare += 1
            continue
        documents.append(Values(*(list(column) for column in zip(*judged, strict=True))))
    if bare:
        causes = "a server without log-probabilities, --no-confidence, or an older file"
        say(f"{bare} predictions carry no features ({causes})")
    if failed:
        say(f"{failed} documents have no valid answer and are left out: their confidence is 0")
    if len(documents) < FOLDS:
        raise StageError(f"{len(documents)} documents with features; at least {FOLDS} are needed", ExitCode.PROBLEMS)
    return documents


def fit(documents: list[Values]) -> ConfidenceModel:
    return fitted(
        [name for document in documents for name in document.names],
        [features for document in documents for features in document.features],
        [right for document in documents for right in document.right],
    )


def cross_validated(documents: list[Values]) -> tuple[list[float], list[bool]]:
    """Confidences of values whose document the model was not fitted on, and whether each is right."""
    confidence: list[float] = []
    right: list[bool] = []
    for fold in range(FOLDS):
        others = [document for index, document in enumerate(documents) if index % FOLDS != fold]
        try:
            model: Any = fit(others)
        except ValueError as error:
            sentence = f"too few wrong values to cross-validate ({error} in one part)"
            raise StageError(sentence, ExitCode.PROBLEMS) from None
        for document in documents[fold::FOLDS]:
            confidence += [model.probability(n, f) for n, f in zip(document.names, document.features, strict=True)]
            right += document.right
    return confidence, right


if __name__ == "__main__":
    sys.exit(main())
