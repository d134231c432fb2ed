"""/score and /rerank: by cross-encoders, by embeddings, and by late interaction."""

import math
from array import array
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client
from tokenizers import Tokenizer, processors

from headrace.frontend.pooling import late_interaction
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.frontend.text.pair_template import pair_template_of
from headrace.protocol.to_frontend import Pooled
from headrace.protocol.to_worker import Encode
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.frontend.pooling.models import client_of, post, rejected
from tests.frontend.text.tokenizers_for_tests import SPECIAL, byte_level

QUERY, GOOD, BAD = "capital of France", "Paris is the capital.", "Cats are small."
# What the fake pool's workers return for a text of these.
VECTORS = {QUERY: (1.0, 0.0, 0.0), GOOD: (3.0, 4.0, 0.0), BAD: (0.0, 0.0, 2.0)}


def pooled(*numbers: float, width: int = 0) -> Pooled:
    shape = (len(numbers) // width, width) if width else (len(numbers),)
    return Pooled(array("f", numbers).tobytes(), shape)


@pytest.fixture
def pair_text(pooling_text: ModelTokenizer) -> ModelTokenizer:
    """A tokenizer that joins pairs as BERT's does."""
    backend = Tokenizer.from_str(pooling_text.backend.to_str())
    start, end = SPECIAL[1:3]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B:1 {end}:1",
        special_tokens=[(start, 1), (end, 2)],
    )
    return ModelTokenizer(pooling_text.info, backend)


@pytest.fixture
def embedder(make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool) -> Client:
    ids = {pooling_text.backend.encode(text).ids[1]: text for text in VECTORS}
    assert len(ids) == len(VECTORS)
    pool.numbers = lambda request: pooled(*VECTORS[ids[request.prompt_token_ids[1]]])
    return client_of(make_app, pooling_text, tasks=("embed", "token_embed"))


@pytest.fixture
def scorer(make_app: MAKE_APP, pair_text: ModelTokenizer, pool: FakePool) -> Client:
    """A model that scores a pair by how many tokens its second text has."""

    def score(request: Encode) -> Pooled:
        return pooled(sum(request.token_type_ids) / 64)

    pool.numbers = score
    info = {"tasks": ("classify", "score"), "size": 1, "has_token_types": True}
    return client_of(make_app, pair_text, **info)


@pytest.mark.parametrize("path", ["/score", "/v1/score", "/invocations"])
async def test_scores_by_embeddings(embedder: Client, pool: FakePool, path: str) -> None:
    status, body = await post(embedder, path, model="smol", text_1=QUERY, text_2=[GOOD, BAD])
    assert status == 200
    assert body["id"].startswith("score-")
    assert [item["score"] for item in body["data"]] == pytest.approx([0.6, 0.0])
    assert [(item["index"], item["object"]) for item in body["data"]] == [
        (0, "score"),
        (1, "score"),
    ]
    tokens = sum(len(request.prompt_token_ids) for request in pool.encoded)
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] == tokens
    assert len(pool.encoded) == 3  # the query is encoded once
    assert {request.task for request in pool.encoded} == {"embed"}


async def test_as_many_queries_as_documents(embedder: Client) -> None:
    for first, second in (("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2")):
        fields = {first: [QUERY, BAD], second: [GOOD, BAD]}
        _, body = await post(embedder, "/score", **fields)
        assert [item["score"] for item in body["data"]] == pytest.approx([0.6, 1.0])
    _, body = await post(embedder, "/score", queries=QUERY, items=GOOD)
    assert [item["score"] for item in body["data"]] == pytest.approx([0.6])


@pytest.mark.parametrize(
    ("similarity", "wanted"), [("dot", 3.0), ("euclidean", -math.sqrt(20)), ("manhattan", -6.0)]
)
async def test_the_authors_similarity(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool, similarity: str, wanted: float
) -> None:
    client = client_of(make_app, pooling_text, tasks=("embed",), similarity=similarity)
    vectors = iter((VECTORS[QUERY], VECTORS[GOOD]))
    pool.numbers = lambda request: pooled(*next(vectors))
    _, body = await post(client, "/score", text_1=QUERY, text_2=GOOD)
    assert body["data"][0]["score"] == pytest.approx(wanted)


