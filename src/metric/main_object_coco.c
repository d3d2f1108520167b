/* Main objects out of COCO's instances_*.json: pictures that one class dominates.
 *
 *   one class covers at least a tenth of the picture, and all others together at most a third of what it covers
 *
 * Instances that are marked as crowds count as the others do. Only classes of one word are asked for, because the answer's
 * first token stands for the whole class; CHAIR's other words for a class are right answers, too ("man" for a person).
 *
 * Source: the task of Kim et al., Interpreting Attention Heads for Image-to-Text Information Flow in LVLMs, 2025, on COCO
 * (Lin et al. 2014); which of its pictures they took is not published, the rule is sightline's. */
#include <stdlib.h>
#include <string.h>

#include "metric/chair.h"
#include "metric/main_object.h"

#define LEAST_SHARE 0.1
#define MOST_OTHERS (1.0 / 3)

/* Covered area by class, pictures [n][SL_CHAIR_N]. */
typedef struct coverage {
  sl_examples pictures; /* data: "area" of the whole picture */
  json_t *classes;      /* id of a category to its index */
  double *areas;
} coverage;

static sl_status take_picture(void *user, json_t *row, int line) {
  coverage *c = user;
  const char *file = NULL;
  int64_t width = 0, height = 0;
  sl_example e = {0};
  SL_TRY(sl_row_text(row, "file_name", &file));
  SL_TRY(sl_row_check_path(file));
  SL_TRY(sl_row_int(row, "width", &width));
  SL_TRY(sl_row_int(row, "height", &height));
  if (width < 1 || height < 1) SL_FAIL(SL_ERROR_FORMAT, "a picture of %lld x %lld", (long long)width, (long long)height);
  SL_TRY(sl_row_id(row, "id", &e.id));
  sl_status status = sl_strdup(&e.image, file);
  e.data = json_pack("{s:f}", "area", (double)width * (double)height);
  if (status == SL_OK && !e.data) status = sl_fail(SL_ERROR_MEMORY, "no memory for a picture");
  if (status == SL_OK) return sl_examples_add(&c->pictures, &e, line);
  sl_example_dispose(&e);
  return status;
}

static sl_status take_category(void *user, json_t *row, int line) {
  const coverage *c = user;
  const char *name = NULL;
  char *id = NULL;
  (void)line;
  SL_TRY(sl_row_text(row, "name", &name));
  const int index = sl_chair_find(name);
  if (index < 0) SL_FAIL(SL_ERROR_FORMAT, "\"name\": \"%s\" is no category of COCO", name);
  SL_TRY(sl_row_id(row, "id", &id));
  const sl_status status = sl_metric_set(c->classes, id, json_integer(index));
  free(id);
  return status;
}

static sl_status take_instance(void *user, json_t *row, int line) {
  const coverage *c = user;
  const json_t *area = json_object_get(row, "area");
  char *image = NULL, *category = NULL;
  (void)line;
  if (!json_is_number(area) || json_number_value(area) < 0) SL_FAIL(SL_ERROR_FORMAT, "\"area\": expected a number");
  SL_TRY(sl_row_id(row, "image_id", &image));
  const int picture = sl_examples_find(&c->pictures, image);
  free(image);
  SL_TRY(sl_row_id(row, "category_id", &category));
  const json_t *index = json_object_get(c->classes, category);
  const sl_status status =
      index ? SL_OK : sl_fail(SL_ERROR_FORMAT, "\"category_id\": no category has the id %s", category);
  free(category);
  if (status == SL_OK && picture >= 0)
    c->areas[(size_t)picture * SL_CHAIR_N + (size_t)json_integer_value(index)] += json_number_value(area);
  return status;
}

/* The class that dominates; -1 when none does. */
static int main_class(const double *areas, double whole) {
  double sum = 0;
  int top = 0;
  for (int i = 0; i < SL_CHAIR_N; i++) {
    sum += areas[i];
    if (areas[i] > areas[top]) top = i;
  }
  const bool dominates = areas[top] >= LEAST_SHARE * whole && sum - areas[top] <= MOST_OTHERS * areas[top];
  return dominates && !strchr(sl_chair_categories[top].name, ' ') ? top : -1;
}

static sl_status also_right(json_t *also, const char *words) {
  for (size_t n; *words; words += n + (words[n] == ' ')) {
    char word[64];
    n = strcspn(words, " ");
    if (n >= sizeof word) continue;
    for (size_t i = 0; i <= n; i++) word[i] = (char)(i == n ? '\0' : words[i] == '_' ? ' ' : words[i]);
    if (json_array_append_new(also, json_string(word)) != 0) SL_FAIL(SL_ERROR_MEMORY, "no memory for a picture");
  }
  return SL_OK;
}

static sl_status add_example(sl_examples *out, const sl_example *picture, int class) {
  json_t *also = json_array();
  sl_example e = {0};
  sl_status status = also_right(also, sl_chair_categories[class].words);
  e.data = json_pack("{s:s, s:s, s:o}", "question", SL_MAIN_OBJECT_QUESTION, "label", sl_chair_categories[class].name, "also",
                     also);
  if (status == SL_OK && !e.data) status = sl_fail(SL_ERROR_MEMORY, "no memory for a picture");
  if (status == SL_OK) status = sl_strdup(&e.id, picture->id);
  if (status == SL_OK) status = sl_strdup(&e.image, picture->image);
  if (status == SL_OK) return sl_examples_add(out, &e, picture->line);
  sl_example_dispose(&e);
  return status;
}

static sl_status read_all(sl_examples *out, coverage *c, const char *path, sl_rows *rows) {
  SL_TRY(sl_examples_from(out, path));
  SL_TRY(sl_rows_read_array(path, "images", rows, take_picture, c));
  SL_TRY(sl_rows_read_array(path, "categories", rows, take_category, c));
  SL_TRY(SL_ALLOC(c->areas, (size_t)c->pictures.n * SL_CHAIR_N, "areas"));
  SL_TRY(sl_rows_read_array(path, "annotations", rows, take_instance, c));
  for (int i = 0; i < c->pictures.n; i++) {
    const sl_example *picture = &c->pictures.items[i];
    const double whole = json_number_value(json_object_get(picture->data, "area"));
    const int class = main_class(c->areas + (size_t)i * SL_CHAIR_N, whole);
    if (class >= 0) SL_TRY(add_example(out, picture, class));
  }
  return SL_OK;
}

sl_status sl_main_object_read_coco(sl_examples *out, const char *path, sl_rows *rows) {
  coverage c = {.pictures = {.ids = json_object()}, .classes = json_object()};
  const sl_status status = read_all(out, &c, path, rows);
  sl_examples_dispose(&c.pictures);
  json_decref(c.classes);
  free(c.areas);
  return status;
}
