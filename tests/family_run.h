/* One case of a family's golden folder, ready to run: model, views, pack, layout. */
#ifndef TESTS_FAMILY_RUN_H
#define TESTS_FAMILY_RUN_H

#include "golden.h"

#include "model/session.h"

typedef struct family {
  const char *folder;
  int n_case;
  double bf16x2; /* tolerance in that mode where it is not the machine's */
} family;

/* Folders that tools/golden makes, with transformers' numbers. */
static const family families[] = {
    {"llava-gqa", 4, 0},
    {"llava-mha", 4, 0},
    {"llava-orig-pad", 4, 0},
    {"llava-next-vicuna", 8, 0},
    {"llava-next-mistral", 4, 0},
    {"llava-next-mistral-window", 2, 0},
    {"internvl-native", 4, 0},
    {"internvl-remote", 4, 0},
    {"internvl-6b", 4, 0},
    {"shikra", 6, 0},
    {"llava-original", 4, 0},
    {"qwen-vl", 4, 0},
    {"qwen2-vl", 6, 0},
    {"qwen2.5-vl", 6, 0},
    /* Four post-norm layers more than the others: f32 is off by 6e-6, 16 bits of the activations by 1.6e-4. */
    {"instructblip", 7, 3e-4},
    {"smolvlm", 4, 0},
    {"idefics3", 4, 0},
    {"gemma3", 4, 0},
};
#define N_FAMILY (int)(sizeof families / sizeof *families)

static const struct {
  const char *backend, *compute;
  double tolerance, gradient_tolerance; /* of a site's largest value */
} machines[] = {{"ref", "f32", 1e-4, 1e-4}, {"cpu", "f32", 1e-4, 1e-4}, {"cpu", "bf16x2", 1e-4, 1e-3}};
enum { REF, CPU, CPU_BF16X2, N_MACHINE };

static inline double family_tolerance(int number, int machine) {
  return machine == CPU_BF16X2 && families[number].bf16x2 > 0 ? families[number].bf16x2 : machines[machine].tolerance;
}

typedef struct family_run {
  char where[160], test_case[16];
  golden g;
  sl_model *model;
  sl_session *session;
  sl_views views;
  sl_pack pack;
  sl_layout layout;
  sl_image *image; /* NULL until family_encode */
} family_run;

static inline void family_open(family_run *r, const char *name, int machine) {
  *r = (family_run){.g = golden_open(name)};
  snprintf(r->where, sizeof r->where, "%s %s/%s", name, machines[machine].backend, machines[machine].compute);
  char tower[600];
  const char *vision_folder = json_string_value(json_object_get(r->g.facts, "vision_folder"));
  snprintf(tower, sizeof tower, "%s/%s", r->g.dir, vision_folder ? vision_folder : "");
  const sl_model_options options = {.size = sizeof options, .backend = machines[machine].backend,
                                    .compute = machines[machine].compute, .n_thread = 2,
                                    .vision_model = vision_folder ? tower : NULL};
  ASSERT_OK(sl_model_open(&r->model, r->g.dir, &options));
  ASSERT_OK(sl_session_new(&r->session, r->model, 2));
}

static inline void family_end_case(family_run *r) {
  sl_image_free(r->image);
  r->image = NULL;
  sl_layout_dispose(&r->layout);
  sl_pack_dispose(&r->pack);
  sl_views_dispose(&r->views);
}

/* Picture and prompt of one case. A golden that has the question alone is asked through the family's own template; a
 * prompt without placeholder is one where the picture stands first. */
static inline void family_start_case(family_run *r, int number) {
  char path[700];
  sl_rgb image = {0};
  family_end_case(r);
  snprintf(r->test_case, sizeof r->test_case, "c%d", number);
  const char *question = golden_string(&r->g, r->test_case, "question");
  const char *prompt = golden_string(&r->g, r->test_case, "prompt");
  snprintf(path, sizeof path, "%s/%s", r->g.dir, golden_string(&r->g, r->test_case, "picture"));
  ASSERT_OK(sl_rgb_load(&image, path, true));
  ASSERT_OK(sl_views_make(&r->views, sl_model_get_preprocess(r->model), &image));
  ASSERT_OK(sl_pack_make(&r->pack, r->model, &r->views, question ? question : prompt));
  const bool raw = !question && strstr(prompt, "<image>");
  ASSERT_OK(sl_layout_build(&r->layout, r->model, &r->pack, question ? question : prompt, raw));
  sl_rgb_dispose(&image);
}

static inline void family_encode(family_run *r, const sl_probe *probe, bool keep) {
  ASSERT_OK(sl_image_encode(&r->image, r->session, r->views.pixels, &r->pack, probe, keep));
}

/* Adds the first n greedy tokens of the golden as the answer. */
static inline void family_append_answer(family_run *r, int n) {
  ASSERT_OK(sl_layout_append(&r->layout, r->model, golden_find(&r->g, r->test_case, "greedy")->data, n));
}

static inline void family_close(family_run *r) {
  family_end_case(r);
  sl_session_free(r->session);
  sl_model_close(r->model);
  golden_close(&r->g);
}

static inline void family_check(const family_run *r, const char *name, const float *got, const sl_tensor *want,
                                double tolerance) {
  const double distance = golden_distance(got, want);
  if (!(distance <= tolerance))
    fail_msg("%s %s: first diverging site %s: off by %.3g of its largest value", r->where, r->test_case, name,
             distance);
}

#endif
