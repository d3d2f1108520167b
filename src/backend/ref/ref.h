/* The reference backend's ops, one file per family. */
#ifndef SL_BACKEND_REF_H
#define SL_BACKEND_REF_H

#include "backend/kind.h"

void sl_ref_linear(sl_queue *queue, sl_mat y, sl_mat x, const sl_weight *w, sl_mat bias, bool add);
void sl_ref_linear_dx(sl_queue *queue, sl_mat dx, sl_mat dy, const sl_weight *w, bool add);
void sl_ref_embed(sl_queue *queue, sl_mat y, const sl_weight *w, sl_ints ids);

void sl_ref_norm(sl_queue *queue, sl_norm kind, sl_mat y, sl_mat x, sl_mat w, sl_mat b, float eps);
void sl_ref_norm_dx(sl_queue *queue, sl_norm kind, sl_mat dx, sl_mat dy, sl_mat x, sl_mat w, float eps, bool add);
void sl_ref_act(sl_queue *queue, sl_act kind, sl_mat y, sl_mat x);
void sl_ref_act_dx(sl_queue *queue, sl_act kind, sl_mat dx, sl_mat dy, sl_mat x);
void sl_ref_gate(sl_queue *queue, sl_act kind, sl_mat h, sl_mat gu);
void sl_ref_gate_dx(sl_queue *queue, sl_act kind, sl_mat dgu, sl_mat dh, sl_mat gu);
void sl_ref_rope(sl_queue *queue, sl_mat x, int d_head, sl_ints positions, sl_mat inv_freq, int sign);
void sl_ref_log_n(sl_queue *queue, sl_mat x, sl_ints positions, int n);

void sl_ref_attend(sl_queue *queue, const sl_attend *a);
void sl_ref_attend_dx(sl_queue *queue, const sl_attend *a, sl_mat dz, sl_mat dq, sl_mat dk, sl_mat dv);
void sl_ref_attend_shared(sl_queue *queue, const sl_attend_shared *a);

void sl_ref_add(sl_queue *queue, sl_mat y, sl_mat a, sl_mat b);
void sl_ref_multiply(sl_queue *queue, sl_mat y, sl_mat a, sl_mat b);
void sl_ref_scale(sl_queue *queue, sl_mat y, sl_mat x, float factor);
void sl_ref_zero(sl_queue *queue, sl_mat y);
void sl_ref_copy(sl_queue *queue, sl_mat y, sl_mat x);
void sl_ref_gather_rows(sl_queue *queue, sl_mat y, sl_mat x, sl_ints rows);
void sl_ref_scatter_rows(sl_queue *queue, sl_mat y, sl_mat x, sl_ints rows);
void sl_ref_cam(sl_queue *queue, sl_mat heat, sl_mat alpha, sl_mat f, sl_mat g, bool clip);

#endif
