/* Recording sites into host memory. */
#include "model/record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"

/* One recorded place: the rows and heads asked for, and where they go. */
typedef struct slot {
  sl_part part;
  sl_site site;
  int layer;
  int *rows, n_row;   /* positions, ascending */
  int *heads, n_head; /* heads, ascending; n_head 0 for sites without heads */
  char name[64];
  float *data;
  sl_tensor tensor;
  int order; /* place in the order in which the run passed it; -1 = not passed */
} slot;

struct sl_record {
  const sl_model *model;
  int n_token;             /* rows of the decoder */
  int n_view, n_view_row, n_view_token; /* views, and rows of tower and projector for one */
  int n_text;              /* rows of the question in a Q-Former */
  slot *slots;
  int n_slot, n_seen;
  sl_buffer *pattern_rows[SL_PART_COUNT]; /* i32: rows of the attention sites */
  int *pattern_row_of[SL_PART_COUNT], n_pattern[SL_PART_COUNT];
};

/* ---- the request ---- */

/* One number at *at, moved past it; a negative one counts from the end. */
static bool parse_number(const char **at, int count, long *value) {
  char *end;
  const char *digits = **at == '-' ? *at + 1 : *at;
  if (*digits < '0' || *digits > '9') return false; /* strtol alone would take blanks and signs */
  *value = strtol(*at, &end, 10);
  if (**at == '-') *value += count;
  *at = end;
  return true;
}

/* Marks what a list of numbers and ranges, "0-3;7;-1", names among `count` things. NULL means all. */
static sl_status choose(const char *text, const char *what, int count, bool *chosen) {
  for (int i = 0; !text && i < count; i++) chosen[i] = true;
  const char *at = text;
  while (at) {
    long first, last;
    bool whole = parse_number(&at, count, &first);
    last = first;
    if (whole && *at == '-') {
      at++;
      whole = parse_number(&at, count, &last);
    }
    if (!whole || (*at && *at != ';'))
      SL_FAIL(SL_ERROR_ARGUMENT, "record: \"%s\" is not a list of %s like 0-3;7;-1", text, what);
    if (first < 0 || last >= count || first > last)
      SL_FAIL(SL_ERROR_ARGUMENT, "record: %s \"%s\": expected ascending numbers from 0 to %d", what, text, count - 1);
    for (long i = first; i <= last; i++) chosen[i] = true;
    at = *at ? at + 1 : NULL;
  }
  return SL_OK;
}

/* Adds what `text` names to the list *out, which stays ascending with each number once. */
static sl_status parse_list(const char *text, const char *what, int count, int **out, int *n_out) {
  bool *chosen = NULL;
  SL_TRY(SL_ALLOC(chosen, (size_t)count, "record list"));
  for (int i = 0; i < *n_out; i++) chosen[(*out)[i]] = true;
  sl_status status = choose(text, what, count, chosen);
  if (status == SL_OK && !*out) status = SL_ALLOC(*out, (size_t)count, "record list");
  for (int i = *n_out = 0; status == SL_OK && i < count; i++)
    if (chosen[i]) (*out)[(*n_out)++] = i;
  free(chosen);
  return status;
}

static const sl_part_shape *shape_of(const sl_model *m, sl_part part) {
  static const size_t places[] = {[SL_PART_VISION] = offsetof(sl_model_shape, vision),
                                  [SL_PART_PROJECTOR] = offsetof(sl_model_shape, projector),
                                  [SL_PART_DECODER] = offsetof(sl_model_shape, decoder)};
  return (const sl_part_shape *)((const char *)&m->shape + places[part]);
}

/* Rows of a site: query rows of attention. */
static int rows_of(const sl_record *r, sl_part part, sl_site site) {
  const int n_tower = r->n_view * r->n_view_row, n_out = r->n_view * r->n_view_token;
  if (part == SL_PART_DECODER) return r->n_token;
  if (part == SL_PART_VISION) return n_tower;
  switch (site) {
    case SL_SITE_PROJECTOR_IN: return sl_model_has_queries(r->model) ? n_tower : n_out;
    case SL_SITE_PROJECTOR_LN:
    case SL_SITE_PROJECTOR_PRE:
    case SL_SITE_PROJECTOR_POST:
    case SL_SITE_PROJECTOR_OUT:
    case SL_SITE_RESAMPLER_PATTERN:
    case SL_SITE_CROSS_PATTERN: return n_out;
    default: return n_out + r->n_text; /* a Q-Former's blocks */
  }
}

