/* trace: from the picture file to the run directory, interrupted, refused, out of memory. */
#include "analysis_fixture.h"

typedef struct stop {
  const char *at;    /* stage that is interrupted, NULL = none */
  int n_flow;        /* how often flow told its progress */
  sl_cancel *cancel; /* requested by the first line of the log */
} stop;

static void stop_at_log(void *user, const char *message) {
  (void)message;
  sl_cancel_request(((stop *)user)->cancel);
}

static bool stop_at(void *user, const char *what, double done, double total) {
  stop *s = user;
  (void)done, (void)total;
  s->n_flow += strcmp(what, "flow") == 0;
  return !s->at || strcmp(what, s->at) != 0;
}

static sl_trace_request request_for(const fixture *f, const char *picture, const char *out) {
  static const char *const both[] = {"cam", "flow"};
  return (sl_trace_request){.size = sizeof(sl_trace_request), .image_path = picture,
                            .question = golden_string(&f->g, f->name, "prompt"), .raw_prompt = true, .max_token = 3,
                            .out_dir = out, .no_report = true, .analyses = both, .n_analysis = 2};
}

/* From the picture file to the run directory: the golden maps, tokens and answer. */
static void trace_from_file(void **state) {
  (void)state;
  for (int k = 0; k < N_FOLDER; k++) {
    fixture *f = set_up(folders[k], "c0", 3);
    char *dir = temporary_dir(), out[128], picture[640], *summary = NULL;
    snprintf(out, sizeof out, "%s/run", dir);
    snprintf(picture, sizeof picture, "%s/%s", f->g.dir, golden_string(&f->g, "c0", "picture"));
    sl_trace_request request = request_for(f, picture, out);
    request.record = "blocks.*.hook_resid_post@-4";
    request.logits = true;
    ASSERT_OK(sl_trace_run(f->model, &request, &summary));
    sl_run_reader *reader = NULL;
    ASSERT_OK(sl_run_open(&reader, out));
    expect(f, "cam/sum/ln2", result(reader, "cam.heat"));
    json_t *root = sl_run_root(reader);
    const json_t *tokens = json_object_get(root, "tokens");
    const sl_tensor *greedy = golden_find(&f->g, "c0", "greedy");
    assert_int_equal(json_array_size(tokens), f->layout.n_token);
    for (int a = 0; a < 3; a++) {
      const json_t *token = json_array_get(tokens, (size_t)(f->layout.n_prompt + a));
      assert_int_equal(json_integer_value(json_object_get(token, "id")), ((const int32_t *)greedy->data)[a]);
      const json_t *best = json_array_get(json_object_get(token, "top"), 0);
      assert_int_equal(json_integer_value(json_object_get(best, "id")), ((const int32_t *)greedy->data)[a]);
      assert_int_equal(json_integer_value(json_array_get(json_object_get(root, "queries"), (size_t)a)),
                       f->layout.n_prompt + a - 1);
    }
    assert_true(json_object_get(json_object_get(root, "analyses"), "flow") != NULL);
    assert_non_null(sl_run_find(reader, "cam.flow_correlation")); /* flow ran first, though asked last */
    assert_non_null(sl_run_find(reader, "site/blocks.0.hook_resid_post"));
    /* The last row of the prompt, recorded and with its logits. */
    const sl_tensor *logits = sl_run_find(reader, "logits.all"), *want = golden_find(&f->g, "c0", "logits");
    const int64_t V = want->shape[1];
    const sl_tensor row = {
        .data = (const float *)want->data + (f->layout.n_prompt - 1) * V, .dtype = SL_F32, .n_dim = 1, .shape = {V}};
    assert_true(golden_distance((const float *)logits->data + (f->layout.n_prompt - 1) * V, &row) <= TOLERANCE);
    free(summary);
    sl_run_close(reader);
    remove_dir(dir);
    tear_down(f);
  }
}

/* Interrupted in cam: the answer and flow are kept, and the reader is told. */
static void interrupted_run_keeps_what_is_complete(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 3);
  char *dir = temporary_dir(), out[128], picture[640], *summary = NULL;
  snprintf(out, sizeof out, "%s/run", dir);
  snprintf(picture, sizeof picture, "%s/a.png", f->g.dir);
  stop s = {.at = "cam"};
  sl_trace_request request = request_for(f, picture, out);
  request.progress = stop_at;
  request.user = &s;
  assert_int_equal(sl_trace_run(f->model, &request, &summary), SL_ERROR_CANCELLED);
  assert_non_null(summary);
  sl_run_reader *reader = NULL;
  ASSERT_OK(sl_run_open(&reader, out));
  assert_non_null(sl_run_find(reader, "flow.share"));
  assert_null(sl_run_find(reader, "cam.heat"));
  assert_null(sl_json_at(sl_run_root(reader), "analyses.cam"));
  assert_true(json_is_true(json_object_get(sl_run_root(reader), "cancelled")));
  assert_int_equal(json_array_size(json_object_get(sl_run_root(reader), "warnings")), 1);
  sl_run_close(reader);
  free(summary);
  /* A pass stops between two layers, not at its end. */
  s = (stop){.at = "flow"};
  request.force = true;
  assert_int_equal(sl_trace_run(f->model, &request, &summary), SL_ERROR_CANCELLED);
  assert_true(s.n_flow <= 2);
  free(summary);
  /* Before the answer there is nothing to keep. */
  s.at = "picture";
  assert_int_equal(sl_trace_run(f->model, &request, &summary), SL_ERROR_CANCELLED);
  assert_null(summary);
  ASSERT_OK(sl_run_open(&reader, out)); /* the old one is as it was */
  sl_run_close(reader);
  remove_dir(dir);
  tear_down(f);
}

