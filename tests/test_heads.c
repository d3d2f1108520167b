/* heads on the golden checkpoints, held to plans that this file writes by itself, to transformers' patterns and to
 * derivatives; interruption, options and baselines. */
#include "ablation_fixture.h"

#include "analysis/head_patch.h"
#include "base/rng.h"

/* "Head h of layer l (-1: all) does not see the image (or sees the baseline) after it." */
static void ablate_head(const fixture *f, sl_plan *plan, int layer, int head, int source) {
  sl_rule *rule;
  ASSERT_OK(sl_plan_add_rule(plan, source, &rule));
  rule->layers = rule->heads = SL_SET_ALL;
  if (layer >= 0) {
    rule->layers = rule->heads = (sl_set){0};
    ASSERT_OK(sl_set_add(&rule->layers, layer, 1));
    ASSERT_OK(sl_set_add(&rule->heads, head, 1));
  }
  ASSERT_OK(sl_set_from(&rule->queries, f->layout.first_image + f->layout.n_image));
  ASSERT_OK(sl_set_add(&rule->keys, f->layout.first_image, f->layout.n_image));
}

static const char *const folders[] = {"llava-gqa", "llava-mha", "llava-orig-pad"};

/* All kept = the plain answer; none kept = image hidden; one cut = heads.single; two heads of one key/value group are
 * two components; F and C end at 1. */
static void identities_of_heads(void **state) {
  (void)state;
  for (int k = 0; k < 3; k++) {
    fixture *f = set_up(folders[k], "c0");
    sl_run_reader *run = run_into(f, "run", "heads", (const char *[]){"min-effect", "0", NULL});
    const double plain = (double)f->answer[0].logit;
    const int n = f->n;
    double *logit = calloc((size_t)n + 2, sizeof *logit);
    sl_plan *plans = calloc((size_t)n + 2, sizeof *plans);
    for (int i = 0; i < n; i++) ablate_head(f, &plans[i], i / f->H, i % f->H, SL_SOURCE_HIDDEN);
    ablate_head(f, &plans[n], -1, -1, SL_SOURCE_HIDDEN);
    logits_under(f, plans, n + 2, NULL, logit);
    assert_true(fabs(said(f, "all") - plain) < 1e-4);
    assert_true(fabs(said(f, "all") - logit[n + 1]) < 1e-6);
    assert_true(fabs(said(f, "none") - logit[n]) < 1e-5);
    const float *single = floats(run, "heads.single");
    for (int i = 0; i < n; i++) assert_true(fabs((double)single[i] - (logit[n + 1] - logit[i])) < 1e-5);
    if (k == 0) assert_true(fabs((double)single[0] - (double)single[1]) > 1e-4); /* heads 0 and 1 share keys */
    const int64_t n_step = length(run, "heads.steps");
    assert_int_equal(n_step, n + 1);
    static const char *const curves[] = {"heads.faithfulness", "heads.completeness"};
    for (int c = 0; c < 2; c++) {
      char rivals[64];
      snprintf(rivals, sizeof rivals, "%s_rivals", curves[c]);
      assert_true(fabs((double)floats(run, curves[c])[0]) < 1e-6);
      assert_true(fabs((double)floats(run, curves[c])[n] - 1) < 1e-6);
      for (int r = 0; r < 5; r++) assert_true(fabs((double)floats(run, rivals)[r * n_step + n] - 1) < 1e-6);
    }
    for (size_t r = 4; r < 6; r++) { /* by chance: several orders, not one several times */
      json_t *by = json_array_get(sl_json_at(f->context.said, "curves.rankings"), r);
      assert_true(json_number_value(sl_json_at(by, "area_sd.faithful")) > 1e-6);
    }
    for (int i = 0; i < n + 2; i++) sl_plan_dispose(&plans[i]);
    free(plans);
    free(logit);
    sl_run_close(run);
    tear_down(f);
  }
}

