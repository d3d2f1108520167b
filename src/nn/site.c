/* The table of sites, and matching users' names against it. */
#include "nn/site.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"

#define IN_VISION {[SL_PART_VISION] = true}
#define IN_PROJECTOR {[SL_PART_PROJECTOR] = true}
#define IN_DECODER {[SL_PART_DECODER] = true}
#define IN_STACKS {[SL_PART_VISION] = true, [SL_PART_DECODER] = true}
#define IN_ALL {[SL_PART_VISION] = true, [SL_PART_PROJECTOR] = true, [SL_PART_DECODER] = true}

/* Hugging Face module paths; LLaMA's layers and CLIP's. */
#define LAYER "layers.{i}"
#define CLIP_LAYER "encoder.layers.{i}"
#define HF_NONE {0}
#define HF_VISION(path) {[SL_PART_VISION] = path}
#define HF_PROJECTOR(path) {[SL_PART_PROJECTOR] = path}
#define HF_DECODER(path) {[SL_PART_DECODER] = path}
#define HF_STACKS(clip, llama) {[SL_PART_VISION] = clip, [SL_PART_DECODER] = llama}

static const sl_site_row sites[SL_SITE_COUNT] = {
    /* name, HF modules, shape, parts, per layer, differentiable, writable */
    [SL_SITE_EMBED] = {"hook_embed", HF_VISION("embeddings"), SL_SHAPE_ROWS, IN_ALL, false, false},
    [SL_SITE_LN_PRE] = {"ln_pre.hook_normalized", HF_VISION("pre_layrnorm"), SL_SHAPE_ROWS, IN_VISION, false, false},
    [SL_SITE_RESID_PRE] = {"blocks.{i}.hook_resid_pre", HF_NONE, SL_SHAPE_ROWS, IN_STACKS, true, true, true},
    [SL_SITE_LN1] = {"blocks.{i}.ln1.hook_normalized", HF_STACKS(CLIP_LAYER ".layer_norm1", LAYER ".input_layernorm"),
                     SL_SHAPE_ROWS, IN_STACKS, true, true, true},
    [SL_SITE_Q] = {"blocks.{i}.attn.hook_q", HF_STACKS(CLIP_LAYER ".self_attn.q_proj", LAYER ".self_attn.q_proj"),
                   SL_SHAPE_HEADS, IN_STACKS, true, false, true},
    [SL_SITE_K] = {"blocks.{i}.attn.hook_k", HF_STACKS(CLIP_LAYER ".self_attn.k_proj", LAYER ".self_attn.k_proj"),
                   SL_SHAPE_KV, IN_STACKS, true, false, true},
    [SL_SITE_V] = {"blocks.{i}.attn.hook_v", HF_STACKS(CLIP_LAYER ".self_attn.v_proj", LAYER ".self_attn.v_proj"),
                   SL_SHAPE_KV, IN_STACKS, true, true, true},
    [SL_SITE_ROT_Q] = {"blocks.{i}.attn.hook_rot_q", HF_NONE, SL_SHAPE_HEADS, IN_STACKS, true, false, true},
    [SL_SITE_ROT_K] = {"blocks.{i}.attn.hook_rot_k", HF_NONE, SL_SHAPE_KV, IN_STACKS, true, false, true},
    [SL_SITE_ATTN_SCORES] = {"blocks.{i}.attn.hook_attn_scores", HF_NONE, SL_SHAPE_PATTERN, IN_STACKS, true, false},
    [SL_SITE_PATTERN] = {"blocks.{i}.attn.hook_pattern", HF_NONE, SL_SHAPE_PATTERN, IN_ALL, true, false},
    [SL_SITE_CROSS_PATTERN] = {"blocks.{i}.cross.hook_pattern", HF_NONE, SL_SHAPE_PATTERN, IN_PROJECTOR, true, false},
    [SL_SITE_RESAMPLER_PATTERN] = {"cross.hook_pattern", HF_NONE, SL_SHAPE_PATTERN, IN_PROJECTOR, false, false},
    [SL_SITE_Z] = {"blocks.{i}.attn.hook_z", HF_NONE, SL_SHAPE_HEADS, IN_STACKS, true, true, true},
    [SL_SITE_ATTN_OUT] = {"blocks.{i}.hook_attn_out",
                          HF_STACKS(CLIP_LAYER ".self_attn|" CLIP_LAYER ".self_attn.out_proj",
                                    LAYER ".self_attn|" LAYER ".self_attn.o_proj"),
                          SL_SHAPE_ROWS, IN_STACKS, true, false, true},
    [SL_SITE_RESID_MID] = {"blocks.{i}.hook_resid_mid", HF_NONE, SL_SHAPE_ROWS, IN_ALL, true, true, true},
    [SL_SITE_LN2] = {"blocks.{i}.ln2.hook_normalized",
                     HF_STACKS(CLIP_LAYER ".layer_norm2", LAYER ".post_attention_layernorm"),
                     SL_SHAPE_ROWS, IN_STACKS, true, true, true},
    [SL_SITE_MLP_PRE] = {"blocks.{i}.mlp.hook_pre", HF_STACKS(CLIP_LAYER ".mlp.fc1", LAYER ".mlp.gate_proj"),
                         SL_SHAPE_ROWS, IN_STACKS, true, false, true},
    [SL_SITE_MLP_PRE_LINEAR] = {"blocks.{i}.mlp.hook_pre_linear", HF_DECODER(LAYER ".mlp.up_proj"),
                                SL_SHAPE_ROWS, IN_STACKS, true, false, true},
    [SL_SITE_MLP_POST] = {"blocks.{i}.mlp.hook_post", HF_VISION(CLIP_LAYER ".mlp.activation_fn"),
                          SL_SHAPE_ROWS, IN_STACKS, true, false, true},
    [SL_SITE_MLP_OUT] = {"blocks.{i}.hook_mlp_out",
                         HF_STACKS(CLIP_LAYER ".mlp|" CLIP_LAYER ".mlp.fc2", LAYER ".mlp|" LAYER ".mlp.down_proj"),
                         SL_SHAPE_ROWS, IN_STACKS, true, false, true},
    [SL_SITE_RESID_POST] = {"blocks.{i}.hook_resid_post", HF_STACKS(CLIP_LAYER, LAYER),
                            SL_SHAPE_ROWS, IN_ALL, true, false, true},
    [SL_SITE_LN_POST] = {"ln_post.hook_normalized", HF_VISION("post_layernorm"), SL_SHAPE_ROWS, IN_VISION, false,
                         false},
    [SL_SITE_LN_FINAL] = {"ln_final.hook_normalized", HF_DECODER("norm"), SL_SHAPE_ROWS, IN_DECODER, false, false},
    [SL_SITE_LOGITS] = {"hook_logits", HF_DECODER("lm_head"), SL_SHAPE_LOGITS, IN_DECODER, false, false},
    [SL_SITE_PROJECTOR_IN] = {"hook_in", HF_NONE, SL_SHAPE_ROWS, IN_PROJECTOR, false, true},
    [SL_SITE_PROJECTOR_LN] = {"ln.hook_normalized", HF_PROJECTOR("layer_norm"), SL_SHAPE_ROWS, IN_PROJECTOR, false,
                              false},
    [SL_SITE_PROJECTOR_PRE] = {"hook_pre", HF_PROJECTOR("linear_1"), SL_SHAPE_ROWS, IN_PROJECTOR, false, false},
    [SL_SITE_PROJECTOR_POST] = {"hook_post", HF_PROJECTOR("act"), SL_SHAPE_ROWS, IN_PROJECTOR, false, false},
    [SL_SITE_PROJECTOR_OUT] = {"hook_out", HF_PROJECTOR("linear_2"), SL_SHAPE_ROWS, IN_PROJECTOR, false, true},
};

