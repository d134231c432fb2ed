"""The flags of `headrace serve`, and what --help says of them. Their values are checked elsewhere
(launcher/command/options.py)."""

import argparse
from typing import NoReturn

SPECULATIVE_EXAMPLE = '{"method": "ngram", "num_speculative_tokens": 4}'
_PARSERS = (
    "how the model writes calls: hermes, llama3_json, mistral, deepseek, pythonic, or"
    ' generic:{"start": "<call>", "end": "</call>"}'
)


class BadFlag(Exception):
    """The text says what is wrong."""


# Where a flag is not called as its key is.
_FLAGS = {
    "kv_cache_bytes": "--kv-cache-memory-bytes",
    "memory_utilization": "--gpu-memory-utilization",
    "shutdown_timeout_s": "--shutdown-timeout",
    "stall_timeout_s": "--stall-timeout",
    "request_timeout_s": "--request-timeout",
    "start_timeout_s": "--start-timeout",
    "wake_timeout_s": "--wake-timeout",
    "log_stats_interval_s": "--log-stats-interval",
    "scale_up_window_s": "--scale-up-window",
    "scale_down_window_s": "--scale-down-window",
    "response_store_max_age_s": "--response-store-max-age",
}


def flag_of(key: str) -> str:
    """What the flag for an option is called."""
    return _FLAGS.get(key, "--" + key.replace("_", "-"))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadFlag(message)


