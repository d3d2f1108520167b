/* The report: self-contained, escaped, the right sections, overlays where they belong. What it looks like and how it
 * behaves is tested in a browser (tests/browser/). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/text.h"
#include "browser/mock_run.h"
#include "input/image.h"
#include "report/colour.h"
#include "report/overlay.h"
#include "report/section.h"
#include "report/sheet.h"
#include "sightline/report.h"
#include "store/folder.h"
#include "store/run.h"

static char parent[64];

static int setup(void **state) {
  (void)state;
  strcpy(parent, "/tmp/test_report_XXXXXX");
  return mkdtemp(parent) ? 0 : 1;
}

static int teardown(void **state) {
  (void)state;
  sl_folder_remove(parent);
  return 0;
}

static const char *in_parent(const char *name) {
  static char path[4][256];
  static int turn;
  turn = (turn + 1) % 4;
  snprintf(path[turn], sizeof path[0], "%s/%s", parent, name);
  return path[turn];
}

/* Builds a mock and its report; the page's text, to be freed. */
static char *build(mock_kind kind) {
  assert_int_equal(mock_run_write(in_parent("run"), kind), SL_OK);
  if (sl_report_build(in_parent("run")) != SL_OK) fail_msg("%s", sl_error_message());
  char *page;
  size_t n_bytes;
  assert_int_equal(sl_file_read(in_parent("run/report.html"), 64 << 20, &page, &n_bytes), SL_OK);
  assert_int_equal(strlen(page), n_bytes);
  assert_true(sl_utf8_valid(page, n_bytes, NULL));
  return page;
}

static int count(const char *text, const char *part) {
  int n = 0;
  for (const char *at = text; (at = strstr(at, part)) != NULL; at += strlen(part)) n++;
  return n;
}

static void test_page_is_whole(void **state) {
  (void)state;
  char *page = build(MOCK_PLAIN);
  assert_null(strstr(page, "{{"));
  assert_non_null(strstr(page, "What is the main object in the image? \xe2\x80\x93 red square"));
  assert_non_null(strstr(page, "Mike Bostock"));                /* D3 travels with its notice */
  assert_non_null(strstr(page, "Redistributions in binary form")); /* all of it */
  assert_non_null(strstr(page, "default-src 'none'"));
  assert_null(strstr(page, " src=\"http"));
  assert_null(strstr(page, "url(http"));
  assert_null(strstr(page, "@import"));
  for (int i = 0; i < sl_section_count; i++) {
    char view[64];
    snprintf(view, sizeof view, "sl.view(\"%s\"", sl_sections[i].name);
    bool of_many_runs = strcmp(sl_sections[i].name, "compare") == 0; /* the mock is one run */
    assert_int_equal(count(page, view), of_many_runs ? 0 : 1);
  }
  free(page);
}

/* The data element ends where it should, whatever the prompt says. */
static void test_hostile_text(void **state) {
  (void)state;
  char *plain = build(MOCK_PLAIN), *page = build(MOCK_HOSTILE);
  assert_int_equal(count(page, "</script>"), count(plain, "</script>"));
  assert_int_equal(count(page, "<script"), count(plain, "<script"));
  assert_int_equal(count(page, "<!--"), count(plain, "<!--"));
  assert_null(strstr(page, "<img"));
  char *data = strstr(page, "id=\"sl-data\">");
  assert_non_null(data);
  data += strlen("id=\"sl-data\">");
  size_t length = (size_t)(strstr(data, "</script>") - data);
  json_t *root;
  assert_int_equal(sl_json_parse(&root, data, length, "page"), SL_OK);
  const char *question = json_string_value(sl_json_at(root, "run.prompt.question"));
  assert_int_equal(strncmp(question, "</script><script>", 17), 0); /* harmless, and not lost */
  json_decref(root);
  free(plain);
  free(page);
}

