"""Command lines as flags and values: the ways in which names and values may be written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.launcher.command.given import BadFlag, Given, KnownFlag, read_mapping, read_words
from headrace.launcher.command.options import OptionError, known_flags, read_options

KNOWN = {
    "--port": KnownFlag("--port", "value"),
    "-p": KnownFlag("--port", "value"),
    "--model": KnownFlag("--model", "value"),
    "--max-model-len": KnownFlag("--max-model-len", "value"),
    "--names": KnownFlag("--names", "values"),
    "--token": KnownFlag("--token", "optional"),
    "--part": KnownFlag("--part", "append"),
    "--extra-config": KnownFlag("--extra-config", "json"),
    "-ec": KnownFlag("--extra-config", "json"),
    "--enable-x": KnownFlag("--enable-x", "switch"),
    "--disable-y": KnownFlag("--disable-y", "set"),
    "--optimization-level": KnownFlag("--optimization-level", "value"),
    "-O": KnownFlag("--optimization-level", "value"),
}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", {}),
        ("some/model --port 1", {"--model": "some/model", "--port": "1"}),
        ("--port 1 some/model", {"--model": "some/model", "--port": "1"}),
        ("--model a b", {"--model": "b"}),  # the positional one wins, as in the reference
        ("--port=1", {"--port": "1"}),
        ("-p 1", {"--port": "1"}),
        ("--port 1 --port 2", {"--port": "2"}),
        ("--max_model_len -1", {"--max-model-len": "-1"}),
        ("--max_model_len=8_k", {"--max-model-len": "8_k"}),
        ("--names a b --port 1", {"--names": ("a", "b"), "--port": "1"}),
        ("--names=a b", {"--names": ("a",), "--model": "b"}),
        ("--token", {"--token": True}),
        ("--token --port 1", {"--token": True, "--port": "1"}),
        ("--token hf_1", {"--token": "hf_1"}),
        ("--part a --part b", {"--part": ("a", "b")}),
        ("--enable-x", {"--enable-x": True}),
        ("--no-enable-x", {"--enable-x": False}),
        ("--disable-x", {"--enable-x": False}),
        ("--enable_y", {"--disable-y": False}),
        ("--no-enable-y", {"--disable-y": True}),
        ("--enable-x False", {"--enable-x": False}),
        ("--enable-x=true", {"--enable-x": True}),
        ("--no-enable-x=true", {"--enable-x": False}),
        ("--extra-config {}", {"--extra-config": "{}"}),
        ("--extra-config.a.b_c 1", {"--extra-config": {"a": {"b_c": 1}}}),
        (f"-ec.a {'9' * 400}k", {"--extra-config": {"a": "9" * 400 + "k"}}),
        ("--extra_config.a=x --extra_config.b 8k", {"--extra-config": {"a": "x", "b": 8000}}),
        ("-ec.mode 3", {"--extra-config": {"mode": 3}}),
        ('-ec {"a":1,"b":{"c":2}} -ec.b.d 3', {"--extra-config": {"a": 1, "b": {"c": 2, "d": 3}}}),
        ("--extra-config.l+ a,b --extra-config.l+=c", {"--extra-config": {"l": ["a", "b", "c"]}}),
        ("-O3", {"--optimization-level": "3"}),
        ("-O=3", {"--optimization-level": "3"}),
        ("-O 3", {"--optimization-level": "3"}),
    ],
)  # fmt: skip
def test_ways_to_write_flags(words: str, expected: dict[str, Given]) -> None:
    assert read_words(words.split(), KNOWN) == expected


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--prot 1", r"--prot: no such flag \(did you mean --port\?\)"),
        ("--port", "--port: needs a value"),
        ("--port --names a", "--port: needs a value"),
        ("--names", "--names: needs a value"),
        ("a b", "'b': is neither"),
        ("--enable-x=maybe", "--enable-x: takes no value"),
        ("--no-port 1", "--no-port: no such flag"),
        ("--port.a 1", "--port.a: no such key"),
        ("--extra-config. 1", "no such key"),
        ("--extra-config" + ".a" * 10_000 + " 1", "no such key"),
        ("--extra-config [1] --extra-config.a 1", "--extra-config: is not an object"),
        ("--no-no-enable-x", "no such flag"),
        ("--x" + "y" * 100_000, "no such flag"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(words: str, named: str) -> None:
    with pytest.raises(BadFlag, match=named) as caught:
        read_words(words.split(), KNOWN)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_values_of_a_file() -> None:
    options = {
        "model": "m",
        "port": 1,
        "names": ["a", 2],
        "token": None,
        "enable_x": False,
        "disable-x": True,
        "extra-config": {"a": [1, 2]},
        "extra-config.b": 2,
        "part": "a",
    }
    assert read_mapping(options.items(), KNOWN) == {
        "--model": "m",
        "--port": "1",
        "--names": ("a", "2"),
        "--enable-x": False,
        "--extra-config": {"a": [1, 2], "b": 2},
        "--part": ("a",),
    }


@pytest.mark.parametrize(("key", "value"), [("prot", 1), ("enable-x", "maybe"), (7, 1)])
def test_what_a_file_must_not_hold(key: object, value: object) -> None:
    with pytest.raises(BadFlag, match=f"--{key}"):
        read_mapping([(key, value)], KNOWN)


def test_short_forms_of_the_reference() -> None:
    read = read_words("m -tp 1 -pp 1 -dp 2 -q int8 -asc 1 -cc.mode 0 -ep".split(), known_flags())
    assert read == {
        "--model": "m",
        "--tensor-parallel-size": "1",
        "--pipeline-parallel-size": "1",
        "--workers": "2",
        "--quantization": "int8",
        "--frontends": "1",
        "--compilation-config": {"mode": 0},
        "--enable-expert-parallel": True,
    }


FLAG_NAMES = sorted(known_flags().keys() - {"--config"})
WORD = st.one_of(
    st.sampled_from(FLAG_NAMES),
    st.sampled_from(["{}", "[]", "1", "-1", "true", "None", "", "-", "--", "=", '{"a": {"b": 1}}']),
    st.builds("{}={}".format, st.sampled_from(FLAG_NAMES), st.text(max_size=8)),
    st.builds("{}.{}".format, st.sampled_from(FLAG_NAMES), st.text("ab._+", max_size=6)),
    st.text(max_size=12).filter(lambda text: text.partition("=")[0] not in ("-h", "--help")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORD, max_size=8))
def test_any_words_are_options_or_one_line(words: list[str]) -> None:
    try:
        read_options(words, {})
    except OptionError as error:
        text = str(error)
    else:
        return
    assert text
    assert len(text.splitlines()) == 1
    assert len(text) < 1000
