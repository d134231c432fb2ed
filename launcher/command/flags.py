"""The flags of `headrace serve`: the names of options on the command line, by groups.

What an option means is the description of its field (headrace.protocol.config,
headrace.launcher.command.options), from which --help and the tables of the documentation are made.
"""

from dataclasses import dataclass
from typing import get_args

from headrace.launcher.command.given import Kind
from headrace.protocol.autoscaling import DOWN_WINDOW_S, TARGET_SHARE, UP_WINDOW_S
from headrace.protocol.config import CpuKernels


@dataclass(frozen=True)
class Flag:
    """The flag of an option.

    key: of the option, and of its field.
    default: in words, where the field's default value says nothing.
    aliases: further names. kind: "switch" shows its --no- form, which "set" has, too.
    help: of a flag that is not an option of the pool or a group.
    """

    key: str
    default: str = ""
    aliases: tuple[str, ...] = ()
    metavar: str | None = None
    kind: Kind = "value"
    choices: tuple[str, ...] | None = None
    help: str = ""
    is_hidden: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The flag and its aliases."""
        return flag_of(self.key), *self.aliases


_POOL = (
    Flag(
        "config",
        metavar="FILE",
        help=(
            "file with options: .toml (of the pool and its groups) or .yaml (flags by their "
            "names); flags take precedence"
        ),
    ),
    Flag("metrics_prefix"),
    Flag("max_replays"),
    Flag("stall_timeout_s"),
    Flag("start_timeout_s"),
    Flag("warm_starts", kind="switch"),
    Flag("reload_surge", kind="switch"),
    Flag("wake_on_demand", kind="switch"),
    Flag("wake_timeout_s"),
    Flag("lora_dir", "anywhere", metavar="FOLDER"),
    Flag("profile_dir", "nowhere", metavar="FOLDER"),
    Flag("profile_max_seconds", metavar="S"),
    Flag("tool_server", "none"),
    Flag("run_dir", "a new temporary folder", help="folder for sockets and metrics"),
)
_HTTP = (
    Flag("host"),
    Flag("port"),
    Flag("uds", metavar="PATH"),
    Flag("frontends", aliases=("--api-server-count", "-asc")),
    Flag("root_path"),
    Flag("max_body_bytes"),
    Flag("strict_fields", kind="set"),
    Flag("max_header_bytes", aliases=("--h11-max-incomplete-event-size",)),
    Flag("max_headers", aliases=("--h11-max-header-count",)),
    Flag("keep_alive_s", metavar="S"),
    Flag("allowed_origins", "none", metavar="JSON", kind="json"),
    Flag("allowed_methods", "all", metavar="JSON", kind="json"),
    Flag("allowed_headers", "all", metavar="JSON", kind="json"),
    Flag("allow_credentials", kind="switch"),
    Flag("middleware", "none", metavar="MODULE.NAME", kind="append"),
    Flag("enable_tokenizer_info", kind="set", aliases=("--enable-tokenizer-info-endpoint",)),
    Flag("disable_docs", kind="set", aliases=("--disable-fastapi-docs",)),
    Flag("shutdown_timeout_s"),
    Flag("request_timeout_s", "never", metavar="S"),
    Flag("sse_keep_alive_interval_s", metavar="S"),
)
_ACCESS = (
    Flag("api_keys", "none", metavar="KEY", kind="values"),
    Flag("api_key_file", "none", metavar="FILE"),
    Flag("admin_keys", "none", metavar="KEY", kind="values"),
    Flag("enable_admin", kind="set"),
    Flag("public_metrics", kind="set"),
    Flag("insecure", kind="set"),
    Flag("share_prefix_cache", kind="set"),
)
_TLS = (
    Flag("ssl_certfile", "none: HTTP without TLS", metavar="FILE"),
    Flag("ssl_keyfile", "in the certificate's file", metavar="FILE"),
    Flag("ssl_ca_certs", "none", metavar="FILE"),
    Flag("ssl_cert_reqs", choices=("0", "1", "2")),
    Flag("ssl_ciphers", "with forward secrecy and authenticated", metavar="CIPHERS"),
    Flag("enable_ssl_refresh", kind="switch"),
)
_CONNECTIONS = (
    Flag("max_connections", metavar="N"),
    Flag("max_connections_per_address", "1024 from other machines, else any number", metavar="N"),
    Flag("header_timeout_s", metavar="S"),
    Flag("body_timeout_s", metavar="S"),
    Flag("min_body_rate", metavar="BYTES"),
    Flag("write_timeout_s", metavar="S"),
    Flag("tls_handshake_timeout_s", metavar="S"),
    Flag("h2_max_streams", metavar="N"),
)
_LIMITS = (
    Flag("max_json_depth", metavar="N"),
    Flag("max_json_values", metavar="N"),
    Flag("max_token_ids", metavar="N"),
    Flag("max_n", metavar="N"),
    Flag("max_choices", metavar="N"),
    Flag("max_beams", metavar="N"),
    Flag("max_prompts", metavar="N"),
    Flag("max_inputs", metavar="N"),
    Flag("max_numbers", metavar="N"),
    Flag("max_messages", metavar="N"),
    Flag("max_content_parts", metavar="N"),
    Flag("max_documents", metavar="N"),
    Flag("max_stop", metavar="N"),
    Flag("max_stop_sequences", metavar="N"),
    Flag("max_stop_chars", metavar="N"),
    Flag("max_stop_token_ids", metavar="N"),
    Flag("max_bad_words", metavar="N"),
    Flag("max_logit_bias", metavar="N"),
    Flag("max_logprob_token_ids", metavar="N"),
    Flag("max_tools", metavar="N"),
    Flag("max_tool_chars", metavar="N"),
    Flag("max_tool_calls", metavar="N"),
    Flag("max_schema_chars", metavar="N"),
    Flag("max_schema_depth", metavar="N"),
    Flag("max_schema_nodes", metavar="N"),
    Flag("max_grammar_chars", metavar="N"),
    Flag("max_regex_chars", metavar="N"),
    Flag("max_structured_choices", metavar="N"),
    Flag("grammar_timeout_s", metavar="S"),
    Flag("max_chat_template_chars", metavar="N"),
    Flag("chat_template_timeout_s", metavar="S"),
    Flag("max_template_arguments", metavar="N"),
    Flag("max_template_argument_chars", metavar="N"),
    Flag("max_template_argument_depth", metavar="N"),
)
_SPEECH = (
    Flag("max_audio_clip_filesize_mb", metavar="MIB"),
    Flag("max_audio_decode_duration_s", metavar="S"),
    Flag("audio_decode_timeout_s", metavar="S"),
    Flag("audio_decoders", metavar="N"),
    Flag("max_audio_windows", metavar="N"),
    Flag("temperature_fallback", kind="switch"),
    Flag("compression_ratio_threshold", metavar="RATIO"),
    Flag("logprob_threshold", metavar="LOGPROB"),
    Flag("no_speech_threshold", metavar="PROBABILITY"),
    Flag("steady_no_speech_threshold", metavar="PROBABILITY"),
    Flag("rejected_no_speech_threshold", metavar="PROBABILITY"),
)
_STORE = (
    Flag("response_store_url", "a file in the run directory", metavar="URL"),
    Flag("response_store_max_age_s", metavar="S"),
    Flag("response_store_max_count", metavar="N"),
    Flag("file_dir", "in the run directory", metavar="FOLDER"),
    Flag("file_max_bytes"),
    Flag("file_store_max_bytes"),
    Flag("file_store_max_count", metavar="N"),
    Flag("file_store_max_age_s", metavar="S"),
    Flag("batch_share"),
)
_LOG = (
    Flag("log_level"),
    Flag("log_format"),
    Flag("log_config", "none", metavar="FILE"),
    Flag("access_log", "off", kind="switch", aliases=("--enable-uvicorn-access-log",)),
    Flag("access_log_except", "none", metavar="PATHS", aliases=("--no-access-log-for",)),
    Flag("http_log_level", "warning", metavar="LEVEL"),
    Flag("disable_log_stats", kind="switch"),
    Flag("log_stats_interval_s", metavar="S"),
    Flag("enable_log_requests", kind="switch"),
    Flag("enable_log_outputs", kind="set"),
    Flag("max_log_len", "all"),
    Flag("log_responses", kind="switch"),
    Flag("log_error_stack", kind="switch"),
)
_MODEL = (
    Flag("model", "SmolLM2-135M-Instruct"),
    Flag("served_model_name", "that of the folder or file, or the hub id", kind="values"),
    Flag("revision", "the newest"),
    Flag("tokenizer", "the model's"),
    Flag("tokenizer_revision", "the newest"),
    Flag("download_dir", "the hub's own cache", metavar="FOLDER"),
    Flag("hf_token", "HF_TOKEN, or what `hf auth login` has stored", kind="optional"),
    Flag("hf_overrides", "none", metavar="JSON", kind="json"),
    Flag("trust_remote_code", kind="switch"),
    Flag("allow_pickle_weights", kind="set"),
    Flag("enable_lora", kind="switch"),
    Flag("lora_modules", "none", metavar="NAME=PATH", kind="values"),
    Flag("max_loras"),
    Flag("max_lora_rank"),
    Flag("cpu_kernels", choices=get_args(CpuKernels)),
    Flag("threads", "an equal share of the CPUs"),
    Flag("cpu_weight", "100, or 25 for a model that pools"),
    Flag("runner"),
    Flag("convert"),
    Flag("task", is_hidden=True),
    Flag(
        "pooler_config", "none", metavar="JSON", kind="json", aliases=("--override-pooler-config",)
    ),
    Flag("device"),
    Flag("dtype"),
    Flag("quantization", "none", aliases=("-q",)),
    Flag("max_model_len", "the model's"),
    Flag("max_num_seqs"),
    Flag("max_queue_requests", "any number"),
    Flag("max_queue_tokens", "any number"),
    Flag("max_num_queued_reqs", "any number", metavar="N"),
    Flag("max_num_queued_tokens", "any number", metavar="N"),
    Flag("max_num_batched_tokens", "512 on a CPU, 8192 on a GPU"),
    Flag("kv_cache_bytes", "from free memory"),
    Flag("kv_cache_dtype"),
    Flag("memory_utilization", aliases=("--device-memory-utilization",)),
    Flag("block_size"),
    Flag("enable_prefix_caching", kind="switch"),
    Flag("enforce_eager", kind="set"),
    Flag("speculative_config", "off", metavar="JSON", kind="json", aliases=("-sc",)),
    Flag("seed", "unpredictable"),
    Flag("engine", is_hidden=True),
    Flag("fake_step_s", is_hidden=True),
)
_SCALING = (
    Flag("workers", "one per GPU, one on a CPU", aliases=("--data-parallel-size", "-dp")),
    Flag("min_workers", "1"),
    Flag("max_workers", "the number at the start"),
    Flag("scale_target_requests", f"{TARGET_SHARE} of --max-num-seqs", metavar="N"),
    Flag("scale_target_tokens", "any number", metavar="N"),
    Flag("scale_up_window_s", f"{UP_WINDOW_S:g}", metavar="S"),
    Flag("scale_down_window_s", f"{DOWN_WINDOW_S:g}", metavar="S"),
    Flag("sleep_idle_seconds", "never", metavar="S"),
    Flag("sleep_idle_level"),
    Flag("reject_while_scaling", kind="set"),
)
_ANSWERS = (
    Flag("chat_template", "the model's"),
    Flag("chat_template_content_format"),
    Flag("default_chat_template_kwargs", "none", metavar="JSON", kind="json"),
    Flag("trust_request_chat_template", kind="switch"),
    Flag("reasoning_parser"),
    Flag("reasoning_effort_map", "none", metavar="JSON", kind="json"),
    Flag("enable_auto_tool_choice", kind="set"),
    Flag("tool_call_parser", metavar="NAME"),
    Flag("tool_parser_plugin", "none", metavar="FILE.py"),
    Flag("tool_strict_level"),
    Flag("exclude_tools_when_tool_choice_none", kind="set"),
    Flag("response_role"),
    Flag("max_logprobs"),
    Flag("generation_config"),
    Flag("override_generation_config", "none", metavar="JSON", kind="json"),
    Flag("return_tokens_as_token_ids", kind="set"),
    Flag("enable_prompt_tokens_details", kind="switch"),
    Flag("enable_force_include_usage", kind="set"),
    Flag("enable_per_request_metrics", kind="set"),
    Flag("stream_interval", metavar="N"),
    Flag("fingerprint_mode"),
    Flag("fingerprint_value", "none", metavar="TEXT"),
)
FLAGS = {
    "the pool": _POOL,
    "HTTP": _HTTP,
    "TLS": _TLS,
    "connections": _CONNECTIONS,
    "limits": _LIMITS,
    "access": _ACCESS,
    "the model": _MODEL,
    "serving": _ANSWERS,
    "scaling": _SCALING,
    "transcription": _SPEECH,
    "what clients keep": _STORE,
    "logging": _LOG,
}

# Flags that do not have the names of their keys.
_NAMES = {
    "api_keys": "--api-key",
    "admin_keys": "--admin-key",
    "kv_cache_bytes": "--kv-cache-memory-bytes",
    "memory_utilization": "--gpu-memory-utilization",
    "shutdown_timeout_s": "--shutdown-timeout",
    "stall_timeout_s": "--stall-timeout",
    "request_timeout_s": "--request-timeout",
    "sse_keep_alive_interval_s": "--sse-keep-alive-interval",
    "start_timeout_s": "--start-timeout",
    "grammar_timeout_s": "--grammar-timeout",
    "chat_template_timeout_s": "--chat-template-timeout",
    "wake_timeout_s": "--wake-timeout",
    "keep_alive_s": "--keep-alive-timeout",
    "header_timeout_s": "--header-timeout",
    "body_timeout_s": "--body-timeout",
    "write_timeout_s": "--write-timeout",
    "tls_handshake_timeout_s": "--tls-handshake-timeout",
    "log_config": "--log-config-file",
    "access_log_except": "--disable-access-log-for-endpoints",
    "http_log_level": "--uvicorn-log-level",
    "log_stats_interval_s": "--log-stats-interval",
    "scale_up_window_s": "--scale-up-window",
    "scale_down_window_s": "--scale-down-window",
    "response_store_max_age_s": "--response-store-max-age",
    "file_store_max_age_s": "--file-store-max-age",
    "max_audio_decode_duration_s": "--max-audio-decode-duration",
    "audio_decode_timeout_s": "--audio-decode-timeout",
}


def flag_of(key: str) -> str:
    """Return the flag of an option."""
    return _NAMES.get(key, "--" + key.replace("_", "-"))