static void test_sections_follow_results(void **state) {
  (void)state;
  char *page = build(MOCK_FLOW);
  assert_null(strstr(page, "sl.view(\"cam\""));
  assert_non_null(strstr(page, "sl.view(\"flow\""));
  static const char *const absent[] = {"cliff", "knockout", "lens", "heads", "compare"};
  for (int i = 0; i < 5; i++) {
    char view[64];
    snprintf(view, sizeof view, "sl.view(\"%s\"", absent[i]);
    assert_null(strstr(page, view));
  }
  assert_int_not_equal(access(in_parent("run/images/tokens_image.png"), F_OK), 0);
  assert_int_not_equal(access(in_parent("run/images/cam_00.png"), F_OK), 0);
  assert_int_equal(access(in_parent("run/images/attention_11.png"), F_OK), 0);
  free(page);
  free(build(MOCK_CAM)); /* no picture */
  page = build(MOCK_NO_GRID); /* no place in the picture: a page, no overlays */
  assert_int_not_equal(access(in_parent("run/images/cam_00.png"), F_OK), 0);
  free(page);
}

/* Sheets of a run that holds nothing but boxes and views. */
static sl_status sheets_of(sl_sheets *sheets, int n, const float *box, const int32_t *view) {
  sl_run *run;
  sl_run_reader *reader;
  assert_int_equal(sl_run_new(&run, in_parent("boxes"), true), SL_OK);
  json_object_set_new(sl_run_json(run), "sightline", json_string("test"));
  assert_int_equal(sl_run_put(run, "image.box", SL_F32, 2, (int64_t[]){n, 4}, box), SL_OK);
  if (view) assert_int_equal(sl_run_put(run, "image.view", SL_I32, 1, (int64_t[]){n}, view), SL_OK);
  assert_int_equal(sl_run_commit(run), SL_OK);
  sl_run_free(run);
  assert_int_equal(sl_run_open(&reader, in_parent("boxes")), SL_OK);
  const sl_status status = sl_sheets_read(sheets, reader);
  sl_run_close(reader);
  return status;
}

static void test_sheets(void **state) {
  (void)state;
  sl_sheets s;
  /* A whole, its left and right half, the end of a row; a third look at the middle. */
  const float box[] = {0, 0, 8, 8, 0, 0, 4, 4, 4, 0, 8, 4, 0, 0, 0, 0, 0, 4, 4, 8, 4, 4, 8, 8, 2, 2, 6, 6};
  const int32_t view[] = {0, 1, 2, -1, 1, 2, 3};
  assert_int_equal(sheets_of(&s, 7, box, view), SL_OK);
  assert_int_equal(s.count, 3);
  assert_int_equal(s.n_token, 7);
  assert_int_equal(s.at[0].n_token, 1);
  assert_int_equal(s.at[1].n_view, 2); /* halves lie side by side */
  assert_int_equal(s.at[1].view[1], 2);
  assert_int_equal(s.at[1].grid_height * 10 + s.at[1].grid_width, 22);
  assert_memory_equal(s.at[1].token, ((int[]){1, 2, 4, 5}), 4 * sizeof(int));
  assert_int_equal(s.at[2].view[0], 3); /* the middle overlaps both */
  sl_sheets_dispose(&s);

  /* Tokens tile by tile: the sheet's order is that of the picture. */
  const float tiles[] = {0, 0, 2, 2, 0, 2, 2, 4, 2, 0, 4, 2, 2, 2, 4, 4};
  assert_int_equal(sheets_of(&s, 4, tiles, (const int32_t[]){0, 0, 1, 1}), SL_OK);
  assert_int_equal(s.count, 1);
  assert_memory_equal(s.at[0].token, ((int[]){0, 2, 1, 3}), 4 * sizeof(int));
  assert_float_equal(s.at[0].box[4], 2, 0); /* boxes move with their tokens */
  sl_sheets_dispose(&s);

  /* The last overlaps one view of either sheet before it. */
  const float chain[] = {0, 0, 4, 8, 2, 0, 6, 8, 4, 0, 8, 8, 5, 0, 7, 8};
  assert_int_equal(sheets_of(&s, 4, chain, (const int32_t[]){0, 1, 2, 3}), SL_OK);
  assert_int_equal(s.count, 3);
  assert_int_equal(s.at[0].n_view, 2);
  assert_int_equal(s.at[2].view[0], 3);
  sl_sheets_dispose(&s);

  /* Neither rows of unequal length nor unequal cells are a grid. */
  const float ragged[] = {0, 0, 2, 2, 2, 0, 4, 2, 0, 2, 4, 4}, uneven[] = {0, 0, 1, 2, 1, 0, 8, 2};
  assert_int_equal(sheets_of(&s, 3, ragged, NULL), SL_OK);
  assert_int_equal(s.at[0].grid_height, 0);
  sl_sheets_dispose(&s);
  assert_int_equal(sheets_of(&s, 2, uneven, NULL), SL_OK);
  assert_int_equal(s.at[0].grid_height, 0);
  sl_sheets_dispose(&s);

  /* Nothing has a place; a box that is no number. */
  assert_int_equal(sheets_of(&s, 2, (const float[8]){0}, NULL), SL_OK);
  assert_int_equal(s.count, 0);
  sl_sheets_dispose(&s);
  assert_int_equal(sheets_of(&s, 1, (const float[]){0, 0, NAN, 1}, NULL), SL_ERROR_FORMAT);
  assert_non_null(strstr(sl_error_message(), "image.box"));
}