/* The model ends at once, and the interruption comes before the row of that end was read: there is no answer to
 * keep. */
static void interrupted_empty_answer_leaves_nothing(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 1);
  char *dir = temporary_dir(), out[128], picture[640], *summary = NULL;
  snprintf(out, sizeof out, "%s/run", dir);
  snprintf(picture, sizeof picture, "%s/a.png", f->g.dir);
  sl_model_shape *shape = (sl_model_shape *)sl_model_get_shape(f->model);
  shape->eos_ids[0] = -1; /* the second of a list */
  shape->eos_ids[1] = f->answer.tokens[0].id;
  shape->n_eos = 2;
  stop s = {.cancel = f->cancel};
  sl_trace_request request = request_for(f, picture, out);
  ASSERT_OK(sl_trace_run(f->model, &request, &summary)); /* uninterrupted: the end itself is analysed */
  assert_non_null(strstr(summary, "\"answer\": \"\""));
  free(summary);
  remove_dir(out);
  request.log = stop_at_log;
  request.user = &s;
  request.cancel = f->cancel;
  assert_int_equal(sl_trace_run(f->model, &request, &summary), SL_ERROR_CANCELLED);
  assert_null(summary);
  assert_int_equal(access(out, F_OK), -1);
  remove_dir(dir);
  tear_down(f);
}

/* Prompt and answer fill all positions: the answer ends there, and the run says why. */
static void answer_ends_with_the_positions(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 3);
  char *dir = temporary_dir(), out[128], picture[640], *summary = NULL;
  snprintf(out, sizeof out, "%s/run", dir);
  snprintf(picture, sizeof picture, "%s/a.png", f->g.dir);
  ((sl_model_shape *)sl_model_get_shape(f->model))->max_position = f->layout.n_prompt + 2;
  sl_trace_request request = request_for(f, picture, out);
  request.n_analysis = 0;
  ASSERT_OK(sl_trace_run(f->model, &request, &summary));
  assert_non_null(strstr(summary, "fill all positions"));
  sl_run_reader *reader = NULL;
  ASSERT_OK(sl_run_open(&reader, out));
  const json_t *tokens = json_object_get(sl_run_root(reader), "tokens");
  assert_int_equal(json_array_size(tokens), f->layout.n_prompt + 2);
  for (int a = 0; a < 2; a++)
    assert_int_equal(
        json_integer_value(json_object_get(json_array_get(tokens, (size_t)(f->layout.n_prompt + a)), "id")),
        f->answer.tokens[a].id);
  sl_run_close(reader);
  free(summary);
  remove_dir(dir);
  tear_down(f);
}

/* The request's number of threads is what run.json tells, else the model's. */
static void threads_are_told(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 1);
  char picture[640], *summary = NULL;
  snprintf(picture, sizeof picture, "%s/a.png", f->g.dir);
  sl_trace_request request = request_for(f, picture, NULL);
  request.n_analysis = 0;
  for (int n = 0; n < 3; n += 2) {
    request.n_thread = n;
    ASSERT_OK(sl_trace_run(f->model, &request, &summary));
    json_t *root = json_loads(summary, 0, NULL);
    assert_int_equal(json_integer_value(sl_json_at(root, "compute.threads")), n ? n : 1);
    json_decref(root);
    free(summary);
  }
  tear_down(f);
}

