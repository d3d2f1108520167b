/* Made-up results of the analyses that intervene (cliff, knockout, lens, heads, tokens), at any size. */
#ifndef SL_TESTS_MOCK_CAUSAL_H
#define SL_TESTS_MOCK_CAUSAL_H

#include "store/run.h"

typedef struct mock_size {
  int n_layer, n_head;
  int n_image;
  int side;        /* image tokens on a side; 0 = they have no grid */
  int n_before;    /* positions before the image */
  int n_text;      /* positions after the image that read it */
  const char *word; /* that outside text says: the answer, tokens, reasons */
  double (*object_at)(double x, double y); /* 1 on the object; x, y in 0..1 */
} mock_size;

/* Puts the tensors into `run` and the keys into `analyses`. */
sl_status mock_causal_put(sl_run *run, json_t *analyses, const mock_size *size);

#endif