/* Whichever allocation fails: an error, no leak (under ASan). */
static void test_sheets_out_of_memory(void **state) {
  (void)state;
  sl_run_reader *reader;
  assert_int_equal(mock_run_write(in_parent("run"), MOCK_VIEWS), SL_OK);
  assert_int_equal(sl_run_open(&reader, in_parent("run")), SL_OK);
  bool finished = false;
  int n = 1;
  for (; !finished; n++) {
    sl_sheets sheets;
    sl_alloc_fail_at(n);
    const sl_status status = sl_sheets_read(&sheets, reader);
    sl_alloc_fail_at(0);
    finished = status == SL_OK;
    assert_int_equal(sheets.count, finished ? 2 : 0);
    sl_sheets_dispose(&sheets);
  }
  assert_true(n > 10);
  sl_run_close(reader);
}

/* More views than any model has: refused instead of compared one by one. */
static void test_too_many_views(void **state) {
  (void)state;
  enum { N = 300 };
  float box[N * 4];
  int32_t view[N];
  for (int i = 0; i < N; i++) {
    memcpy(box + i * 4, (const float[]){0, 0, 1, 1}, 4 * sizeof *box);
    view[i] = i;
  }
  sl_sheets s;
  assert_int_equal(sheets_of(&s, N, box, view), SL_ERROR_FORMAT);
  assert_non_null(strstr(sl_error_message(), "image.view"));
}

static double mean_of(const sl_rgb *picture, int x0, int y0, int x1, int y1, int c) {
  double sum = 0;
  for (int y = y0; y < y1; y++) {
    for (int x = x0; x < x1; x++) sum += picture->data[((size_t)y * picture->width_px + x) * 3 + c];
  }
  return sum / ((x1 - x0) * (y1 - y0));
}

static void test_overlays(void **state) {
  (void)state;
  free(build(MOCK_PLAIN));
  sl_rgb picture, undefined, film;
  assert_int_equal(sl_rgb_load(&picture, in_parent("run/images/cam_05.png"), false), SL_OK);
  assert_int_equal(picture.width_px, 384);
  /* Layer 5 finds the object: its middle is yellow (green over blue), the far corner is not. */
  assert_true(mean_of(&picture, 200, 180, 230, 210, 1) - mean_of(&picture, 200, 180, 230, 210, 2) > 40);
  assert_true(mean_of(&picture, 0, 0, 40, 40, 1) < mean_of(&picture, 200, 180, 230, 210, 1));
  assert_int_equal(sl_rgb_load(&undefined, in_parent("run/images/cam_11.png"), false), SL_OK);
  for (size_t i = 0; i < (size_t)undefined.width_px * undefined.height_px * 3; i += 3) {
    assert_int_equal(undefined.data[i], undefined.data[i + 2]); /* hatch, not colour */
  }
  assert_int_equal(sl_rgb_load(&film, in_parent("run/images/cam_film.png"), false), SL_OK);
  assert_int_equal(film.width_px, 8 * 134 + 6);
  assert_int_equal(film.height_px, 2 * 134 + 6);
  sl_rgb scores; /* the object's tokens give, those round it do not */
  assert_int_equal(sl_rgb_load(&scores, in_parent("run/images/tokens_image.png"), false), SL_OK);
  assert_int_equal(scores.width_px, 384);
  double middle = mean_of(&scores, 180, 165, 250, 235, 2) - mean_of(&scores, 180, 165, 250, 235, 0);
  double corner = mean_of(&scores, 320, 320, 384, 384, 2) - mean_of(&scores, 320, 320, 384, 384, 0);
  assert_true(middle > corner + 10); /* the red square turns to the blue side, which grass does not */
  sl_rgb_dispose(&scores);
  sl_rgb_dispose(&picture);
  sl_rgb_dispose(&undefined);
  sl_rgb_dispose(&film);
}

