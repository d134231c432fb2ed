"""scripts/convert_whisper.py: Whisper models of CTranslate2 become what transformers loads."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from tests.scripts.ct2_writer import ct2_variables, model_bin, write_folder
from tests.speech_models import SPEECH, find_sources, load_converter

Array = npt.NDArray[Any]
HEADS = 2
SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_whisper.py"
converter = load_converter()


@pytest.fixture(scope="module")
def original() -> Any:
    """A small model with random weights, biases and norms too."""
    config = WhisperConfig(
        vocab_size=51768,
        d_model=16,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=24,
        decoder_ffn_dim=32,
        num_mel_bins=5,
        max_source_positions=40,
    )
    torch.manual_seed(3)
    model: Any = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def variables(original: Any) -> dict[str, Array]:
    weights = {
        name: tensor.numpy()
        for name, tensor in original.state_dict().items()
        if name != "proj_out.weight"
    }
    return ct2_variables(weights, HEADS)


def convert(folder: Path, data: bytes, is_multilingual: bool = True) -> Path:
    source = write_folder(folder / "source", data, is_multilingual)
    converter.convert([source], folder / "target")
    return folder / "target"


def load(folder: Path) -> Any:
    """Load a model, whose weights must all be there and all be used."""
    loaded: Any = WhisperForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True, dtype="auto"
    )
    model, report = loaded
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 5, 80, generator=generator, dtype=torch.float32)
    ids = torch.tensor([[50258, 7, 9], [50258, 8, 1]])
    with torch.no_grad():
        found = model.float()(input_features=features, decoder_input_ids=ids).logits
    assert isinstance(found, torch.Tensor)
    return found


def test_float32_gives_the_same_logits(
    original: Any, variables: dict[str, Array], tmp_path: Path
) -> None:
    model = load(convert(tmp_path, model_bin(variables)))
    assert torch.equal(logits(model), logits(original))


def test_float16_stays_float16(variables: dict[str, Array], tmp_path: Path) -> None:
    half = {
        name: array.astype(np.float16) if array.dtype == np.float32 else array
        for name, array in variables.items()
    }
    model = load(convert(tmp_path, model_bin(half)))
    assert model.dtype == torch.float16
    bias = model.model.decoder.layers[2].fc1.bias
    assert np.array_equal(bias.detach().numpy(), half["decoder/layer_2/ffn/linear_0/bias"])


def test_bfloat16_becomes_float32(variables: dict[str, Array], tmp_path: Path) -> None:
    model = load(convert(tmp_path, model_bin(variables, bfloat16=True)))
    found = model.model.encoder.layers[1].fc2.weight
    expected = variables["encoder/layer_1/ffn/linear_1/weight"].view(np.uint32) & 0xFFFF0000
    assert np.array_equal(found.detach().numpy().view(np.uint32), expected)


def quantize(array: Array, kind: type[np.signedinteger[Any]]) -> tuple[Array, Array]:
    """Return integers and what they were multiplied by: of each row, or of all of int16."""
    if kind is np.int16:
        scale = np.array(np.float32(1024) / np.abs(array).max(), np.float32)
        return np.rint(array * scale).astype(kind), scale
    scale = (127 / np.abs(array).reshape(len(array), -1).max(1)).astype(np.float32)
    return np.rint(array * scale.reshape(-1, *[1] * (array.ndim - 1))).astype(kind), scale


@pytest.mark.parametrize("kind", [np.int8, np.int16])
def test_integers_become_float32(
    variables: dict[str, Array], tmp_path: Path, kind: type[np.signedinteger[Any]]
) -> None:
    small = dict(variables)
    for name in variables:
        if name.endswith("/weight"):
            small[name], small[f"{name}_scale"] = quantize(variables[name], kind)
        elif variables[name].dtype == np.float32:
            small[name] = variables[name].astype(np.float16)
    model = load(convert(tmp_path, model_bin(small)))
    assert model.dtype == torch.float32
    name = "decoder/layer_1/attention/linear_1/weight"  # keys, then values
    scale = small[f"{name}_scale"].reshape(-1, 1)
    expected = (small[name].astype(np.float32) / scale)[16:]
    found = model.model.decoder.layers[1].encoder_attn.v_proj.weight.detach().numpy()
    assert np.array_equal(found, expected)
    step = 0.51 / scale if kind is np.int16 else 0.51 / scale[16:]
    assert np.all(np.abs(found - variables[name][16:]) <= step)


def test_ids_of_a_multilingual_model(variables: dict[str, Array], tmp_path: Path) -> None:
    config: Any = GenerationConfig.from_pretrained(convert(tmp_path, model_bin(variables)))
    assert config.is_multilingual is True
    assert config.lang_to_id == {"<|en|>": 50259, "<|de|>": 50260}
    assert config.task_to_id == {"transcribe": 50262, "translate": 50261}
    assert (config.eos_token_id, config.decoder_start_token_id) == (50257, 50258)
    assert (config.prev_sot_token_id, config.no_timestamps_token_id) == (50264, 50266)
    assert (config.suppress_tokens, config.begin_suppress_tokens) == ([1, 2, 7], [220, 50257])
    assert config.alignment_heads == [[0, 1]]
    assert config.max_initial_timestamp_index == 50


def test_ids_of_an_english_model(variables: dict[str, Array], tmp_path: Path) -> None:
    folder = convert(tmp_path, model_bin(variables), is_multilingual=False)
    config = json.loads((folder / "generation_config.json").read_text())
    assert config["is_multilingual"] is False
    assert "lang_to_id" not in config
    assert "task_to_id" not in config
    assert config["decoder_start_token_id"] == 50257
    assert config["no_timestamps_token_id"] == 50265


def test_tokenizer_knows_timestamps(variables: dict[str, Array], tmp_path: Path) -> None:
    tokenizer = WhisperTokenizer.from_pretrained(convert(tmp_path, model_bin(variables)))
    assert tokenizer.convert_tokens_to_ids("<|0.00|>") == 50267
    assert tokenizer.convert_tokens_to_ids("<|30.00|>") == 50267 + 1500 == len(tokenizer) - 1
    ids = [50258, 50267, tokenizer.convert_tokens_to_ids("a"), 50318, 50257]
    text = "<|startoftranscript|><|0.00|>a<|1.02|><|endoftext|>"
    assert tokenizer.decode(ids, decode_with_timestamps=True) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a"


def test_parts_are_put_together_in_their_order(
    variables: dict[str, Array], tmp_path: Path, original: Any
) -> None:
    data = model_bin(variables)
    source, more = write_folder(tmp_path / "source", data, True), tmp_path / "more"
    (source / "model.bin").unlink()
    more.mkdir()
    size = len(data) // 10
    for number in range(11):
        part = data[number * size : (number + 1) * size]
        (more if number else source).joinpath(f"model.bin.part{number + 1}").write_bytes(part)
    converter.convert([source, more], tmp_path / "target")
    assert torch.equal(logits(load(tmp_path / "target")), logits(original))


def run(*arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "TransformerSpec"}, "is a TransformerSpec, not a WhisperSpec"),
        ({"version": 1936683619}, "begins with 1936683619"),
        ({"decoder/gate/weight": np.ones((2, 2), np.float32)}, "decoder/gate/weight is unknown"),
        ({"decoder/activation": np.array(0, np.int8)}, "decoder/activation is 0, not GELU"),
    ],
)
def test_other_models_are_refused(
    variables: dict[str, Array], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    arrays = {key: value for key, value in change.items() if isinstance(value, np.ndarray)}
    others = {key: value for key, value in change.items() if key not in arrays}
    data = model_bin(variables | arrays, **others)
    with pytest.raises(converter.ConversionError, match=message):
        convert(tmp_path, data)
    assert not (tmp_path / "target").exists()


def test_model_that_is_cut_off_is_told(variables: dict[str, Array], tmp_path: Path) -> None:
    data = model_bin(variables)
    source = write_folder(tmp_path / "source", data[:-1000], True)
    done = run(source, tmp_path / "target")
    assert done.returncode == 1
    assert done.stderr == (
        f"convert_whisper: model.bin ends after {len(data) - 1000:,} bytes: it is cut off\n"
    )
    assert list(tmp_path.iterdir()) == [source]


def test_target_is_never_overwritten(variables: dict[str, Array], tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", model_bin(variables), True)
    assert run(source, tmp_path / "target").returncode == 0
    done = run(source, tmp_path / "target")
    assert done.returncode == 2
    assert f"{tmp_path / 'target'} exists" in done.stderr


def transcribe(folder: Path, name: str, **options: Any) -> str:
    """Return what transformers hears in a recording."""
    audio, rate = soundfile.read(SPEECH / name, dtype="float32")
    processor: Any = WhisperProcessor.from_pretrained(folder)
    given = processor(
        soxr.resample(audio, rate, 16000),
        sampling_rate=16000,
        return_tensors="pt",
        return_attention_mask=True,
    )
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    found = model.generate(**given, **options)
    return str(processor.batch_decode(found, skip_special_tokens=True)[0])


def test_tiny_en_transcribes(whisper_tiny_en: Path) -> None:
    text = "good morning, the meeting begins at 9 o'clock in the large room on the second floor."
    assert transcribe(whisper_tiny_en, "meeting.opus").strip().lower() == text


def test_tiny_en_has_the_weights_of_its_file(whisper_tiny_en: Path) -> None:
    model = load(whisper_tiny_en)
    data = (find_sources("tiny.en")[0] / "model.bin").read_bytes()
    attention = model.model.decoder.layers[3].self_attn
    places = {
        b"decoder/layer_3/self_attention/linear_0/weight\0": [
            attention.q_proj.weight,
            attention.k_proj.weight,
            attention.v_proj.weight,
        ],
        b"encoder/conv2/weight\0": [model.model.encoder.conv2.weight],
        b"decoder/embeddings/weight\0": [model.proj_out.weight],
    }
    for name, tensors in places.items():
        at = data.index(name) + len(name)
        at += 1 + 4 * data[at] + 1 + 4  # the shape, the type and the count of bytes
        stored = b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)
        assert data[at : at + len(stored)] == stored, name