/* Rows of the tower attend within their view; queries of a projector to all of the tower's. */
static int keys_of(const sl_record *r, sl_part part, sl_site site) {
  if (part == SL_PART_VISION) return r->n_view_row;
  if (site == SL_SITE_RESAMPLER_PATTERN || site == SL_SITE_CROSS_PATTERN) return r->n_view * r->n_view_row;
  return rows_of(r, part, site);
}

/* Width of one row of a site without heads. */
static int width_of(const sl_model *m, sl_part part, sl_site site) {
  const sl_part_shape *s = shape_of(m, part);
  switch (site) {
    case SL_SITE_MLP_PRE:
    case SL_SITE_MLP_PRE_LINEAR:
    case SL_SITE_MLP_POST: return s->d_mlp;
    case SL_SITE_LOGITS: return m->shape.n_vocab;
    case SL_SITE_PROJECTOR_IN:
    case SL_SITE_PROJECTOR_LN: return sl_model_has_queries(m) ? m->shape.vision.d_model : sl_model_input_cols(m);
    case SL_SITE_PROJECTOR_PRE:
    case SL_SITE_PROJECTOR_POST: {
      const int width = sl_projector_kept_cols(&m->projector);
      return width > 0 ? width : m->shape.decoder.d_model;
    }
    case SL_SITE_PROJECTOR_OUT: return m->shape.decoder.d_model;
    default: return s->d_model;
  }
}

static sl_status shape_slot(slot *s, const sl_record *r) {
  const sl_model *m = r->model;
  const sl_part_shape *shape = shape_of(m, s->part);
  sl_tensor *t = &s->tensor;
  *t = (sl_tensor){.dtype = SL_F32};
  switch (sl_site_get(s->site)->shape) {
    case SL_SHAPE_ROWS:
    case SL_SHAPE_LOGITS:
      t->n_dim = 2;
      t->shape[0] = s->n_row;
      t->shape[1] = width_of(m, s->part, s->site);
      break;
    case SL_SHAPE_HEADS:
    case SL_SHAPE_KV:
      t->n_dim = 3;
      t->shape[0] = s->n_row;
      t->shape[1] = s->n_head;
      t->shape[2] = shape->d_head;
      break;
    case SL_SHAPE_PATTERN:
      t->n_dim = 3;
      t->shape[0] = s->n_head;
      t->shape[1] = s->n_row;
      t->shape[2] = keys_of(r, s->part, s->site);
      break;
  }
  SL_TRY(SL_ALLOC(s->data, (size_t)sl_tensor_count(t), "recorded site"));
  t->data = s->data;
  return SL_OK;
}

static int heads_of(const sl_model *m, sl_part part, sl_site site) {
  switch (sl_site_get(site)->shape) {
    case SL_SHAPE_HEADS:
    case SL_SHAPE_PATTERN: return shape_of(m, part)->n_head;
    case SL_SHAPE_KV: return shape_of(m, part)->n_head_kv;
    case SL_SHAPE_ROWS:
    case SL_SHAPE_LOGITS: return 0;
  }
  return 0;
}

static slot *get_slot(const sl_record *r, sl_part part, sl_site site, int layer) {
  for (int i = 0; i < r->n_slot; i++) {
    slot *s = &r->slots[i];
    if (s->part == part && s->site == site && s->layer == layer) return s;
  }
  return NULL;
}

/* Adds rows and heads of a place, which may have been named before. */
static sl_status add_slot(sl_record *r, sl_part part, sl_site site, int layer, const char *rows, const char *heads) {
  slot *s = get_slot(r, part, site, layer);
  if (!s) {
    SL_TRY(SL_REALLOC(r->slots, (size_t)r->n_slot + 1, "record"));
    s = &r->slots[r->n_slot++];
    *s = (slot){.part = part, .site = site, .layer = layer, .order = -1};
    sl_site_name(s->name, part, site, layer);
  }
  const int n_all = rows_of(r, part, site), n_head = heads_of(r->model, part, site);
  SL_TRY(parse_list(rows, "positions", n_all, &s->rows, &s->n_row));
  if (heads && n_head == 0) SL_FAIL(SL_ERROR_ARGUMENT, "record: %s has no heads to choose from", s->name);
  return n_head > 0 ? parse_list(heads, "heads", n_head, &s->heads, &s->n_head) : SL_OK;
}