/* Each sheet of views has its own pictures; what both find is the object. */
static void test_views(void **state) {
  (void)state;
  static const char *const names[] = {"cam_05", "cam_view1_05", "tokens_image_view1", "attention_view1_film"};
  free(build(MOCK_VIEWS));
  for (int i = 0; i < 4; i++) {
    char path[64];
    sl_rgb picture;
    snprintf(path, sizeof path, "run/images/%s.png", names[i]);
    if (sl_rgb_load(&picture, in_parent(path), false) != SL_OK) fail_msg("%s", sl_error_message());
    if (i < 2) {
      const double inside = mean_of(&picture, 205, 185, 225, 205, 1) - mean_of(&picture, 205, 185, 225, 205, 2);
      const double corner = mean_of(&picture, 0, 300, 40, 340, 1) - mean_of(&picture, 0, 300, 40, 340, 2);
      assert_true(inside > 40 && inside > corner + 20);
    }
    sl_rgb_dispose(&picture);
  }
  assert_int_not_equal(access(in_parent("run/images/cam_view2_05.png"), F_OK), 0); /* view 2 is beside view 1 */
}

/* Learned queries: each token's value on the patches that it reads, and the files say so. */
static void test_queries(void **state) {
  (void)state;
  sl_rgb picture;
  free(build(MOCK_QUERIES));
  assert_int_not_equal(access(in_parent("run/images/cam_05.png"), F_OK), 0);
  assert_int_equal(access(in_parent("run/images/attention_projected_film.png"), F_OK), 0);
  assert_int_equal(access(in_parent("run/images/tokens_image_projected.png"), F_OK), 0);
  if (sl_rgb_load(&picture, in_parent("run/images/cam_projected_05.png"), false) != SL_OK) fail_msg("%s", sl_error_message());
  const double inside = mean_of(&picture, 205, 185, 225, 205, 1) - mean_of(&picture, 205, 185, 225, 205, 2);
  const double corner = mean_of(&picture, 0, 300, 40, 340, 1) - mean_of(&picture, 0, 300, 40, 340, 2);
  if (!(inside > 40 && inside > corner + 20)) fail_msg("object %g, corner %g", inside, corner);
  sl_rgb_dispose(&picture);
}

/* Results as large as a 7B model's stay in a page that can be sent: 32 x 32 heads with a map each, 576 tokens. */
static void test_large(void **state) {
  (void)state;
  char *page = build(MOCK_LARGE);
  assert_true(strlen(page) < 4 << 20);
  assert_non_null(strstr(page, "\"heads.score\""));
  assert_non_null(strstr(page, "\"flow.image_heads\"")); /* the heads' section draws them, without flow's */
  assert_null(strstr(page, "sl.view(\"flow\""));
  free(page);
}

static void test_raster(void **state) {
  (void)state;
  const float values[4] = {0, 1, 2, 3};
  float out[64];
  sl_token_map grid = {.n_token = 4, .grid_height = 2, .grid_width = 2};
  assert_int_equal(sl_overlay_raster(out, 8, 8, &grid, values, 8, 8), SL_OK);
  assert_float_equal(out[0], 0, 1e-6);       /* flat outside the token centres */
  assert_float_equal(out[63], 3, 1e-6);
  assert_float_equal(out[3 * 8 + 3] + out[4 * 8 + 4], 3, 1e-5); /* symmetric about the middle value 1.5 */
  const float box[16] = {2, 2, 4, 4, 4, 2, 6, 4, 2, 4, 4, 6, 4, 4, 6, 6}; /* the grid covers the middle only */
  grid.box = box;
  assert_int_equal(sl_overlay_raster(out, 8, 8, &grid, values, 8, 8), SL_OK);
  assert_true(isnan(out[0]) && !isnan(out[2 * 8 + 2]));
  sl_token_map loose = {.n_token = 4, .box = box};
  assert_int_equal(sl_overlay_raster(out, 8, 8, &loose, values, 8, 8), SL_OK);
  assert_true(isnan(out[1 * 8 + 1]));
  assert_float_equal(out[5 * 8 + 2], 2, 1e-6);
  loose.box = NULL;
  assert_int_equal(sl_overlay_raster(out, 8, 8, &loose, values, 8, 8), SL_ERROR_ARGUMENT);
}

