/* Tensor names of LLaVA's relatives. In files they come in three layouts (before transformers 4.52 and on the hub; in
 * memory since; with CLIP's inner wrapper gone); the original repository's are a table of their own. */
#include "model/family.h"

const sl_rename sl_llava_renames[SL_N_LLAVA_RENAME] = {
    {"model.", ""},
    {"language_model.model.", "language_model."},
    {"language_model.lm_head.", "lm_head."},
    {"layers.", "language_model.layers."},
    {"embed_tokens.", "language_model.embed_tokens."},
    {"norm.", "language_model.norm."},
    {"vision_tower.vision_tower.", "vision_tower."},
    {"vision_tower.vision_model.", "vision_tower."},
    {"mm_projector.0.", "multi_modal_projector.linear_1."},
    {"mm_projector.2.", "multi_modal_projector.linear_2."},
};

const char *const sl_llava_ignored[] = {"*.rotary_emb.inv_freq", "*.position_ids", "*.masked_bias",
                                        "vision_tower.post_layernorm.*", "vision_tower.encoder.layers.*", NULL};

/* LLaVA's original repository and Shikra: the decoder's names as LLaMA's, the projector and perhaps the tower below
 * "model."; a tower folder's names (a CLIPModel's) come with the tower's prefix before them. */
const sl_rename sl_original_renames[SL_N_ORIGINAL_RENAME] = {
    {"model.mm_projector.", "mm_projector."},
    {"model.image_newline", "image_newline"},
    {"model.vision_tower.vision_tower.", "vision_tower."},
    {"model.", "language_model."},
    {"vision_tower.vision_model.", "vision_tower."},
};

const char *const sl_original_ignored[] = {"*.rotary_emb.inv_freq",
                                           "*.position_ids",
                                           "*.masked_bias",
                                           "vision_tower.post_layernorm.*",
                                           "vision_tower.encoder.layers.*",
                                           "vision_tower.text_model.*",
                                           "vision_tower.text_projection.*",
                                           "vision_tower.visual_projection.*",
                                           "vision_tower.logit_scale",
                                           NULL};
