/* The parts of run.json that every run has. */
#ifndef SL_TASK_RUN_JSON_H
#define SL_TASK_RUN_JSON_H

#include "sightline/trace.h"
#include "task/answer.h"
#include "task/picture.h"

/* Sets root[key], taking over value; fails when value is NULL. */
sl_status sl_run_json_set(json_t *root, const char *key, json_t *value);

/* sightline, command, created, model, compute, image, seed. */
sl_status sl_run_json_start(json_t *root, const sl_model *model, const sl_trace_request *request,
                            const sl_picture *picture);

/* prompt, tokens, spans, grid, queries. */
sl_status sl_run_json_tokens(json_t *root, const sl_model *model, const sl_trace_request *request,
                             const sl_layout *layout, const sl_answer *answer);

/* One answer token with its rivals (new reference). */
sl_status sl_run_json_answer_token(json_t **out, const sl_model *model, const sl_answer_token *token);

/* options: those of the task; the runner adds those of every analysis. */
sl_status sl_run_json_options(json_t *root, const sl_trace_request *request, int max_token, double object_threshold);

/* peak_memory_bytes of the process. */
sl_status sl_run_json_memory(json_t *root);

#endif
