"""The names that configurations of transformers have for their sizes."""

from typing import Any

WIDTHS = """hidden_size d_model n_embd emb_dim embedding_size word_embed_proj_dim lru_width
    attention_hidden_size dim_model embedding_dim embed_dim input_embedding_size
    output_embedding_size""".split()
INNER = """intermediate_size ffn_dim ffn_hidden_size decoder_ffn_dim encoder_ffn_dim dff d_ff
    dim_ff intermediate_size_mlp dense_intermediate_size d_inner feed_forward_size""".split()
EXPERT_INNER = """moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size
    expert_ffn_hidden_size shared_experts_intermediate_size router_hidden_size
    moe_shared_expert_intermediate_size prefix_dense_intermediate_size expert_dim""".split()
LAYERS = """num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers
    num_decoder_layers num_encoder_layers num_blocks depth
    layers""".split()
HEADS = """num_attention_heads n_head n_heads num_heads decoder_attention_heads
    encoder_attention_heads attention_heads num_encoder_attention_heads
    num_decoder_attention_heads swa_num_attention_heads linear_num_heads""".split()
KV_HEADS = """num_key_value_heads kv_n_heads num_kv_heads swa_num_key_value_heads
    num_query_groups""".split()
HEAD_DIMS = """head_dim d_head dim_head kv_channels swa_head_dim swa_v_head_dim d_kv
    attention_head_size""".split()
VOCAB = "vocab_size vocab_size_per_layer_input decoder_vocab_size output_vocab_size".split()
LENGTHS = """max_position_embeddings n_positions n_ctx max_seq_len model_max_length
    max_target_positions context_length seq_length""".split()
WINDOWS = """sliding_window sliding_window_size attention_window_size local_attention
    attention_chunk_size window_size local_attention_window_len swa_window""".split()
EXPERTS = "num_experts num_local_experts n_routed_experts moe_num_experts".split()
TOP_EXPERTS = """num_experts_per_tok num_experts_per_token moe_topk moe_top_k moe_k
    top_k_experts""".split()
# Sizes that matter to one mechanism, where the default is a larger number.
SMALL: dict[str, Any] = {
    "n_group": 2, "topk_group": 1, "num_expert_group": 2, "zero_expert_num": 2,
    "first_k_dense_replace": 1, "num_dense_layers": 1, "n_shared_experts": 1,
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8,
    "qk_head_dim": 20, "v_head_dim": 12, "o_lora_rank": 16, "o_groups": 2,
    "laurel_rank": 8, "gated_norm_rank": 8, "adapter_rank": 8, "hc_lowrank": 8,
    "loop_gate_rank": 8, "hidden_size_per_layer_input": 16, "query_pre_attn_scalar": 24,
    "attn_logit_softcapping": 5.0, "final_logit_softcapping": 20.0,
    "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 16, "state_size": 8,
    "ssm_state_size": 8, "n_groups": 2, "chunk_size": 16, "time_step_rank": 8,
    "mamba_dt_rank": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_head_dim": 8,
    "index_head_dim": 16, "index_n_heads": 16, "index_topk": 32, "index_block_size": 8,
    "index_topk_blocks": 2, "original_max_position_embeddings": 64, "floor_scale": 32,
    "log_scaling_n_floor": 32, "rel_extent": 48, "keep_window_size": 24, "max_window_layers": 1,
    "num_nextn_predict_layers": 0, "num_mtp_layers": 0, "rotary_dim": 8, "d_rel": 4,
    "ngram_vocab_size_base": 64, "split_ngram_parts": 1, "ple_embed_dim": 16,
    "n_layers_per_attn_res_block": 2, "block_multiple_of": 8,
    "encoder_hash_byte_group_vocab": 64, "pronunciation_embed_dim": 16, "shape_embed_dim": 16,
    "pronunciation_vocab_size": 32, "shape_vocab_size": 32,
    "make_ngram_vocab_size_divisible_by": 8,
}  # fmt: skip
# Factors that the default leaves at 1, where a product that is missing would not show.
FACTORS: dict[str, Any] = {
    "attention_multiplier": 0.3, "residual_multiplier": 0.7, "embedding_multiplier": 2.0,
    "logits_scaling": 1.5, "key_multiplier": 0.8, "lm_head_multiplier": 0.7,
    "attention_in_multiplier": 0.9, "attention_out_multiplier": 1.2, "ssm_in_multiplier": 1.1,
    "ssm_out_multiplier": 0.9, "attn_scale": 0.5, "logit_scale": 0.5,
}  # fmt: skip
PLAIN: dict[str, Any] = {
    "is_decoder": True, "add_cross_attention": False, "architectures": None, "dtype": None,
    "forced_eos_token_id": None, "begin_suppress_tokens": None, "suppress_tokens": None,
    "use_cache": True, "use_mamba_kernels": False, "initializer_range": 0.02,
}  # fmt: skip