/* What stands before a site's name, and before its Hugging Face module: the wrappers differ between transformers
 * versions, the first is the one to show. */
static const struct {
  const char *name, *hf[5];
} parts[SL_PART_COUNT] = {
    [SL_PART_VISION] = {"vision.",
                        {"vision_tower.", "vision_tower.vision_model.", "model.vision_tower.",
                         "model.vision_tower.vision_model."}},
    [SL_PART_PROJECTOR] = {"projector.", {"multi_modal_projector.", "model.multi_modal_projector."}},
    [SL_PART_DECODER] = {"", {"", "model.", "language_model.", "language_model.model.", "model.language_model."}},
};

const sl_site_row *sl_site_get(sl_site site) { return &sites[site]; }

/* prefix and the first n_bytes of `name`, with the layer's number put in. */
static void expand(char *out, size_t size, const char *prefix, const char *name, size_t n_bytes, int layer) {
  const char *mark = strstr(name, "{i}");
  if (mark && mark < name + n_bytes)
    snprintf(out, size, "%s%.*s%d%.*s", prefix, (int)(mark - name), name, layer, (int)(name + n_bytes - mark - 3),
             mark + 3);
  else
    snprintf(out, size, "%s%.*s", prefix, (int)n_bytes, name);
}

void sl_site_name(char out[64], sl_part part, sl_site site, int layer) {
  expand(out, 64, parts[part].name, sites[site].name, strlen(sites[site].name), layer);
}

bool sl_site_module(char out[96], sl_part part, sl_site site) {
  const char *module = sites[site].hf_module[part];
  out[0] = '\0';
  if (module) snprintf(out, 96, "%s%.*s", parts[part].hf[0], (int)strcspn(module, "|"), module);
  return module != NULL;
}

bool sl_site_match(const char *pattern, sl_part part, sl_site site, int layer) {
  if (!sites[site].in_part[part]) return false;
  char name[128];
  sl_site_name(name, part, site, layer);
  if (sl_glob_match(pattern, name)) return true;
  for (const char *module = sites[site].hf_module[part]; module && *module;) {
    const size_t n = strcspn(module, "|");
    for (size_t i = 0; i < sizeof parts->hf / sizeof *parts->hf && parts[part].hf[i]; i++) {
      expand(name, sizeof name, parts[part].hf[i], module, n, layer);
      if (sl_glob_match(pattern, name)) return true;
    }
    module += n + (module[n] == '|');
  }
  return false;
}
