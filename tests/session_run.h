/* A session over one of LLaVA-1.5's golden folders, with an encoded picture and a prompt. */
#ifndef TESTS_SESSION_RUN_H
#define TESTS_SESSION_RUN_H

#include "folder.h"

#include "model/internal.h"
#include "model/session.h"

static const char *const folders[] = {"llava-gqa", "llava-mha", "llava-orig-pad"};

typedef struct run {
  sl_model *model;
  sl_session *session;
  sl_layout layout;
  sl_image *image;
  float *pixels;
  int n_vocab;
} run;

static inline sl_model *open_model(const char *name, const char *backend) {
  char dir[600];
  snprintf(dir, sizeof dir, "%s/%s", GOLDEN_DIR, name);
  const sl_model_options options = {.size = sizeof options, .backend = backend, .compute = "f32", .n_thread = 1};
  sl_model *model = NULL;
  ASSERT_OK(sl_model_open(&model, dir, &options));
  return model;
}

/* A session over a model with an encoded picture of waves and a prompt. */
static inline run start_on(sl_model *model, int n_thread, bool keep) {
  run r = {.model = model};
  const sl_model_shape *shape = sl_model_get_shape(model);
  const size_t n = (size_t)3 * (size_t)shape->image_px * (size_t)shape->image_px;
  r.n_vocab = shape->n_vocab;
  r.pixels = calloc(n, sizeof *r.pixels);
  for (size_t i = 0; i < n; i++) r.pixels[i] = (float)sin(0.37 * (double)i);
  ASSERT_OK(sl_session_new(&r.session, model, n_thread));
  ASSERT_OK(sl_layout_build(&r.layout, model, NULL, "Is there a cat?", false));
  ASSERT_OK(sl_image_encode(&r.image, r.session, r.pixels, NULL, NULL, keep));
  return r;
}

static inline run start(const char *name, const char *backend) { return start_on(open_model(name, backend), 1, true); }

static inline void stop(run *r) {
  free(r->pixels);
  sl_image_free(r->image);
  sl_layout_dispose(&r->layout);
  sl_session_free(r->session);
}

static inline void finish(run *r) {
  stop(r);
  sl_model_close(r->model);
}

#define ASSERT_FAILS(expression, wanted, part)                                                                   \
  do {                                                                                                           \
    const sl_status status_ = (expression);                                                                      \
    if (status_ != (wanted) || !strstr(sl_error_message(), (part)))                                              \
      fail_msg("%s: %s (%s); expected %s with \"%s\"", #expression, sl_status_name(status_), sl_error_message(), \
               sl_status_name(wanted), (part));                                                                  \
  } while (0)

#endif