async def test_prompts_of_queries_and_documents(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool
) -> None:
    prompts = {"query": "ask: ", "passage": "tell: ", "other": "x"}
    info = {"tasks": ("embed",), "prompts": prompts, "default_prompt": "other"}
    client = client_of(make_app, pooling_text, **info)
    await post(client, "/rerank", query=QUERY, documents=[GOOD])
    shown = [pooling_text.backend.decode(each.prompt_token_ids) for each in pool.encoded]
    assert shown == [f"ask: {QUERY}", f"tell: {GOOD}"]
    pool.encoded.clear()
    names = {"retrieval.query": "ask: ", "search_document": "tell: "}
    client = client_of(make_app, pooling_text, tasks=("embed",), prompts=names)
    await post(client, "/rerank", query=QUERY, documents=[GOOD])
    shown = [pooling_text.backend.decode(each.prompt_token_ids) for each in pool.encoded]
    assert shown == [f"ask: {QUERY}", f"tell: {GOOD}"]
    # The default is for texts of no kind; an empty prompt of a kind stays empty.
    for prompts in ({"other": "x"}, {"other": "x", "query": "", "document": ""}):
        pool.encoded.clear()
        client = client_of(make_app, pooling_text, **{**info, "prompts": prompts})
        await post(client, "/rerank", query=QUERY, documents=[GOOD])
        shown = [pooling_text.backend.decode(each.prompt_token_ids) for each in pool.encoded]
        assert shown == [QUERY, GOOD]


