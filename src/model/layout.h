/* The token layout of one prompt: ids after image expansion, and what each position is. Derived from the tokenizer and
 * the family's template at run time, never from fixed offsets. */
#ifndef SL_MODEL_LAYOUT_H
#define SL_MODEL_LAYOUT_H

#include "model/pack.h"

/* The order is that of the last axis of flow.share. */
typedef enum sl_token_class {
  SL_CLASS_SYSTEM,    /* everything the template puts before the user's turn content: BOS, system text, role marker */
  SL_CLASS_IMAGE,     /* tokens that show the picture */
  SL_CLASS_STRUCTURE, /* tokens that serve the image without showing a patch (kept class token, row markers) */
  SL_CLASS_USER,      /* the question, and the assistant's role marker after it */
  SL_CLASS_GENERATED, /* answer tokens */
  SL_CLASS_COUNT
} sl_token_class;

typedef enum sl_token_role { SL_ROLE_NONE, SL_ROLE_ROLE, SL_ROLE_FINAL } sl_token_role;

const char *sl_class_name(sl_token_class token_class); /* "system", "image", "structure", "user", "generated" */
const char *sl_role_name(sl_token_role role);          /* "", "role", "final" */

/* What an image position shows: a cell of a view's grid of tokens; view -1 = no place. */
typedef struct sl_place {
  int16_t view, row, col;
} sl_place;

/* What rotary embedding calls the rows of a sequence. As a rule row t stands at t. With axes (Qwen2-VL's M-RoPE) a row
 * has a time, a row and a column: tokens of text count on all three together; cell (r, c) of a picture that starts at
 * p stands at (p, p + r, p + c), and the text behind the picture goes on at p + max(rows, cols). */
typedef struct sl_position_frame {
  int first_image, n_image;
  int rows, cols; /* of the picture's cells; 0 x 0 without axes */
} sl_position_frame;

static inline int32_t sl_position_at(const sl_position_frame *f, int t, int axis) {
  const int i = t - f->first_image;
  if (f->cols == 0 || i < 0) return t;
  if (i >= f->n_image) return t - f->n_image + (f->rows > f->cols ? f->rows : f->cols);
  return f->first_image + (axis == 0 ? 0 : axis == 1 ? i / f->cols : i % f->cols);
}

static inline bool sl_position_frame_same(const sl_position_frame *a, const sl_position_frame *b) {
  if (a->cols == 0 && b->cols == 0) return true; /* every row stands at its own number */
  return a->first_image == b->first_image && a->n_image == b->n_image && a->rows == b->rows && a->cols == b->cols;
}

/* Zero-initialise; release with sl_layout_dispose. */
typedef struct sl_layout {
  int n_token;      /* prompt and answer so far */
  int n_prompt;     /* P: the prompt alone, image tokens included */
  int32_t *ids;     /* [n_token] */
  uint8_t *classes; /* [n_token] sl_token_class */
  uint8_t *roles;   /* [n_token] sl_token_role; FINAL is row n_prompt - 1 */
  int first_image;  /* first image position (class token and newlines included); -1 when the prompt holds no picture */
  int n_image;      /* N image positions, contiguous */
  int n_shown;      /* those of class image; the others serve them (structure) */
  int grid_height, grid_width; /* the shown ones are one grid in row-major order; 0 x 0 when they are not */
  sl_place *places; /* [n_image] */
  sl_position_frame frame; /* of rotary positions */
  char *text;       /* the prompt as text, template applied, <image> not expanded */
} sl_layout;

/* Builds the layout of `question` in the family's template around the picture of `pack` (NULL: a square one). With
 * `raw` the text is taken as it is and must hold the placeholder <image> exactly once. A question that is empty, not
 * UTF-8, over 1 MiB, or that contains the placeholder or another special token's text is an error (or, with raw, only
 * the count of placeholders is checked). */
sl_status sl_layout_build(sl_layout *out, const sl_model *model, const sl_pack *pack, const char *question, bool raw);

/* Appends answer tokens (class generated), given as ids or as text (tokenized as the continuation of the prompt). */
sl_status sl_layout_append(sl_layout *layout, const sl_model *model, const int32_t *ids, int n_id);
sl_status sl_layout_append_text(sl_layout *layout, const sl_model *model, const char *answer);

sl_status sl_layout_copy(sl_layout *out, const sl_layout *layout);
void sl_layout_dispose(sl_layout *layout);

#endif