static void requests_are_checked_before_work(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 1);
  char *dir = temporary_dir(), out[128], picture[640], mask[640];
  snprintf(out, sizeof out, "%s/run", dir);
  snprintf(picture, sizeof picture, "%s/a.png", f->g.dir);
  snprintf(mask, sizeof mask, "%s/b.png", f->g.dir);
  const sl_trace_request good = request_for(f, picture, out);
  ASSERT_OK(sl_trace_check(&good));
  assert_int_equal(access(out, F_OK), -1); /* checking leaves nothing */
  sl_trace_request r = good;
  r.mask_path = mask;
  assert_int_equal(sl_trace_check(&r), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "97 x 41"));
  assert_non_null(strstr(sl_error_message(), "50 x 50"));
  r = good, r.question = " \n";
  assert_int_equal(sl_trace_check(&r), SL_ERROR_ARGUMENT);
  r = good, r.question = "caf\xe9 <image>";
  assert_int_equal(sl_trace_check(&r), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "byte 3"));
  r = good, r.image_path = "/nowhere/cat.png";
  assert_int_equal(sl_trace_check(&r), SL_ERROR_FILE);
  r = good, r.image_path = dir;
  assert_int_equal(sl_trace_check(&r), SL_ERROR_FILE);
  r = good, r.options = &(sl_option_value){"smoothe", "1"}, r.n_option = 1;
  assert_int_equal(sl_trace_check(&r), SL_ERROR_ARGUMENT);
  r = good, r.out_dir = NULL, r.logits = true;
  assert_int_equal(sl_trace_check(&r), SL_ERROR_ARGUMENT);
  r = good, r.out_dir = "/proc/nothing/here";
  assert_int_equal(sl_trace_check(&r), SL_ERROR_FILE);
  r = good, r.size = 8;
  assert_int_equal(sl_trace_check(&r), SL_ERROR_ARGUMENT);
  /* What only the model can tell, but no analysis has to run for. */
  char *summary = NULL;
  stop s = {0};
  r = good, r.progress = stop_at, r.user = &s, r.options = (sl_option_value[]){{"contrast", "elephant seal"}},
  r.n_option = 1;
  assert_int_equal(sl_trace_run(f->model, &r, &summary), SL_ERROR_ARGUMENT);
  r.answer = "the", r.options = (sl_option_value[]){{"contrast", "the"}}, r.n_option = 1;
  assert_int_equal(sl_trace_run(f->model, &r, &summary), SL_ERROR_ARGUMENT);
  r.answer = NULL, r.options = (sl_option_value[]){{"contrast", "re"}, {"target", "logprob"}}, r.n_option = 2;
  assert_int_equal(sl_trace_run(f->model, &r, &summary), SL_ERROR_ARGUMENT);
  r.n_option = 0, r.record = "blocks.0.hook_resid_pots@-1";
  assert_int_equal(sl_trace_run(f->model, &r, &summary), SL_ERROR_ARGUMENT);
  r.record = "blocks.0.hook_resid_post@5000";
  assert_int_equal(sl_trace_run(f->model, &r, &summary), SL_ERROR_ARGUMENT);
  assert_int_equal(s.n_flow, 0);
  assert_int_equal(access(out, F_OK), -1);
  remove_dir(dir);
  tear_down(f);
}

/* Whatever allocation fails, the run says so, leaves nothing, and can be repeated. */
static void no_memory_is_an_error(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 1);
  char *dir = temporary_dir(), out[128], picture[640], *summary = NULL;
  snprintf(out, sizeof out, "%s/run", dir);
  snprintf(picture, sizeof picture, "%s/a.png", f->g.dir);
  sl_trace_request request = request_for(f, picture, out);
  request.mask_path = picture;
  request.record = "blocks.0.hook_resid_post";
  request.force = true;
  /* A swallowed failure must not look like the end: only many whole runs in a row do. */
  int n_whole = 0, n_failed = 0;
  for (long n = 1; n_whole < 40; n++) {
    sl_alloc_fail_at(n);
    const sl_status status = sl_trace_run(f->model, &request, &summary);
    sl_alloc_fail_at(0);
    if (status != SL_OK && status != SL_ERROR_MEMORY) fail_msg("allocation %ld: %s", n, sl_error_message());
    assert_true((summary != NULL) == (status == SL_OK));
    assert_int_equal(access(out, F_OK), status == SL_OK ? 0 : -1);
    if (status == SL_OK) remove_dir(out);
    n_whole = status == SL_OK ? n_whole + 1 : 0;
    n_failed += status != SL_OK;
    free(summary);
  }
  assert_true(n_failed > 300);
  remove_dir(dir);
  tear_down(f);
}

static void forced_answer_equals_greedy(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 3);
  sl_layout layout = {0};
  sl_answer forced = {0};
  ASSERT_OK(sl_layout_build(&layout, f->model, NULL, golden_string(&f->g, "c0", "prompt"), true));
  ASSERT_OK(
      sl_answer_make(&forced, f->session, f->model, f->image, &layout, &(sl_answer_request){.forced = "the picture"}));
  assert_true(forced.forced && forced.n_token >= 1);
  assert_int_equal(forced.n_token, layout.n_token - layout.n_prompt);
  assert_string_equal(forced.text, "the picture");
  /* The first token is predicted by the same row as the greedy one: the same rivals. */
  for (int i = 0; i < SL_N_TOP; i++) assert_int_equal(forced.tokens[0].top[i].id, f->answer.tokens[0].top[i].id);
  sl_answer_dispose(&forced);
  sl_layout_dispose(&layout);
  tear_down(f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(trace_from_file),
      cmocka_unit_test(interrupted_run_keeps_what_is_complete),
      cmocka_unit_test(interrupted_empty_answer_leaves_nothing),
      cmocka_unit_test(answer_ends_with_the_positions),
      cmocka_unit_test(threads_are_told),
      cmocka_unit_test(requests_are_checked_before_work),
      cmocka_unit_test(no_memory_is_an_error),
      cmocka_unit_test(forced_answer_equals_greedy),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