@pytest.mark.parametrize("round_bytes", [1 << 25, 20])
async def test_late_interaction(
    make_app: MAKE_APP,
    pooling_text: ModelTokenizer,
    pool: FakePool,
    round_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Workers compare: second texts come to them with the vectors of the first ones."""
    monkeypatch.setattr(late_interaction, "_ROUND_BYTES", round_bytes)
    firsts = {5: pooled(1.0, 0.0, 0.0, 1.0, width=2), 6: pooled(0.5, 0.25, width=2)}

    def compare(request: Encode) -> Pooled:
        (name,) = request.prompt_token_ids[1:-1]
        if not request.compared_with:
            return firsts[name]
        assert request.compared_with == firsts[5 if name < 9 else 6].data
        return pooled(float(name))

    pool.numbers = compare
    client = client_of(make_app, pooling_text, tasks=("token_embed",))
    five, six, seven, nine = (pooling_text.backend.decode([id_]) for id_ in (5, 6, 7, 9))
    _, body = await post(client, "/score", text_1=five, text_2=[seven, six, seven])
    assert [item["score"] for item in body["data"]] == [7.0, 6.0, 7.0]
    _, body = await post(client, "/score", text_1=[five, six], text_2=[seven, nine])
    assert [item["score"] for item in body["data"]] == [7.0, 9.0]
    assert {request.task for request in pool.encoded} == {"token_embed"}
    assert len(pool.encoded) == 4 + 4


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/invocations"])
async def test_rerank_by_a_cross_encoder(
    scorer: Client, pair_text: ModelTokenizer, pool: FakePool, path: str
) -> None:
    documents = ["a", "b c d e f g", "h i j"]
    status, body = await post(scorer, path, query=QUERY, documents=documents, top_n=2)
    assert status == 200
    assert [item["index"] for item in body["results"]] == [1, 2]
    document = {"text": documents[1], "multi_modal": None}
    assert body["results"][0]["document"] == document
    assert {request.task for request in pool.encoded} == {"score"}
    for request, text in zip(pool.encoded, documents, strict=True):
        pair = pair_text.backend.encode(QUERY, text)
        assert list(request.prompt_token_ids) == pair.ids
        assert list(request.token_type_ids) == pair.type_ids
        assert sum(pair.type_ids) > 0
    tokens = sum(len(request.prompt_token_ids) for request in pool.encoded)
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


async def test_forms_of_documents(scorer: Client) -> None:
    content = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    documents = [{"text": "a"}, {"content": content}, "d"]
    _, body = await post(scorer, "/rerank", query={"text": QUERY}, documents=documents, top_n=None)
    assert len(body["results"]) == 3
    shown = {item["index"]: item["document"]["text"] for item in body["results"]}
    assert shown == {0: "a", 1: "b\nc", 2: "d"}
    _, body = await post(
        scorer, "/rerank", query=QUERY, documents="a", top_n=0, return_documents=False
    )
    assert [sorted(item) for item in body["results"]] == [["index", "relevance_score"]]


async def test_equal_scores_keep_their_order(scorer: Client) -> None:
    _, body = await post(scorer, "/rerank", query=QUERY, documents=["a", "b", "c"])
    assert [item["index"] for item in body["results"]] == [0, 1, 2]


IMAGE = {"content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "body.text_1"),
        ({"text_1": "a"}, "body.text_2"),
        ({"text_1": [], "text_2": "a"}, "text_1"),
        ({"text_1": "a", "text_2": []}, "text_2"),
        ({"text_1": "a", "text_2": ["b", 1]}, "body.text_2"),
        ({"text_1": None, "text_2": "a"}, "body.text_1"),
        ({"text_1": "a", "text_2": IMAGE}, "body.text_2"),
        ({"text_1": "a", "text_2": {}}, "body.text_2"),
        ({"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_2"),
        ({"text_1": ["a", "b"], "text_2": "a"}, "text_2"),
        ({"queries": ["a", "b"], "documents": ["a"]}, "documents"),
        ({"text_1": "a", "text_2": ["a"] * 2049}, "text_2"),
        ({"text_1": "a", "text_2": "Hello " * 100}, "input_tokens"),
        ({"text_1": "Hello " * 5000, "text_2": "a"}, "input_tokens"),
        ({"text_1": "a", "text_2": "b", "max_tokens_per_doc": 64}, "max_tokens_per_doc"),
        ({"text_1": "a", "text_2": "b", "max_tokens_per_query": -1}, "max_tokens_per_query"),
        ({"text_1": "a", "text_2": "b", "truncate_prompt_tokens": 65}, "truncate_prompt_tokens"),
        ({"text_1": "a", "text_2": "b", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ],
)
@pytest.mark.parametrize("kind", ["scorer", "embedder"])
async def test_what_cannot_be_scored_names_its_field(
    kind: str, pool: FakePool, request: pytest.FixtureRequest, fields: dict[str, Any], param: str
) -> None:
    assert await rejected(request.getfixturevalue(kind), "/score", **fields) == param
    assert pool.encoded == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": "a"}, "body.documents"),
        ({"query": ["a"], "documents": ["b"]}, "body.query"),
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": ["b"], "top_n": -1}, "top_n"),
        ({"query": "a", "documents": ["b"], "top_n": "1"}, "body.top_n"),
    ],
)
async def test_what_cannot_be_ranked_names_its_field(
    scorer: Client, fields: dict[str, Any], param: str
) -> None:
    assert await rejected(scorer, "/rerank", **fields) == param


async def test_models_that_score_in_no_way(
    client: Client, make_app: MAKE_APP, pooling_text: ModelTokenizer
) -> None:
    labels = client_of(make_app, pooling_text, tasks=("classify",), labels=("a", "b", "c"))
    for asked in (client, labels):
        status, body = await post(asked, "/score", text_1="a", text_2="b")
        assert (status, body["detail"]) == (404, "Not Found")
        assert "does not score" in body["error"]["message"]


@pytest.mark.parametrize(("kind", "param"), [("scorer", "documents"), ("embedder", "query")])
async def test_failures_of_workers_name_the_field(
    kind: str, param: str, pool: FakePool, request: pytest.FixtureRequest
) -> None:
    pool.error = "input: no numbers"
    client = request.getfixturevalue(kind)
    assert await rejected(client, "/rerank", query=QUERY, documents=[GOOD]) == param


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("keep", [-1, 7, 12])
async def test_pairs_are_cut_as_tokenizers_do(
    scorer: Client, pair_text: ModelTokenizer, pool: FakePool, side: Any, keep: int
) -> None:
    backend = Tokenizer.from_str(pair_text.backend.to_str())
    backend.enable_truncation(64 if keep == -1 else keep, strategy="longest_first", direction=side)
    for first, second in ((QUERY, GOOD * 20), (GOOD * 20, "a"), (GOOD * 20, BAD * 19), ("a", "b")):
        fields = {"text_1": first, "text_2": second, "truncation_side": side}
        status, _ = await post(scorer, "/score", **fields, truncate_prompt_tokens=keep)
        assert status == 200
        wanted = backend.encode(first, second)
        assert list(pool.encoded[-1].prompt_token_ids) == wanted.ids
        assert list(pool.encoded[-1].token_type_ids) == wanted.type_ids


@pytest.mark.parametrize("kind", ["scorer", "embedder"])
async def test_limits_of_each_side(
    kind: str, pair_text: ModelTokenizer, pool: FakePool, request: pytest.FixtureRequest
) -> None:
    limits = {"max_tokens_per_query": 2, "max_tokens_per_doc": 3, "truncation_side": "left"}
    fields = {"text_1": QUERY, "text_2": GOOD * 50, **limits}
    status, _ = await post(request.getfixturevalue(kind), "/score", **fields)
    assert status == 200
    encode = pair_text.backend.encode
    first = encode(QUERY, add_special_tokens=False).ids[:2]
    second = encode(GOOD, add_special_tokens=False).ids[:3]
    found = [list(each.prompt_token_ids) for each in pool.encoded]
    apart = [[1, *first, 2], [1, *second, 2]]
    assert found == (apart if kind == "embedder" else [[1, *first, 2, *second, 2]])


def test_templates_of_pairs() -> None:
    plain = byte_level()
    for processor in (
        None,
        processors.BertProcessing(("</s>", 2), ("<s>", 1)),
        processors.RobertaProcessing(("</s>", 2), ("<s>", 1)),
        processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        ),
    ):
        backend = Tokenizer.from_str(plain.to_str())
        if processor is not None:
            backend.post_processor = processor
        template = pair_template_of(backend)
        for first, second in ((QUERY, GOOD), ("b a", "a b"), ("", BAD), (QUERY, "")):
            pair = backend.encode(first, second)
            ids = [backend.encode(text, add_special_tokens=False).ids for text in (first, second)]
            assert list(template.join(*ids)) == pair.ids
            assert list(template.join_types(*map(len, ids))) == pair.type_ids
        assert template.num_special == backend.num_special_tokens_to_add(True)


TEMPLATE = (
    "{% for m in messages if m.role == 'query' %}{{ instruction or 'judge' }}: {{ m.content }}"
    "{% endfor %}{% for m in messages if m.role == 'document' %} ? {{ m.content }} !{% endfor %}"
)


async def test_generators_without_a_template_read_one_text_after_the_other(
    make_app: MAKE_APP, pair_text: ModelTokenizer, pool: FakePool
) -> None:
    """Clients write the prompts around a query and a document by themselves."""
    pool.numbers = lambda request: pooled(0.5)
    info = {"tasks": ("classify", "score"), "size": 1, "separates_pairs": False}
    client = client_of(make_app, pair_text, **info)
    status, _ = await post(client, "/score", text_1="The capi", text_2=["tal of", "tal"])
    assert status == 200
    wanted = [pair_text.backend.encode(text).ids for text in ("The capital of", "The capital")]
    assert [list(each.prompt_token_ids) for each in pool.encoded] == wanted
    apart = pair_text.backend.encode("The capi", "tal of", add_special_tokens=False).ids
    assert wanted[0][1:-1] != apart
    assert await rejected(client, "/score", text_1="a", text_2="b " * 70) == "input_tokens"


async def test_a_template_of_pairs(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool
) -> None:
    pool.numbers = lambda request: pooled(0.5)
    text = pooling_text.info.model_copy(update={"chat_template": TEMPLATE})
    model = ModelTokenizer(text, pooling_text.backend)
    client = client_of(make_app, model, tasks=("classify", "score"), size=1)
    fields: dict[str, Any] = {"query": "a", "documents": ["b", "c d e f"]}
    status, _ = await post(client, "/rerank", **fields)
    assert status == 200
    await post(client, "/rerank", **fields, instruction="rate", max_tokens_per_doc=1)
    await post(client, "/rerank", **fields, chat_template_kwargs={"instruction": "x"})
    shown = [pooling_text.backend.decode(each.prompt_token_ids) for each in pool.encoded]
    assert shown == [
        "judge: a ? b !", "judge: a ? c d e f !", "rate: a ? b !", "rate: a ? c !",
        "x: a ? b !", "x: a ? c d e f !",
    ]  # fmt: skip
    long = {"query": "a", "documents": ["Hello " * 70]}
    assert await rejected(client, "/rerank", **long) == "input_tokens"