/* Adds every place that `pattern` names. */
static sl_status add_matches(sl_record *r, const char *pattern, const char *rows, const char *heads) {
  int n_match = 0;
  for (int part = 0; part < SL_PART_COUNT; part++) {
    for (int site = 0; site < SL_SITE_COUNT; site++) {
      if (!sl_model_has_site(r->model, (sl_part)part, (sl_site)site)) continue;
      const int n_layer = sl_site_get((sl_site)site)->per_layer ? shape_of(r->model, (sl_part)part)->n_layer : 1;
      for (int il = 0; il < n_layer; il++) {
        if (!sl_site_match(pattern, (sl_part)part, (sl_site)site, il)) continue;
        n_match++;
        SL_TRY(add_slot(r, (sl_part)part, (sl_site)site, il, rows, heads));
      }
    }
  }
  if (n_match == 0)
    SL_FAIL(SL_ERROR_ARGUMENT, "record: \"%s\" names no site of this model (`sightline info --sites` lists them)",
            pattern);
  return SL_OK;
}

/* One "PATTERN[@POSITIONS][#HEADS]"; the item's text is cut apart in place. */
static sl_status add_item(sl_record *r, char *item) {
  char *heads = strchr(item, '#');
  if (heads) *heads++ = '\0';
  char *rows = strchr(item, '@');
  if (rows) *rows++ = '\0';
  return add_matches(r, item, rows, heads);
}

/* Attention rows that a part's probe has to ask for: a stack gives those of its own view, the projector always all. */
static int pattern_space(const sl_record *r, sl_part part) {
  return part == SL_PART_DECODER ? r->n_token : part == SL_PART_VISION ? r->n_view_row : 0;
}

/* The union of the rows that attention sites of a part ask for. */
static sl_status collect_pattern_rows(sl_record *r) {
  for (int part = 0; part < SL_PART_COUNT; part++) {
    const int n_all = pattern_space(r, (sl_part)part);
    if (n_all == 0) continue;
    bool *chosen = NULL;
    SL_TRY(SL_ALLOC(chosen, (size_t)n_all, "record"));
    const sl_status status = SL_ALLOC(r->pattern_row_of[part], (size_t)n_all, "record");
    for (int i = 0; status == SL_OK && i < r->n_slot; i++) {
      const slot *s = &r->slots[i];
      if ((int)s->part != part || sl_site_get(s->site)->shape != SL_SHAPE_PATTERN) continue;
      for (int k = 0; k < s->n_row; k++) chosen[s->rows[k] % n_all] = true;
    }
    for (int t = 0; status == SL_OK && t < n_all; t++)
      if (chosen[t]) r->pattern_row_of[part][r->n_pattern[part]++] = t;
    free(chosen);
    SL_TRY(status);
  }
  return SL_OK;
}

static sl_status fill(sl_record *r, const char *spec) {
  char *copy = NULL, *rest = NULL;
  SL_TRY(sl_strdup(&copy, spec));
  sl_status status = SL_OK;
  for (char *item = strtok_r(copy, ",", &rest); status == SL_OK && item; item = strtok_r(NULL, ",", &rest))
    status = add_item(r, item);
  free(copy);
  SL_TRY(status);
  if (r->n_slot == 0) SL_FAIL(SL_ERROR_ARGUMENT, "record: no site given");
  for (int i = 0; i < r->n_slot; i++) {
    SL_TRY(shape_slot(&r->slots[i], r));
    r->slots[i].tensor.name = r->slots[i].name; /* the list of slots no longer moves */
  }
  return collect_pattern_rows(r);
}

sl_status sl_record_new(sl_record **out, const sl_model *model, const sl_pack *pack, const sl_layout *layout,
                        const char *spec) {
  *out = NULL;
  sl_record *r = NULL;
  SL_TRY(SL_ALLOC(r, 1, "record"));
  r->model = model;
  r->n_token = layout->n_token;
  r->n_view = pack ? pack->n_view : 1;
  r->n_text = pack ? pack->n_text : 0;
  r->n_view_row = pack ? pack->n_view_row : sl_tower_rows(&model->tower);
  r->n_view_token = pack ? pack->n_view_token : model->shape.n_view_token;
  const sl_status status = fill(r, spec);
  if (status != SL_OK) {
    sl_record_free(r);
    return status;
  }
  *out = r;
  return SL_OK;
}