def new_parser() -> argparse.ArgumentParser:
    """Its values are text, by the keys of options; only what was given is in them. BadFlag for what
    is no flag."""
    parser = _Parser(
        prog="headrace serve",
        description="Serve language models over HTTP from a pool of workers.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    _add_pool_flags(parser)
    _add_log_flags(parser)
    _add_group_flags(parser)
    _add_autoscaling_flags(parser)
    _add_answer_flags(parser)
    return parser


def _add_pool_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the pool").add_argument
    add("--config", metavar="FILE.toml", help="pool and groups from a file; flags go before it")
    add("--host", help="address to listen on (127.0.0.1)")
    add("--port", help="port to listen on, 0 for any (8000)")
    add("--uds", metavar="PATH", help="listen on a Unix socket instead")
    add("--frontends", "--api-server-count", dest="frontends", help="HTTP processes (2)")
    add("--root-path", help="prefix under which a proxy serves this server")
    add("--metrics-prefix", help="of metric names (headrace:); vllm for dashboards of vLLM")
    add("--max-body-bytes", help="largest request body (8388608)")
    add("--enable-tokenizer-info", action="store_true", help="serve /tokenizer_info")
    add("--shutdown-timeout", dest="shutdown_timeout_s", help="seconds to finish requests (30)")
    add(
        "--request-timeout",
        dest="request_timeout_s",
        metavar="S",
        help="seconds after which a request that is not answered is ended (never)",
    )
    add("--max-replays", help="of a request whose workers fail (3)")
    add("--stall-timeout", dest="stall_timeout_s", help="seconds without a step (10)")
    add("--start-timeout", dest="start_timeout_s", help="seconds until a worker is ready (600)")
    add("--warm-starts", action=argparse.BooleanOptionalAction, help="fork workers (on)")
    add(
        "--wake-on-demand",
        action=argparse.BooleanOptionalAction,
        help="requests wake a pool that sleeps (on)",
    )
    add("--wake-timeout", dest="wake_timeout_s", help="seconds that they wait for it (120)")
    add(
        "--reject-while-scaling",
        action="store_true",
        help="503 for requests while workers are added or removed",
    )
    add("--enable-admin", action="store_true", help="serve /sleep, /wake_up and such to everybody")
    add("--lora-dir", metavar="FOLDER", help="where adapters lie that are loaded later (anywhere)")
    add("--profile-dir", metavar="FOLDER", help="where /start_profile has traces written (nowhere)")
    add("--profile-max-seconds", metavar="S", help="after which a profile ends by itself (60)")
    add(
        "--response-store-url", metavar="URL", help="of /v1/responses (a file in the run directory)"
    )
    add(
        "--response-store-max-age",
        dest="response_store_max_age_s",
        metavar="S",
        help="seconds that responses are kept (2592000)",
    )
    add("--response-store-max-count", metavar="N", help="responses that are kept (10000)")
    add("--tool-server", help="tools that responses may use: demo, or host:port,... of MCP servers")
    add("--log-level", help="debug, info, warning or error (info)")
    add("--run-dir", help="for sockets and metrics (a new temporary folder)")


def _add_log_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is logged").add_argument
    add("--disable-log-stats", action=argparse.BooleanOptionalAction, help="throughput (logged)")
    add(
        "--log-stats-interval",
        dest="log_stats_interval_s",
        metavar="S",
        help="seconds between its lines while there is work (10)",
    )
    add("--enable-log-requests", action=argparse.BooleanOptionalAction, help="prompts (off)")
    add("--enable-log-outputs", action="store_true", help="texts too")
    add("--max-log-len", help="characters or token ids of each (all)")


def _add_answer_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("chats and answers").add_argument
    add("--chat-template", help="file with a Jinja template, or the template")
    add("--chat-template-content-format", help="text parts: auto, string or openai (auto)")
    add("--default-chat-template-kwargs", metavar="JSON", help="what templates get")
    add(
        "--trust-request-chat-template",
        action=argparse.BooleanOptionalAction,
        help="run templates that requests bring (off)",
    )
    add("--response-role", help="whose messages the answers are (assistant)")
    add("--max-logprobs", help="that a request may ask for, -1 for all (20)")
    add("--generation-config", help="sampling defaults: auto, vllm (none) or a folder (auto)")
    add("--override-generation-config", metavar="JSON", help="goes before those")
    add(
        "--return-tokens-as-token-ids", action="store_true", help='tokens of logprobs: "token_id:5"'
    )
    add(
        "--enable-prompt-tokens-details",
        action=argparse.BooleanOptionalAction,
        help="cached tokens in the usage (on)",
    )
    add("--enable-force-include-usage", action="store_true", help="usage at the end of all streams")


def _add_autoscaling_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how many workers it has").add_argument
    add("--min-workers", help="with a changing load; 0: none without requests (1)")
    add("--max-workers", help="at most (what --workers says)")
    add("--scale-target-requests", metavar="N", help="in each worker (0.6 of --max-num-seqs)")
    add("--scale-target-tokens", metavar="N", help="of prompts that wait in each (any number)")
    add(
        "--scale-up-window",
        dest="scale_up_window_s",
        metavar="S",
        help="seconds for which more must be needed (10)",
    )
    add(
        "--scale-down-window",
        dest="scale_down_window_s",
        metavar="S",
        help="seconds for which fewer must do (300)",
    )


def _add_group_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the model").add_argument
    add("--model", help="folder, GGUF file or hub id (SmolLM2-135M-Instruct)")
    add("--served-model-name", nargs="+", help="names that requests may use; the first is shown")
    add("--reasoning-parser", help="deepseek_r1, qwen3, or a JSON object with start and end (none)")
    add("--enable-auto-tool-choice", action="store_true", help="let models decide to call tools")
    add("--tool-call-parser", metavar="NAME", help=_PARSERS)
    add("--tool-parser-plugin", metavar="FILE.py", help="a file that registers further parsers")
    add("--exclude-tools-when-tool-choice-none", action="store_true", help="from prompts, that is")
    add("--workers", "--data-parallel-size", dest="workers", help="(one per GPU, one on a CPU)")
    add(
        "--sleep-idle-seconds",
        metavar="S",
        help="a worker without requests for so long sleeps (never)",
    )
    add("--sleep-idle-level", help="1: its cache goes, 2: its weights, too (1)")
    add("--enable-lora", action=argparse.BooleanOptionalAction, help="take LoRA adapters (off)")
    add(
        "--lora-modules",
        nargs="+",
        metavar="NAME=PATH",
        help="adapters served from the start: folders or hub ids",
    )
    add("--max-loras", help="adapters in one engine step (8)")
    add("--max-lora-rank", help="the largest of an adapter (16)")
    add("--cpu-kernels", choices=["auto", "native", "torch"], help="what runs it on a CPU (auto)")
    add("--threads", help="CPU threads of each worker (the CPUs shared out)")
    add("--device", help="auto, cpu or cuda (auto)")
    add("--dtype", help="auto, float32, bfloat16 or float16 (auto)")
    add("--quantization", "-q", dest="quantization", help="int8 or int8_dynamic, on a CPU (none)")
    add("--max-model-len", help="tokens of prompt and output (the model's)")
    add("--max-num-seqs", help="requests in a batch (128)")
    add("--max-queue-requests", help="that may wait in each worker; more get 429 (any number)")
    add("--max-queue-tokens", help="prompt tokens that may wait in each worker (any number)")
    add("--max-num-batched-tokens", help="tokens in an engine step (CPU: 512, GPU: 8192)")
    add("--kv-cache-memory-bytes", dest="kv_cache_bytes", help="per worker (from free memory)")
    add("--gpu-memory-utilization", dest="memory_utilization", help="share of a GPU (0.9)")
    add("--block-size", help="tokens in a cache block (16)")
    add("--enable-prefix-caching", action=argparse.BooleanOptionalAction, help="(on)")
    add("--enforce-eager", action="store_true", help="no CUDA graphs")
    add(
        "--speculative-config",
        metavar="JSON",
        help=f"guess tokens by n-grams of the text: {SPECULATIVE_EXAMPLE} (off)",
    )
    add("--seed", help="for requests that bring none (unpredictable)")
    add("--engine", help=argparse.SUPPRESS)
    add("--fake-step-s", help=argparse.SUPPRESS)