/* Nobody sees the picture: the truncation sweep's first point, measured by another analysis. */
static void none_is_the_cliffs_first_point(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c1");
  sl_run_reader *run = run_into(f, "heads", "heads", (const char *[]){"samples", "30", NULL});
  const double none = said(f, "none"), all = said(f, "all");
  sl_run_close(run);
  run = run_into(f, "cliff", "cliff", NULL);
  assert_true(fabs((double)floats(run, "cliff.logit")[0] - none) < 1e-5);
  assert_true(fabs((double)floats(run, "cliff.logit")[f->L] - all) < 1e-5);
  assert_true(fabs(all - none) > 1e-3);
  sl_run_close(run);
  tear_down(f);
}

/* Every mask's target is that of a plan with one rule per cut head, whatever the batch. */
static void masks_are_measured_alike(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0");
  static const char *const options[] = {"samples", "60", "all-samples", "true", NULL};
  sl_run_reader *runs[3];
  static const int batches[] = {0, 1, 7};
  for (int b = 0; b < 3; b++) {
    char name[8];
    snprintf(name, sizeof name, "b%d", b);
    f->context.batch_size = batches[b];
    runs[b] = run_into(f, name, "heads", options);
  }
  const size_t n = (size_t)f->n, n_mask = (size_t)length(runs[0], "heads.target");
  assert_int_equal(n_mask, 60);
  const uint8_t *masks = (const uint8_t *)floats(runs[0], "heads.masks");
  const float *target = floats(runs[0], "heads.target");
  for (int b = 1; b < 3; b++) {
    assert_memory_equal(floats(runs[b], "heads.masks"), masks, n_mask * n);
    assert_memory_equal(floats(runs[b], "heads.target"), target, n_mask * sizeof *target);
    assert_memory_equal(floats(runs[b], "heads.score"), floats(runs[0], "heads.score"), n * sizeof *target);
  }
  sl_plan plans[60] = {0};
  double logit[60];
  for (size_t j = 0; j < 60; j++)
    for (int i = 0; i < f->n; i++)
      if (!masks[j * n + (size_t)i]) ablate_head(f, &plans[j], i / f->H, i % f->H, SL_SOURCE_HIDDEN);
  logits_under(f, plans, 60, NULL, logit);
  for (int j = 0; j < 60; j++) {
    assert_true(fabs(logit[j] - (double)target[j]) < 1e-5);
    sl_plan_dispose(&plans[j]);
  }
  for (int b = 0; b < 3; b++) sl_run_close(runs[b]);
  tear_down(f);
}

/* Attention on the image as transformers has it, mean over the rows after the image up to the one that is measured. */
static void attention_matches(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0");
  sl_run_reader *run = run_into(f, "run", "heads", NULL);
  const float *attention = floats(run, "heads.attention");
  const int first = f->layout.first_image + f->layout.n_image, last = f->layout.n_prompt - 1;
  for (int l = 0; l < f->L; l++) {
    char name[64];
    snprintf(name, sizeof name, "blocks.%d.attn.hook_pattern", l);
    const sl_tensor *pattern = golden_find(&f->g, "c0", name);
    const int64_t P = pattern->shape[1];
    for (int h = 0; h < f->H; h++) {
      double sum = 0;
      for (int i = first; i <= last; i++)
        for (int j = 0; j < f->layout.n_image; j++)
          sum += (double)((const float *)pattern->data)[(h * P + i) * P + f->layout.first_image + j];
      assert_true(fabs(sum / (last + 1 - first) - (double)attention[l * f->H + h]) < 1e-5);
    }
  }
  sl_run_close(run);
  tear_down(f);
}