void sl_record_free(sl_record *r) {
  if (!r) return;
  for (int i = 0; i < r->n_slot; i++) {
    free(r->slots[i].rows);
    free(r->slots[i].heads);
    free(r->slots[i].data);
  }
  for (int part = 0; part < SL_PART_COUNT; part++) {
    sl_buffer_free(r->pattern_rows[part]);
    free(r->pattern_row_of[part]);
  }
  free(r->slots);
  free(r);
}

/* ---- as a probe ---- */

static bool wants(void *user, sl_part part, sl_site site, int layer, bool backward) {
  return !backward && get_slot(user, part, site, layer);
}

static void read_row(sl_queue *queue, float *out, sl_mat value, int row, int first_col, int n_col) {
  sl_buffer_read(queue, out, value.buffer, (size_t)(value.offset + row * value.stride + first_col) * sizeof(float),
                 (size_t)n_col * sizeof(float));
}

/* value [H * n_pattern, Tk] of the view whose rows start at first_row, to [heads, rows, Tk]. */
static void copy_pattern(const sl_record *r, const slot *s, sl_queue *queue, int first_row, sl_mat value) {
  const int n_head_all = heads_of(r->model, s->part, s->site);
  const int n_all = pattern_space(r, s->part), n_pattern = n_all ? r->n_pattern[s->part] : value.rows / n_head_all;
  for (int h = 0; h < s->n_head; h++) {
    int at = 0; /* both lists ascend */
    for (int k = 0; k < s->n_row; k++) {
      const int row = s->rows[k] - (s->part == SL_PART_VISION ? first_row : 0);
      if (n_all == 0) {
        at = row;
      } else {
        if (row < 0 || row >= n_all) continue; /* of another view */
        while (r->pattern_row_of[s->part][at] != row) at++;
      }
      read_row(queue, s->data + ((size_t)h * (size_t)s->n_row + (size_t)k) * (size_t)value.cols, value,
               s->heads[h] * n_pattern + at, 0, value.cols);
    }
  }
}

static void copy_rows(const slot *s, sl_queue *queue, int first_row, sl_mat value) {
  const int d_head = s->n_head > 0 ? (int)s->tensor.shape[2] : 0;
  for (int k = 0; k < s->n_row; k++) {
    const int row = s->rows[k] - first_row;
    if (row < 0 || row >= value.rows) continue;
    if (s->n_head == 0) read_row(queue, s->data + (size_t)k * (size_t)value.cols, value, row, 0, value.cols);
    for (int h = 0; h < s->n_head; h++)
      read_row(queue, s->data + ((size_t)k * (size_t)s->n_head + (size_t)h) * (size_t)d_head, value, row,
               s->heads[h] * d_head, d_head);
  }
}

static void see(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                sl_mat grad) {
  (void)grad;
  sl_record *r = user;
  slot *s = get_slot(r, part, site, layer);
  if (s->order < 0) s->order = r->n_seen++;
  if (sl_site_get(site)->shape == SL_SHAPE_PATTERN)
    copy_pattern(r, s, queue, first_row, value);
  else
    copy_rows(s, queue, first_row, value);
}

sl_status sl_record_probe(sl_record *r, sl_session *session, sl_part part, sl_probe *probe) {
  *probe = (sl_probe){.user = r, .wants = wants, .see = see};
  const int n = r->n_pattern[part];
  if (n == 0) return SL_OK;
  if (!r->pattern_rows[part]) {
    SL_TRY(sl_buffer_new(&r->pattern_rows[part], r->model->backend, (size_t)n * sizeof(int32_t), "pattern rows"));
    sl_buffer_write(sl_session_queue(session), r->pattern_rows[part], 0, r->pattern_row_of[part],
                    (size_t)n * sizeof(int32_t));
  }
  probe->pattern_rows = (sl_ints){r->pattern_rows[part], 0, n};
  return SL_OK;
}

/* Places that this run did not pass (a rotary site without rotary embedding) are left out. */
int sl_record_count(const sl_record *r) { return r->n_seen; }

const sl_tensor *sl_record_at(const sl_record *r, int index) {
  for (int i = 0; i < r->n_slot; i++)
    if (r->slots[i].order == index) return &r->slots[i].tensor;
  return NULL;
}
