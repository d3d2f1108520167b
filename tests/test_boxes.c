/* What place of the picture does an image token show? For every family whose tokens have places, every view (base,
 * tiles, thumbnail) and its tokens: a square in the middle of the token's box is changed in the source picture, the
 * picture goes through preprocessing, tower, projector and splice, and among the tokens of that view the one whose
 * decoder row changes most must be that token (boxes of one view do not overlap). In the other views the token that
 * changes most must touch the square.
 *
 * Towers mix patches by attention, and with the random weights of these checkpoints far patches change as much as the
 * own one: so the tower runs without its blocks, and a feature is its patch's embedding (after the norm where there is
 * one). Everything else is as ever. */
#include "family_run.h"

#include "model/internal.h"
#include "model/record.h"

typedef struct world {
  family_run r;
  sl_rgb picture;
  float (*box)[4];
  int32_t *view;
  int n_layer;  /* of the tower, which runs none of them */
  float *plain; /* [N, D] rows of the unchanged picture */
} world;

static uint32_t mix(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x45d9f3bu;
  x = (x ^ (x >> 16)) * 0x45d9f3bu;
  return x ^ (x >> 16);
}

/* Soft noise: blocks of 5 px with middle grey levels, so that the change is larger than what was there. */
static sl_rgb paint(int width_px, int height_px) {
  sl_rgb p = {.width_px = width_px, .height_px = height_px, .data = malloc((size_t)width_px * (size_t)height_px * 3)};
  assert_non_null(p.data);
  for (int y = 0; y < height_px; y++)
    for (int x = 0; x < width_px; x++)
      for (int c = 0; c < 3; c++)
        p.data[(y * width_px + x) * 3 + c] = (uint8_t)(100 + mix((uint32_t)(y / 5 * 1000 + x / 5 * 3 + c)) % 56);
  return p;
}

/* The picture's rows in the decoder: new array [N, D]. */
static float *image_rows(world *w, const sl_rgb *picture) {
  family_run *r = &w->r;
  sl_views views = {0};
  sl_image *image = NULL;
  sl_record *record = NULL;
  sl_probe probe;
  ASSERT_OK(sl_views_make(&views, sl_model_get_preprocess(r->model), picture));
  ASSERT_OK(sl_image_encode(&image, r->session, views.pixels, &r->pack, NULL, false));
  ASSERT_OK(sl_record_new(&record, r->model, &r->pack, &r->layout, "hook_embed"));
  ASSERT_OK(sl_record_probe(record, r->session, SL_PART_DECODER, &probe));
  ASSERT_OK(sl_session_forward(r->session, &r->layout, image, NULL, 0, NULL, &probe, false));
  const int width = sl_model_get_shape(r->model)->decoder.d_model;
  const size_t n = (size_t)r->pack.n * (size_t)width;
  float *rows = malloc(n * sizeof *rows);
  assert_non_null(rows);
  memcpy(rows, (const float *)sl_record_at(record, 0)->data + (size_t)r->layout.first_image * (size_t)width,
         n * sizeof *rows);
  sl_record_free(record);
  sl_image_free(image);
  sl_views_dispose(&views);
  return rows;
}

static void world_open(world *w, const char *folder, int width_px, int height_px) {
  *w = (world){.picture = paint(width_px, height_px)};
  family_run *r = &w->r;
  family_open(r, folder, CPU);
  w->n_layer = r->model->tower.n_layer;
  r->model->tower.n_layer = 0;
  ASSERT_OK(sl_views_make(&r->views, sl_model_get_preprocess(r->model), &w->picture));
  ASSERT_OK(sl_pack_make(&r->pack, r->model, &r->views, "What is this?"));
  ASSERT_OK(sl_layout_build(&r->layout, r->model, &r->pack, "What is this?", false));
  w->box = malloc((size_t)r->pack.n * sizeof *w->box);
  w->view = malloc((size_t)r->pack.n * sizeof *w->view);
  sl_pack_boxes(&r->pack, w->box, w->view);
  w->plain = image_rows(w, &w->picture);
}

static void world_close(world *w) {
  free(w->plain);
  free(w->box);
  free(w->view);
  sl_rgb_dispose(&w->picture);
  w->r.model->tower.n_layer = w->n_layer; /* for what is freed */
  family_close(&w->r);
}

/* Half the sides of the changed square, in source px. */
static double half_side(const float box[4], int axis) { return 0.4 * ((double)box[axis + 2] - box[axis]); }

static double middle(const float box[4], int axis) { return ((double)box[axis] + box[axis + 2]) / 2; }