/* A picture that differs little: what patching says to first order is what ablating does, head by head. */
static void patching_is_the_first_order(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    fixture *f = set_up(folders[k], "c0");
    const size_t n_px = (size_t)sl_tensor_count(golden_find(&f->g, "c0", "pixels"));
    float *near = malloc(n_px * sizeof *near);
    for (size_t i = 0; i < n_px; i++) near[i] = f->pixels[i] + 0.001f * (float)sl_rng_normal(1, 1, i);
    sl_image *image = NULL;
    sl_prefix *prefix = NULL;
    sl_baseline *baseline = NULL;
    sl_measure measure;
    f->context.info = &analysis_named("heads")->info;
    ASSERT_OK(sl_measure_init(&measure, &f->context));
    ASSERT_OK(sl_image_encode(&image, f->session, near, NULL, NULL, false));
    ASSERT_OK(sl_prefix_new(&prefix, f->session, &f->layout, image, false, NULL));
    ASSERT_OK(sl_baseline_picture(&baseline, f->session, prefix));
    float attention[64], patching[64];
    double logit[65], most = 0, worst = 0;
    sl_plan plans[65] = {0};
    ASSERT_OK(sl_head_patch_run(attention, patching, &f->context, &measure, baseline));
    for (int i = 0; i < f->n; i++) ablate_head(f, &plans[i], i / f->H, i % f->H, 0);
    logits_under(f, plans, f->n + 1, baseline, logit);
    for (int i = 0; i < f->n; i++) {
      const double single = logit[f->n] - logit[i];
      most = fmax(most, fabs(single));
      worst = fmax(worst, fabs(single - (double)patching[i]));
      sl_plan_dispose(&plans[i]);
    }
    if (!(most > 1e-4 && worst < 0.02 * most)) fail_msg("%s: effect %g, off by %g", folders[k], most, worst);
    sl_measure_dispose(&measure);
    sl_baseline_free(baseline);
    sl_prefix_free(prefix);
    sl_image_free(image);
    free(near);
    tear_down(f);
  }
}

static const float *golden_site(const fixture *f, int layer, const char *site) {
  char name[64];
  snprintf(name, sizeof name, "blocks.%d.attn.hook_%s", layer, site);
  const sl_tensor *tensor = golden_find(&f->g, "c0", name);
  assert_non_null(tensor);
  return tensor->data;
}

/* What hiding the image takes from a head's output at one query, from transformers' pattern, values and outputs. */
static void hidden_change(const fixture *f, int layer, int head, int query, float *u) {
  const sl_part_shape *shape = &sl_model_get_shape(f->model)->decoder;
  const int64_t d = shape->d_head, H = f->H, Hkv = shape->n_head_kv, P = f->layout.n_prompt;
  const float *a = golden_site(f, layer, "pattern") + (head * P + query) * P;
  const float *v = golden_site(f, layer, "v"), *z = golden_site(f, layer, "z") + (query * H + head) * d;
  for (int64_t e = 0; e < d; e++) {
    double text = 0, mass = 0; /* the softmax over what is left */
    for (int64_t j = 0; j <= query; j++) {
      if (f->layout.classes[j] == SL_CLASS_IMAGE || f->layout.classes[j] == SL_CLASS_STRUCTURE) continue;
      text += (double)a[j] * (double)v[(j * Hkv + head / (H / Hkv)) * d + e];
      mass += (double)a[j];
    }
    u[e] = (float)((double)z[e] - text / fmax(mass, 1e-4)); /* where the division stops: head_patch.c */
  }
}

/* Where the image is hidden: the target's derivative along that change of the head's output, by central differences. */
static void check_hidden_patching(const char *folder) {
  const float step = 0.02f, steps[] = {-2, -1, 1, 2};
  fixture *f = set_up(folder, "c0");
  const int first = f->layout.first_image + f->layout.n_image, n_query = f->layout.n_prompt - first;
  const int d = sl_model_get_shape(f->model)->decoder.d_head, width = f->H * d;
  float attention[64], patching[64];
  double logit[256], most = 0, worst = 0;
  sl_plan plans[256] = {0};
  sl_measure measure;
  f->context.info = &analysis_named("heads")->info;
  ASSERT_OK(sl_measure_init(&measure, &f->context));
  ASSERT_OK(sl_head_patch_run(attention, patching, &f->context, &measure, NULL));
  for (int i = 0; i < 4 * f->n; i++) {
    const int layer = i / 4 / f->H, head = i / 4 % f->H;
    sl_edit *edit;
    ASSERT_OK(sl_plan_add_edit(&plans[i], SL_SITE_Z, SL_EDIT_ADD, &edit));
    ASSERT_OK(sl_set_add(&edit->layers, layer, 1));
    ASSERT_OK(sl_set_add(&edit->heads, head, 1));
    ASSERT_OK(sl_set_add(&edit->positions, first, n_query));
    edit->n_value = n_query * width;
    edit->from_run = -1;
    ASSERT_OK(SL_ALLOC(edit->value, (size_t)edit->n_value, "test"));
    for (int q = 0; q < n_query; q++) {
      float *u = edit->value + q * width + head * d;
      hidden_change(f, layer, head, first + q, u);
      for (int e = 0; e < d; e++) u[e] *= steps[i % 4] * step;
    }
  }
  logits_under(f, plans, 4 * f->n, NULL, logit);
  for (int i = 0; i < f->n; i++) {
    const double *at = logit + 4 * i; /* of fourth order */
    const double slope = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * (double)step);
    most = fmax(most, fabs(slope));
    worst = fmax(worst, fabs(slope - (double)patching[i]));
  }
  if (!(most > 1e-3 && worst < 2e-3 * most)) fail_msg("%s: slopes up to %g, off by %g", folder, most, worst);
  for (int i = 0; i < 4 * f->n; i++) sl_plan_dispose(&plans[i]);
  sl_measure_dispose(&measure);
  tear_down(f);
}