static void test_blend(void **state) {
  (void)state;
  uint8_t pixels[6] = {10, 20, 30, 10, 20, 30};
  sl_rgb picture = {.width_px = 2, .height_px = 1, .data = pixels};
  const float raster[2] = {1, NAN};
  sl_overlay_blend(&picture, raster, 0, 1); /* an empty map divides by nothing */
  assert_int_equal(pixels[0], 10);
  sl_overlay_blend(&picture, raster, 1, 1);
  assert_int_equal(pixels[0], 253);
  assert_int_equal(pixels[3], 10);
}

/* Lightness rises along the colour map, so it survives a black-and-white printer. */
static void test_colours(void **state) {
  (void)state;
  uint8_t table[SL_COLOUR_COUNT][3];
  sl_colour_table(table);
  double before = -1;
  for (int i = 0; i < SL_COLOUR_COUNT; i++) {
    double luma = 0.2126 * table[i][0] + 0.7152 * table[i][1] + 0.0722 * table[i][2];
    assert_true(luma >= before - 0.6);
    before = luma;
  }
}

static void test_errors(void **state) {
  (void)state;
  assert_int_equal(sl_report_build(in_parent("nothing")), SL_ERROR_FILE);
  assert_int_equal(mock_run_write(in_parent("run"), MOCK_FLOW), SL_OK);
  json_t *root;
  assert_int_equal(sl_json_load(&root, in_parent("run/run.json"), 1 << 24), SL_OK);
  json_object_set_new(root, "tokens", json_string("many"));
  char *text;
  assert_int_equal(sl_json_print(root, 0, &text), SL_OK);
  assert_int_equal(sl_file_write(in_parent("run/run.json"), text, strlen(text)), SL_OK);
  assert_int_equal(sl_report_build(in_parent("run")), SL_ERROR_FORMAT);
  assert_non_null(strstr(sl_error_message(), "\"tokens\" is not an array"));
  free(text);
  json_decref(root);
}

/* Whichever allocation fails: an error, no leak (under ASan), and no half-written page. */
static void test_out_of_memory(void **state) {
  (void)state;
  assert_int_equal(mock_run_write(in_parent("run"), MOCK_NO_GRID), SL_OK);
  bool finished = false;
  for (long n = 1; !finished && n < 4000; n += n < 60 ? 1 : 11) {
    sl_alloc_fail_at(n);
    sl_status status = sl_report_build(in_parent("run"));
    sl_alloc_fail_at(0);
    finished = status == SL_OK;
    assert_true(finished || access(in_parent("run/report.html"), F_OK) != 0);
  }
  assert_true(finished);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_page_is_whole, setup, teardown),
      cmocka_unit_test_setup_teardown(test_hostile_text, setup, teardown),
      cmocka_unit_test_setup_teardown(test_sections_follow_results, setup, teardown),
      cmocka_unit_test_setup_teardown(test_sheets, setup, teardown),
      cmocka_unit_test_setup_teardown(test_too_many_views, setup, teardown),
      cmocka_unit_test_setup_teardown(test_sheets_out_of_memory, setup, teardown),
      cmocka_unit_test_setup_teardown(test_overlays, setup, teardown),
      cmocka_unit_test_setup_teardown(test_views, setup, teardown),
      cmocka_unit_test_setup_teardown(test_queries, setup, teardown),
      cmocka_unit_test_setup_teardown(test_large, setup, teardown),
      cmocka_unit_test(test_raster),
      cmocka_unit_test(test_blend),
      cmocka_unit_test(test_colours),
      cmocka_unit_test_setup_teardown(test_errors, setup, teardown),
      cmocka_unit_test_setup_teardown(test_out_of_memory, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
