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
  const char *note; /* what makes the heads' fit doubtful */
  const char *word; /* that outside text says: the answer, tokens, reasons */
  const float *object; /* [n_image] 1 for tokens on the object */
} mock_size;

/* Puts the tensors into `run` and the keys into `analyses`. */
sl_status mock_causal_put(sl_run *run, json_t *analyses, const mock_size *size);

#endif