/* The picture with a bright and dark pattern in the middle of the box. */
static sl_rgb change(const sl_rgb *picture, const float box[4]) {
  const size_t n = (size_t)picture->width_px * (size_t)picture->height_px * 3;
  sl_rgb p = {picture->width_px, picture->height_px, malloc(n)};
  assert_non_null(p.data);
  memcpy(p.data, picture->data, n);
  for (int y = 0; y < p.height_px; y++)
    for (int x = 0; x < p.width_px; x++) {
      if (fabs(x + 0.5 - middle(box, 0)) > half_side(box, 0) || fabs(y + 0.5 - middle(box, 1)) > half_side(box, 1))
        continue;
      uint8_t *to = p.data + (y * p.width_px + x) * 3;
      to[0] = 255;
      to[1] = 0;
      to[2] = 255;
    }
  return p;
}

/* The position of a view whose row changed most; -1 when none did. */
static int most_changed(const world *w, const float *rows, int view) {
  const int width = sl_model_get_shape(w->r.model)->decoder.d_model;
  double most = 0;
  int best = -1;
  for (int i = 0; i < w->r.pack.n; i++) {
    double sum = 0;
    if (w->view[i] != view) continue;
    for (int k = 0; k < width; k++) {
      const double d = (double)rows[i * width + k] - (double)w->plain[i * width + k];
      sum += d * d;
    }
    if (sum > most) {
      most = sum;
      best = i;
    }
  }
  return best;
}

static bool holds(const float box[4], double x, double y, double margin_x, double margin_y) {
  return x >= (double)box[0] - margin_x && x <= (double)box[2] + margin_x && y >= (double)box[1] - margin_y &&
         y <= (double)box[3] + margin_y;
}

/* Tokens at the view's edges, and every third of the others. */
static bool sampled(const sl_pack *pack, int position) {
  int view, row, col;
  if (!sl_pack_cell(pack, position, &view, &row, &col)) return false;
  const bool edge = row == 0 || col == 0 || row == pack->cell_rows - 1 || col == pack->cell_cols - 1;
  return edge || position % 3 == 0;
}

static void check_token(world *w, int position) {
  const float *box = w->box[position];
  const double x = middle(box, 0), y = middle(box, 1);
  sl_rgb changed = change(&w->picture, box);
  float *rows = image_rows(w, &changed);
  for (int view = 0; view < w->r.pack.n_view; view++) {
    const int best = most_changed(w, rows, view);
    const bool own = view == w->view[position];
    if (best < 0 && !own) continue;
    if (best < 0) fail_msg("%s: no token of view %d sees (%.1f, %.1f)", w->r.where, view, x, y);
    bool somewhere = own; /* unpadding may have taken away the tokens of another view that would show it */
    for (int i = 0; i < w->r.pack.n; i++) somewhere = somewhere || (w->view[i] == view && holds(w->box[i], x, y, 0, 0));
    const bool other = own && best != position; /* boxes of one view do not overlap */
    if (other || (somewhere && !holds(w->box[best], x, y, own ? 0 : half_side(box, 0), own ? 0 : half_side(box, 1))))
      fail_msg(
          "%s, %d x %d px: a square at (%.1f, %.1f), the box of token %d, changes token %d of view %d most, whose box "
          "is %.1f-%.1f x "
          "%.1f-%.1f",
          w->r.where, w->picture.width_px, w->picture.height_px, x, y, position, best, view, (double)w->box[best][0],
          (double)w->box[best][2], (double)w->box[best][1], (double)w->box[best][3]);
  }
  free(rows);
  sl_rgb_dispose(&changed);
}

/* Number of squares tried. */
static int check_family(const char *folder, int width_px, int height_px, int *n_view) {
  world w;
  int n = 0;
  world_open(&w, folder, width_px, height_px);
  *n_view = w.r.pack.n_view;
  bool *tried = calloc((size_t)w.r.pack.n_view, sizeof *tried);
  for (int i = 0; i < w.r.pack.n; i++) {
    const double x = middle(w.box[i], 0), y = middle(w.box[i], 1);
    if (w.view[i] < 0 || !sampled(&w.r.pack, i) || x < 0 || y < 0 || x > width_px || y > height_px)
      continue; /* padding */
    check_token(&w, i);
    tried[w.view[i]] = true;
    n++;
  }
  for (int v = 0; v < w.r.pack.n_view && w.r.pack.cell_cols > 0; v++)
    if (!tried[v]) fail_msg("%s: view %d has no token that could be tried", w.r.where, v);
  free(tried);
  world_close(&w);
  return n;
}

static void squares_are_found(void **state) {
  (void)state;
  static const int sizes[][2] = {{150, 100}, {77, 170}, {128, 128}, {230, 60}};
  int n_several = 0;
  for (int f = 0; f < N_FAMILY; f++) {
    int n = 0, n_view = 0;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
      n += check_family(families[f].folder, sizes[s][0], sizes[s][1], &n_view);
      n_several += n_view > 1;
    }
    const bool queries = strcmp(families[f].folder, "qwen-vl") == 0 || strcmp(families[f].folder, "instructblip") == 0;
    if (queries ? n != 0 : n < 12) fail_msg("%s: %d squares were tried", families[f].folder, n);
  }
  assert_true(n_several >= 16);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(squares_are_found)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
