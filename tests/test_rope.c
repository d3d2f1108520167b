/* Scaled rotary frequencies against transformers 5.23 (modeling_rope_utils.py, ROPE_INIT_FUNCTIONS, float32). */
#include "folder.h"

#include "model/internal.h"
#include "model/rope.h"
#include "model/session_internal.h"

typedef struct scaled {
  const char *type;
  double theta, factor, low, high;
  int original, d, n;
  struct {
    int i;
    double value;
  } want[10];
} scaled;

static const scaled cases[] = {
    {"llama3",
     5e5,
     8,
     1,
     4,
     8192,
     128,
     10, /* Llama 3.1's: pairs 29 to 34 are blended */
     {{0, 1},
      {28, 0.00321144611},
      {30, 0.00137189368},
      {31, 0.00085675146},
      {32, 0.000524846022},
      {33, 0.00031269365},
      {34, 0.000178507791},
      {35, 9.55621217e-05},
      {42, 2.2748929e-05},
      {63, 3.06892588e-07}}},
    {"llama3",
     5e5,
     32,
     1,
     4,
     8192,
     64,
     8,
     {{1, 0.663601279},
      {14, 0.00321144611},
      {15, 0.00129054801},
      {16, 0.000429556705},
      {17, 9.70828623e-05},
      {18, 1.94616387e-05},
      {22, 3.77405445e-06},
      {31, 9.41830649e-08}}},
    {"llama3",
     1e4,
     3,
     2,
     5,
     256,
     32,
     5,
     {{1, 0.562341332}, {4, 0.0794303715}, {5, 0.0223834887}, {6, 0.0105409259}, {15, 5.92759789e-05}}},
    {"linear",
     1e4,
     2.5,
     0,
     0,
     0,
     64,
     4,
     {{0, 0.400000006}, {1, 0.299957693}, {16, 0.00399999972}, {31, 5.33408602e-05}}},
    {"dynamic", 1e4, 2.5, 0, 0, 0, 64, 2, {{0, 1}, {16, 0.01}}}, /* within max_position_embeddings */
    {"default", 1e4, 2.5, 0, 0, 0, 64, 2, {{0, 1}, {16, 0.01}}},
};

static void frequencies_match(void **state) {
  (void)state;
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    const scaled *c = &cases[k];
    sl_config config = {.text = {.rope_type = c->type,
                                 .rope_factor = c->factor,
                                 .rope_low = c->low,
                                 .rope_high = c->high,
                                 .rope_original = c->original}};
    float got[64];
    ASSERT_OK(sl_rope_check(&config, "config.json"));
    sl_rope_frequencies(got, c->theta, c->d);
    sl_rope_scale(got, c->d / 2, &config);
    for (int w = 0; w < c->n; w++) {
      const double want = c->want[w].value, error = fabs((double)got[c->want[w].i] - want) / want;
      if (!(error <= 1e-6)) fail_msg("case %zu, %s: frequency %d is off by %.3g", k, c->type, c->want[w].i, error);
    }
  }
}

/* The decoder's first frequencies of a copy of the folder with this at `path` of its config.json. What the newer
 * spelling says is not read beside the older one. */
static void read_frequencies(float *out, int n, const char *path, const char *value) {
  folder f = folder_copy("llava-gqa");
  sl_model *model = NULL;
  sl_session *session = NULL;
  folder_set_json(&f, "config.json", "text_config.rope_theta", "700.0");
  folder_set_json(&f, "config.json", "text_config.rope_parameters",
                  path ? "{\"rope_type\": \"linear\", \"factor\": 3.0, \"rope_theta\": 900.0}"
                       : "{\"rope_theta\": 700.0}");
  if (path) folder_set_json(&f, "config.json", path, value);
  ASSERT_OK(sl_model_open(&model, f.dir, NULL));
  ASSERT_OK(sl_session_new(&session, model, 1));
  const sl_mat m = model->decoder.shape.inv_freq;
  assert_in_range(n, 1, m.cols);
  sl_buffer_read(session->queue, out, m.buffer, (size_t)m.offset * sizeof *out, (size_t)n * sizeof *out);
  sl_session_free(session);
  sl_model_close(model);
  folder_remove(&f);
}

/* Both spellings, of transformers 4 and of 5. */
static void configs_are_read(void **state) {
  (void)state;
  enum { N = 4 };
  float plain[N], got[N];
  read_frequencies(plain, N, NULL, NULL);
  read_frequencies(got, N, "text_config.rope_scaling", "{\"type\": \"linear\", \"factor\": 2.0}");
  for (int i = 0; i < N; i++) assert_float_equal(got[i], plain[i] / 2, 0);
  read_frequencies(got, N, "text_config.rope_parameters",
                   "{\"rope_type\": \"linear\", \"factor\": 4.0, \"rope_theta\": 700.0}");
  for (int i = 0; i < N; i++) assert_float_equal(got[i], plain[i] / 4, 0);
  read_frequencies(got, N, "text_config.rope_parameters",
                   "{\"type\": \"linear\", \"factor\": 4.0, \"rope_theta\": 700.0}");
  for (int i = 0; i < N; i++) assert_float_equal(got[i], plain[i] / 4, 0);
  float other[N]; /* a base of its own, which transformers 5 reads */
  read_frequencies(other, N, "text_config.rope_parameters", "{\"rope_theta\": 1234.0}");
  read_frequencies(got, N, "text_config.rope_scaling", "{\"rope_type\": \"default\", \"rope_theta\": 1234.0}");
  assert_memory_equal(got, other, sizeof got);
  assert_float_not_equal(got[1], plain[1], 0);
  /* A turn of pair 0 takes 6.3 positions: shorter than 8 / 1, longer than 4 / 1. */
  read_frequencies(got, N, "text_config.rope_scaling",
                   "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 0.5, \"high_freq_factor\": 1, "
                   "\"original_max_position_embeddings\": 8}");
  assert_float_equal(got[0], 1, 0);
  read_frequencies(got, N, "text_config.rope_parameters",
                   "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 2, "
                   "\"original_max_position_embeddings\": 4, \"rope_theta\": 700.0}");
  for (int i = 0; i < N; i++) assert_float_equal(got[i], plain[i] / 8, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(frequencies_match), cmocka_unit_test(configs_are_read)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