/* Marks around the picture ("<start_of_image>", "<end_of_image>") are hidden with it. */
static void hidden_patching_is_a_derivative(void **state) {
  (void)state;
  check_hidden_patching("llava-gqa");
  check_hidden_patching("gemma3");
}

/* ---- interruption, resuming, options ---- */

static void resumed_heads_equal_uninterrupted_ones(void **state) {
  (void)state;
  static const char *const options[] = {"samples", "120", "all-samples", "true", "min-effect", "0", NULL};
  fixture *f = set_up("llava-gqa", "c0");
  sl_run_reader *whole = run_into(f, "whole", "heads", options);
  f->context.batch_size = 5;
  for (int late = 0; late < 2; late++) { /* before there is enough for a fit; after */
    char name[16], more[16];
    snprintf(name, sizeof name, "cut%d", late);
    snprintf(more, sizeof more, "more%d", late);
    stopper s = {f->cancel, f->n + (late ? 50 : 20)};
    f->context.progress = stop_after;
    f->context.user = &s;
    sl_run_reader *cut = run_into(f, name, "heads", options);
    assert_non_null(json_object_get(f->context.said, "interrupted"));
    const int64_t n_cut = length(cut, "heads.target");
    assert_true(n_cut > 10 && n_cut < 120);
    assert_true((sl_run_find(cut, "heads.score") != NULL) == (late == 1));
    assert_null(sl_run_find(cut, "heads.faithfulness"));
    assert_memory_equal(floats(cut, "heads.target"), floats(whole, "heads.target"), (size_t)n_cut * sizeof(float));
    /* A flag cannot be taken back: go on with a new one. */
    sl_cancel_free(f->cancel);
    ASSERT_OK(sl_cancel_new(&f->cancel));
    sl_session_set_cancel(f->session, &f->cancel->requested);
    f->context.cancel = f->cancel;
    f->context.progress = NULL;
    f->context.earlier = cut;
    sl_run_reader *resumed = run_into(f, more, "heads", options);
    assert_int_equal(said(f, "regression.resumed"), n_cut);
    static const char *const same[] = {"heads.score", "heads.stderr", "heads.target", "heads.faithfulness"};
    for (int i = 0; i < 4; i++) {
      const sl_tensor *a = sl_run_find(whole, same[i]), *b = sl_run_find(resumed, same[i]);
      assert_memory_equal(a->data, b->data, (size_t)sl_tensor_count(a) * sizeof(float));
    }
    sl_run_close(resumed);
    /* Another seed draws other masks; another baseline gives another end. */
    set_options(f, options);
    f->context.seed++;
    assert_int_equal(analysis_named("heads")->run(&f->context), SL_ERROR_ARGUMENT);
    assert_non_null(strstr(sl_error_message(), "mask 0 differs"));
    f->context.seed--;
    f->options[f->context.n_option++] = (sl_option_value){"baseline", "zero"};
    assert_int_equal(analysis_named("heads")->run(&f->context), SL_ERROR_ARGUMENT);
    assert_non_null(strstr(sl_error_message(), "cannot go on"));
    f->context.earlier = NULL;
    sl_run_close(cut);
  }
  sl_run_close(whole);
  tear_down(f);
}

