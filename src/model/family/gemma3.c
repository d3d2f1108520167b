/* Gemma 3 (Gemma Team 2025): a SigLIP tower over one squashed view, the mean of its patches in cells, a norm and a
 * matrix; a decoder in which the picture's positions see each other whichever comes first. Pan and scan, which is off
 * as a rule, is not done. Defaults are those of Gemma3Config. */
#include <math.h>

#include "model/family.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))

static const char *const model_types[] = {"gemma3", NULL};
static const sl_kind *const towers[] = {&sl_kind_siglip, NULL};
static const sl_kind *const projectors[] = {&sl_kind_pool, NULL};
static const sl_kind *const decoders[] = {&sl_kind_gemma3, NULL};

static const sl_config_field fields[] = {
    SL_INT("image_token_index", image_token_id, 262144, 0, 4194303),
    SL_INT("image_token_id", image_token_id, NAN, 0, 4194303),
    SL_FIXED_INT(feature_layer, -1),
    SL_FIXED_STRING(feature_strategy, "default"),
};

static const char *const ignored[] = {"*.rotary_emb.inv_freq", "*.position_ids", "vision_tower.head.*", NULL};

static const sl_prompt prompts[] = {
    {NULL, "<start_of_turn>user\n<image>{question}<end_of_turn>\n<start_of_turn>model\n", "<start_of_turn>user\n",
     "<start_of_turn>model\n", NULL, NULL},
};

static const char *const stops[] = {"<end_of_turn>", NULL};

const sl_family sl_family_gemma3 = {
    .name = "gemma3",
    .title = "Gemma 3",
    .model_types = model_types,
    .vision = {"vision_config", "vision_tower.", NULL, towers},
    .projector = {"", "multi_modal_projector.", "", projectors},
    .text = {"text_config", "language_model.", NULL, decoders},
    .fields = fields,
    .n_field = COUNT(fields),
    .renames = sl_llava_renames,
    .n_rename = SL_N_LLAVA_RENAME,
    .ignored = ignored,
    .prompts = prompts,
    .image_token = "<image_soft_token>",
    .image_text = "\n\n<start_of_image><image_soft_token><end_of_image>\n\n",
    .image_sees_itself = true,
    .stops = stops,
};
