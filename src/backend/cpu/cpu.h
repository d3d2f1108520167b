/* The cpu backend's ops and what they share: thread counts and per-thread scratch. */
#ifndef SL_BACKEND_CPU_H
#define SL_BACKEND_CPU_H

#include "backend/kind.h"

/* How many of the queue's threads an op of this much work (about a multiply-add each) is worth. Results never depend on
 * it. */
int sl_cpu_threads(const sl_queue *queue, double work);
int sl_cpu_processors(void);
int sl_cpu_thread(void); /* this thread's number in the running team */

/* Scratch of thread `index`, 64-byte aligned, and its size. */
void *sl_cpu_scratch(const sl_queue *queue, int index);
size_t sl_cpu_scratch_bytes(const sl_queue *queue);
/* Scratch all threads share; asserts that sl_queue_reserve was told of operands this large (else NULL). */
void *sl_cpu_shared(const sl_queue *queue, size_t n_bytes);

/* Scratch one thread needs to attend over n_key keys (attend_shared: columns) of width d_head. */
bool sl_attend_scratch_bytes(int d_head, int n_key, size_t *n_bytes);
bool sl_attend_shared_scratch_bytes(int d_head, int n_key, size_t *n_bytes);

void sl_cpu_norm(sl_queue *queue, sl_norm kind, sl_mat y, sl_mat x, sl_mat w, sl_mat b, float eps);
void sl_cpu_norm_dx(sl_queue *queue, sl_norm kind, sl_mat dx, sl_mat dy, sl_mat x, sl_mat w, float eps, bool add);
void sl_cpu_act(sl_queue *queue, sl_act kind, sl_mat y, sl_mat x);
void sl_cpu_act_dx(sl_queue *queue, sl_act kind, sl_mat dx, sl_mat dy, sl_mat x);
void sl_cpu_gate(sl_queue *queue, sl_act kind, sl_mat h, sl_mat gu);
void sl_cpu_gate_dx(sl_queue *queue, sl_act kind, sl_mat dgu, sl_mat dh, sl_mat gu);
void sl_cpu_rope(sl_queue *queue, sl_mat x, int d_head, sl_ints positions, sl_mat inv_freq, int sign);
void sl_cpu_log_n(sl_queue *queue, sl_mat x, sl_ints positions, int n);
void sl_cpu_attend(sl_queue *queue, const sl_attend *a);
void sl_cpu_attend_dx(sl_queue *queue, const sl_attend *a, sl_mat dz, sl_mat dq, sl_mat dk, sl_mat dv);
void sl_cpu_attend_shared(sl_queue *queue, const sl_attend_shared *a);
void sl_cpu_add(sl_queue *queue, sl_mat y, sl_mat a, sl_mat b);
void sl_cpu_multiply(sl_queue *queue, sl_mat y, sl_mat a, sl_mat b);
void sl_cpu_scale(sl_queue *queue, sl_mat y, sl_mat x, float factor);
void sl_cpu_zero(sl_queue *queue, sl_mat y);
void sl_cpu_copy(sl_queue *queue, sl_mat y, sl_mat x);
void sl_cpu_gather_rows(sl_queue *queue, sl_mat y, sl_mat x, sl_ints rows);
void sl_cpu_scatter_rows(sl_queue *queue, sl_mat y, sl_mat x, sl_ints rows);
void sl_cpu_cam(sl_queue *queue, sl_mat heat, sl_mat alpha, sl_mat f, sl_mat g, bool clip);

#endif