static void time_budget_is_kept(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0");
  f->context.budget_s = 1e-9;
  sl_run_reader *run = run_into(f, "run", "heads", (const char *[]){"min-effect", "0", NULL});
  assert_null(sl_run_find(run, "heads.masks"));
  assert_non_null(json_object_get(f->context.said, "interrupted"));
  sl_run_close(run);
  tear_down(f);
}

/* Whatever allocation fails, the analysis says so and can be repeated. */
static void no_memory_is_an_error(void **state) {
  (void)state;
  static const char *const names[] = {"heads", "tokens"};
  for (int k = 0; k < 2; k++) {
    fixture *f = set_up("llava-gqa", "c0");
    set_options(f, (const char *[]){"samples", "30", "text-by", "class", "block", "2", "min-effect", "0", NULL});
    f->context.info = &analysis_named(names[k])->info;
    int n_whole = 0, n_failed = 0;
    for (long n = 1; n_whole < 3; n += 1 + n / 12) { /* fine in the beginning, where most kinds are */
      json_decref(f->context.said);
      f->context.said = json_object();
      sl_alloc_fail_at(n);
      const sl_status status = analysis_named(names[k])->run(&f->context);
      sl_alloc_fail_at(0);
      if (status != SL_OK && status != SL_ERROR_MEMORY) fail_msg("allocation %ld: %s", n, sl_error_message());
      n_whole += status == SL_OK;
      n_failed += status != SL_OK;
    }
    assert_true(n_failed > 60);
    tear_down(f);
  }
}

static void expect_refused(fixture *f, const char *analysis, const char *const *pairs, sl_status status,
                           const char *word) {
  set_options(f, pairs);
  f->context.info = &analysis_named(analysis)->info;
  assert_int_equal(analysis_named(analysis)->check(&f->context), status);
  if (!strstr(sl_error_message(), word)) fail_msg("no \"%s\" in: %s", word, sl_error_message());
}

static void options_are_checked(void **state) {
  (void)state;
  static const struct {
    const char *pairs[5];
    sl_status status;
    const char *word;
  } bad[] = {{{"samples", "29"}, SL_ERROR_ARGUMENT, "at least 30"},
             {{"solver", "ols", "samples", "40"}, SL_ERROR_ARGUMENT, "--solver ols needs 3"},
             {{"baseline", "median"}, SL_ERROR_ARGUMENT, "median"},
             {{"baseline", "mean"}, SL_ERROR_ARGUMENT, "--calibration"},
             {{"baseline", "block", "calibration", "/tmp"}, SL_ERROR_ARGUMENT, "--calibration"},
             {{"baseline", "image:"}, SL_ERROR_ARGUMENT, "missing"},
             {{"baseline", "image:/nowhere.png"}, SL_ERROR_FILE, "/nowhere.png"},
             {{"calibration", "/nowhere"}, SL_ERROR_FILE, "/nowhere"},
             {{"contrast", "elephant seal"}, SL_ERROR_ARGUMENT, "elephant seal"}};
  fixture *f = set_up("llava-gqa", "c0");
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    const char *pairs[] = {bad[i].pairs[0], bad[i].pairs[1], bad[i].pairs[2], bad[i].pairs[3], NULL};
    expect_refused(f, "heads", pairs, bad[i].status, bad[i].word);
    if (strcmp(pairs[0], "solver") != 0) expect_refused(f, "tokens", pairs, bad[i].status, bad[i].word);
  }
  /* 36 heads' masks do for least squares here: 12 components. */
  set_options(f, (const char *[]){"solver", "ols", "samples", "50", NULL});
  f->context.info = &analysis_named("heads")->info;
  ASSERT_OK(analysis_named("heads")->check(&f->context));
  assert_true(analysis_named("heads")->passes(&f->context) > 20);
  tear_down(f);
}

/* ---- baselines ---- */

static void write_file(const char *dir, const char *name, const void *bytes, size_t n_bytes) {
  char path[160];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  ASSERT_OK(sl_file_write(path, bytes, n_bytes));
}

