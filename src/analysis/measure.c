/* Targets of interventions (names and formulas as in target.c, without gradients). */
#include "analysis/measure.h"

#include <math.h>
#include <stdlib.h>

#include "analysis/shared.h"
#include "model/logits.h"

const char *const sl_measure_targets[] = {"logit", "logprob", "margin", "logodds", NULL};

static sl_status read_contrast(sl_measure *m, const sl_analysis_context *c, int32_t *id) {
  const char *contrast = sl_context_text(c, "contrast");
  *id = -1;
  if (!contrast) return SL_OK;
  if (m->target != SL_TARGET_LOGIT && m->target != SL_TARGET_MARGIN)
    SL_FAIL(SL_ERROR_ARGUMENT,
            "--contrast is a difference of two logits: it goes with --target logit or margin, not %s",
            sl_target_name(m->target));
  m->target = SL_TARGET_CONTRAST;
  return sl_target_contrast_id(c->model, contrast, c->answer, m->n_row, id);
}

sl_status sl_measure_init(sl_measure *m, const sl_analysis_context *c) {
  int32_t contrast;
  *m = (sl_measure){.target = sl_target_find(sl_context_text(c, "target")),
                    .n_vocab = sl_model_get_shape(c->model)->n_vocab,
                    .n_row = sl_context_flag(c, "whole-answer") ? c->n_answer : 1};
  SL_TRY(read_contrast(m, c, &contrast));
  const size_t n = (size_t)m->n_row;
  sl_status status = SL_ALLOC(m->rows, n, "answer rows");
  if (status == SL_OK) status = SL_ALLOC(m->ids, n, "answer rows");
  if (status == SL_OK) status = SL_ALLOC(m->rivals, n, "answer rows");
  for (int a = 0; a < m->n_row && status == SL_OK; a++) {
    m->rows[a] = c->layout->n_prompt + a - 1;
    m->ids[a] = c->answer[a].id;
    m->rivals[a] = sl_target_rival(m->target, &c->answer[a], contrast);
  }
  if (status != SL_OK) sl_measure_dispose(m);
  return status;
}

void sl_measure_dispose(sl_measure *m) {
  free(m->rows);
  free(m->ids);
  free(m->rivals);
  *m = (sl_measure){0};
}

static double row_value(const sl_measure *m, int a, const float *z) {
  const double own = z[m->ids[a]];
  if (m->target == SL_TARGET_LOGPROB || m->target == SL_TARGET_LOGODDS) {
    double top;
    const double sum = sl_logits_sum(z, m->n_vocab, m->target == SL_TARGET_LOGODDS ? m->ids[a] : -1, &top);
    return own - (top + log(sum));
  }
  return m->rivals[a] >= 0 ? own - (double)z[m->rivals[a]] : own;
}

double sl_measure_value(const sl_measure *m, const float *logits) {
  double sum = 0;
  for (int a = 0; a < m->n_row; a++) sum += row_value(m, a, logits + (int64_t)a * m->n_vocab);
  return sum;
}

sl_status sl_measure_plain(double *value, const sl_measure *m, sl_analysis_context *c) {
  const sl_trunk *trunk;
  float *logits = NULL;
  SL_TRY(sl_context_trunk(c, false, &trunk));
  SL_TRY(SL_ALLOC(logits, (size_t)m->n_row * (size_t)m->n_vocab, "logits"));
  const sl_status status = sl_trunk_logits(c->session, trunk, m->rows, m->n_row, logits);
  if (status == SL_OK) *value = sl_measure_value(m, logits);
  free(logits);
  return status;
}
