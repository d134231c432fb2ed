"""What configurations of pictures and sound need beside the rules for all."""

from tests.models.changes import fixed
from tests.models.shrink import HIDDEN, Change

# By `model_type`: sizes that the rules leave large or unequal.
OVERRIDES_OF_OTHERS: dict[str, Change] = {
    "chameleon_vqgan": fixed(base_channels=32, num_res_blocks=1, num_embeddings=16, embed_dim=32),
    "dots3_note_audio_encoder": fixed(adapter_input_size=HIDDEN),
    "dots3_note_vision_encoder": fixed(adapter_in_dim=HIDDEN),
    "emu3_vqgan": fixed(base_channels=32, num_res_blocks=1, codebook_size=16, embed_dim=4),
    "florence_vision": fixed(
        depths=[1, 1, 1, 1], embed_dim=[8, 8, 8, 32], num_heads=[2] * 4, num_groups=[2] * 4
    ),
    "janus_vqgan": fixed(base_channels=32, num_res_blocks=1, num_embeddings=16),
    "llama4_vision_model": fixed(
        projector_input_dim=HIDDEN, projector_output_dim=HIDDEN, vision_output_dim=HIDDEN
    ),
    "molmo2_adapter": fixed(vision_feature_layer=[0, 1]),
    "muse_spark_audio": fixed(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4),
    "qwen2_5_omni_bigvgan": fixed(upsample_initial_channel=64),
    "radio": fixed(max_img_size=64),
    "vibevoice_acoustic_tokenizer_encoder": fixed(num_filters=2, depths=[1] * 7),
    "wavtokenizer_encoder": fixed(codebook_dim=HIDDEN),
}