/* A folder of calibration pictures: two copies of the asked picture have it as their mean, so nothing changes; a bad
 * file is named and left out. Another picture as baseline is the same as a mean over it alone. */
static void calibration_pictures(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0");
  char folder[128], other[160], path[600], image_option[200], *bytes = NULL;
  size_t n_bytes = 0;
  snprintf(folder, sizeof folder, "%s/pictures", f->dir);
  snprintf(other, sizeof other, "%s/other", f->dir);
  assert_int_equal(mkdir(folder, 0755) | mkdir(other, 0755), 0);
  snprintf(path, sizeof path, "%s/a.png", f->g.dir);
  ASSERT_OK(sl_file_read(path, 1 << 20, &bytes, &n_bytes));
  write_file(folder, "1.png", bytes, n_bytes);
  write_file(folder, "2.PNG", bytes, n_bytes);
  write_file(folder, "3.png", bytes, n_bytes / 2);
  write_file(folder, "notes.txt", "x", 1);
  free(bytes);
  snprintf(path, sizeof path, "%s/b.png", f->g.dir);
  ASSERT_OK(sl_file_read(path, 1 << 20, &bytes, &n_bytes));
  write_file(other, "b.png", bytes, n_bytes);
  free(bytes);
  sl_run_reader *run = run_into(f, "same", "heads", (const char *[]){"calibration", folder, NULL});
  assert_string_equal(json_string_value(sl_json_at(f->context.said, "baseline.kind")), "mean");
  assert_int_equal(said(f, "baseline.pictures"), 2);
  assert_int_equal(said(f, "baseline.left_out"), 1);
  assert_int_equal(json_array_size(f->context.warnings), 2);
  assert_non_null(strstr(json_string_value(json_array_get(f->context.warnings, 0)), "3.png"));
  assert_non_null(strstr(json_string_value(json_array_get(f->context.warnings, 1)), "next to nothing"));
  assert_true(fabs(said(f, "all") - said(f, "none")) < 1e-4);
  assert_non_null(sl_json_at(f->context.said, "curves_skipped"));
  assert_null(sl_run_find(run, "heads.faithfulness"));
  sl_run_close(run);
  /* The next analysis takes what is there: no second warning. */
  run = run_into(f, "next", "tokens", (const char *[]){"calibration", folder, "side", "text", "samples", "30", NULL});
  assert_int_equal(json_array_size(f->context.warnings), 2);
  assert_int_equal(said(f, "baseline.left_out"), 1);
  sl_run_close(run);
  snprintf(image_option, sizeof image_option, "image:%s/b.png", other);
  run = run_into(f, "image", "heads", (const char *[]){"baseline", image_option, "samples", "40", NULL});
  sl_run_reader *mean = run_into(f, "mean", "heads", (const char *[]){"calibration", other, "samples", "40", NULL});
  for (int j = 0; j < 40; j++)
    assert_true(fabs((double)floats(run, "heads.target")[j] - (double)floats(mean, "heads.target")[j]) < 1e-4);
  assert_true(fabs(said(f, "all") - said(f, "none")) > 1e-3);
  sl_run_close(run);
  sl_run_close(mean);
  /* Nothing usable in it. */
  snprintf(folder, sizeof folder, "%s/empty", f->dir);
  assert_int_equal(mkdir(folder, 0755), 0);
  set_options(f, (const char *[]){"calibration", folder, NULL});
  assert_int_equal(analysis_named("heads")->run(&f->context), SL_ERROR_FILE);
  tear_down(f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(identities_of_heads),
      cmocka_unit_test(none_is_the_cliffs_first_point),
      cmocka_unit_test(masks_are_measured_alike),
      cmocka_unit_test(attention_matches),
      cmocka_unit_test(patching_is_the_first_order),
      cmocka_unit_test(hidden_patching_is_a_derivative),
      cmocka_unit_test(resumed_heads_equal_uninterrupted_ones),
      cmocka_unit_test(time_budget_is_kept),
      cmocka_unit_test(no_memory_is_an_error),
      cmocka_unit_test(options_are_checked),
      cmocka_unit_test(calibration_pictures),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
