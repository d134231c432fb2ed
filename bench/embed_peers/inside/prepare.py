"""Export a model for a peer, with and without 8-bit weights, in that peer's environment.

python prepare.py onnx|openvino MODEL_FOLDER TARGET_FOLDER
"""

import importlib
import random
import sys
from pathlib import Path

# Rounding that is calibrated needs texts, of all lengths; none may come from elsewhere.
CALIBRATION, LONGEST = 100, 20  # texts, and sentences of one
SENTENCES = [
    "The committee will meet again on Thursday to discuss the budget for the next year.",
    "Cats are small animals that sleep for most of the day.",
    "How do I reset the password of my account?",
    "In 1928 a mould that had blown in through a window killed the bacteria in a dish.",
    "Return the index of the first element that is larger than its predecessor.",
    "short text",
    "The river rises in the mountains, flows through three countries and ends in a wide delta "
    "where birds from all over the continent spend the winter among reeds and shallow lakes.",
    "Delivery takes two to four working days; parcels can be tracked by their number.",
]


def export(kind: str, model: str, target: Path) -> None:
    """Write the model in fp32 and in int8."""
    library = importlib.import_module("sentence_transformers")
    encoder = library.SentenceTransformer(model, backend=kind, model_kwargs={"export": True})
    encoder.save_pretrained(str(target))
    (_quantize_onnx if kind == "onnx" else _quantize_openvino)(encoder, target)


def _quantize_onnx(encoder: object, target: Path) -> None:
    """Have sentence-transformers round the weights; rows are rounded as they come."""
    library = importlib.import_module("sentence_transformers")
    flags = Path("/proc/cpuinfo").read_text().split()
    name = "avx512_vnni" if "avx512_vnni" in flags else "avx2"
    library.export_dynamic_quantized_onnx_model(encoder, name, str(target), file_suffix="int8")
    for path in target.rglob("*_int8.onnx"):
        path.rename(target / "onnx" / "model_int8.onnx")


def _quantize_openvino(encoder: object, target: Path) -> None:
    """Have NNCF round weights and rows, as sentence-transformers' own export does."""
    nncf, openvino = (importlib.import_module(name) for name in ("nncf", "openvino"))
    network = openvino.Core().read_model(target / "openvino" / "openvino_model.xml")
    names = {name for put in network.inputs for name in put.get_names()}

    def inputs(text: str) -> dict[str, object]:
        tokens = encoder.tokenizer(text, truncation=True, return_tensors="np")  # type: ignore[attr-defined]
        return {name: tokens[name] for name in names if name in tokens}

    choose = random.Random(0).choices
    texts = [" ".join(choose(SENTENCES, k=1 + number % LONGEST)) for number in range(CALIBRATION)]
    quantized = nncf.quantize(
        network, nncf.Dataset(texts, inputs), model_type=nncf.ModelType.TRANSFORMER
    )
    openvino.save_model(quantized, target / "openvino" / "openvino_model_int8.xml")


if __name__ == "__main__":
    export(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
