/* CHAIR: does a caption mention objects that are not there?
 *
 *   there = categories of the picture's instances, and objects that its reference captions mention
 *   CHAIRs = captions with a mention of what is not there / captions
 *   CHAIRi = such mentions / mentions
 *   recall = objects there that are mentioned / objects there (over all pictures), length = words of a caption
 *
 * Source: Rohrbach et al., Object Hallucination in Image Captioning, 2018, and its chair.py (chair_mentions.c); recall
 * as in github.com/Maxlinn/CHAIR-metric-standalone. Files: COCO's instances_*.json and captions_*.json of the validation
 * pictures (split train, or all: both, as the script reads them). */
#include <stdlib.h>
#include <string.h>

#include "metric/chair.h"
#include "metric/letters.h"
#include "metric/metric.h"

static const char *const styles[] = {"detail", "describe", NULL}, *const rules[] = {"chair", NULL};
/* LLaVA's lines number the questions in question_id, and so the picture's own names come first. */
static const char *const ids[] = {"image_id", "image", "question_id", "id", NULL};

typedef struct reader {
  sl_examples *examples;
  json_t *names; /* of categories, by id */
} reader;

/* Objects of an example: an object with a member for each category, so that each counts once. */
static sl_status add_object(const sl_example *e, int category) {
  return sl_metric_set(json_object_get(e->data, "there"), sl_chair_categories[category].name, json_true());
}

/* The example of a row's image_id; NULL when the set does not ask for that picture. */
static sl_status find_image(const sl_example **out, const reader *r, const json_t *row) {
  char *id = NULL;
  *out = NULL;
  SL_TRY(sl_row_id(row, "image_id", &id));
  const int index = sl_examples_find(r->examples, id);
  if (index >= 0) *out = &r->examples->items[index];
  free(id);
  return SL_OK;
}

static sl_status take_image(void *user, json_t *row, int line) {
  const reader *r = user;
  const char *file = NULL;
  sl_example e = {0};
  SL_TRY(sl_row_text(row, "file_name", &file));
  SL_TRY(sl_row_check_path(file));
  SL_TRY(sl_row_id(row, "id", &e.id));
  sl_status status = sl_strdup(&e.image, file);
  e.data = json_pack("{s:{}}", "there");
  if (status == SL_OK && !e.data) status = sl_fail(SL_ERROR_MEMORY, "no memory for a picture");
  if (status == SL_OK)
    status = sl_examples_add(r->examples, &e, line);
  else
    sl_example_dispose(&e);
  return status == SL_OK ? sl_examples_alias(r->examples, r->examples->n - 1, file) : status;
}

static sl_status take_category(void *user, json_t *row, int line) {
  const reader *r = user;
  const char *name = NULL;
  char *id = NULL;
  (void)line;
  SL_TRY(sl_row_text(row, "name", &name));
  if (sl_chair_find(name) < 0) SL_FAIL(SL_ERROR_FORMAT, "\"name\": \"%s\" is no category of COCO", name);
  SL_TRY(sl_row_id(row, "id", &id));
  const sl_status status = sl_metric_set(r->names, id, json_integer(sl_chair_find(name)));
  free(id);
  return status;
}

static sl_status take_instance(void *user, json_t *row, int line) {
  const reader *r = user;
  const sl_example *e;
  char *id = NULL;
  (void)line;
  SL_TRY(find_image(&e, r, row));
  SL_TRY(sl_row_id(row, "category_id", &id));
  const json_t *category = json_object_get(r->names, id);
  sl_status status = SL_OK;
  if (!category)
    status = sl_fail(SL_ERROR_FORMAT, "\"category_id\": no category has the id %s", id);
  else if (e)
    status = add_object(e, (int)json_integer_value(category));
  free(id);
  return status;
}

static sl_status take_caption(void *user, json_t *row, int line) {
  const reader *r = user;
  const sl_example *e;
  const char *caption = NULL;
  int *categories = NULL;
  sl_words words = {0};
  (void)line;
  SL_TRY(find_image(&e, r, row));
  SL_TRY(sl_row_text(row, "caption", &caption));
  if (!e) return SL_OK;
  sl_status status = sl_chair_mentions(caption, &categories, &words);
  for (int i = 0; i < words.n && status == SL_OK; i++) status = add_object(e, categories[i]);
  free(categories);
  sl_words_dispose(&words);
  return status;
}

/* One pair of files; images of instances_*.json are the examples. */
static sl_status read_pair(reader *r, const char *dir, const char *end, sl_rows *rows, bool *found) {
  char *instances = NULL, *captions = NULL;
  sl_status status = sl_metric_find_file(&instances, dir, "instances_", end);
  if (status == SL_OK) status = sl_metric_find_file(&captions, dir, "captions_", end);
  *found = instances && captions;
  if (status == SL_OK && *found) {
    status = sl_examples_from(r->examples, instances);
    if (status == SL_OK) status = sl_rows_read_array(instances, "images", rows, take_image, r);
    if (status == SL_OK) status = sl_rows_read_array(instances, "categories", rows, take_category, r);
    if (status == SL_OK) status = sl_rows_read_array(instances, "annotations", rows, take_instance, r);
    if (status == SL_OK) status = sl_rows_read_array(captions, "annotations", rows, take_caption, r);
  }
  free(instances);
  free(captions);
  return status;
}

/* What the split is in; of each row the first pair that is there. */
static const struct {
  const char *split, *ends[3];
} parts[] = {{"val", {"val2014.json", "val2017.json", ".json"}}, {"train", {"train2014.json", "train2017.json"}}};

static sl_status read_parts(reader *r, const sl_read_options *o, sl_rows *rows) {
  const char *split = o->split ? o->split : "val";
  bool any = false;
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    bool found = false;
    if (strcmp(split, "all") != 0 && strcmp(split, parts[i].split) != 0) continue;
    for (int k = 0; k < 3 && parts[i].ends[k] && !found; k++)
      SL_TRY(read_pair(r, o->path, parts[i].ends[k], rows, &found));
    any = any || found;
  }
  if (!any) SL_FAIL(SL_ERROR_FILE, "%s: no instances_*.json with captions_*.json of split \"%s\"", o->path, split);
  return SL_OK;
}

static sl_status read_chair(sl_examples *out, const sl_read_options *o, sl_rows *rows) {
  reader r = {.examples = out, .names = json_object()};
  sl_status status = SL_OK;
  if (!sl_metric_is_folder(o->path))
    status = sl_fail(SL_ERROR_FILE, "%s: expected a folder with COCO's instances_*.json and captions_*.json", o->path);
  if (status == SL_OK && !r.names) status = sl_fail(SL_ERROR_MEMORY, "no memory for categories");
  if (status == SL_OK) status = read_parts(&r, o, rows);
  json_decref(r.names);
  return status;
}

static sl_status prompt(char **out, const sl_example *e, int style) {
  (void)e;
  return sl_strdup(out, style == 0 ? "Please describe this image in detail." : "Describe the image.");
}

/* ---- score ---- */

static int count_words(const char *text) {
  int n = 0;
  for (size_t length; (length = sl_next_word(&text)) > 0; text += length) n++;
  return n;
}

static sl_status tell(json_t *said, const json_t *there, const int *categories, const sl_words *words) {
  json_t *found = json_object(), *wrong = json_array(), *mentions = json_array();
  SL_TRY(sl_metric_set(said, "found", found));
  SL_TRY(sl_metric_set(said, "hallucinated", wrong));
  SL_TRY(sl_metric_set(said, "mentioned", mentions));
  for (int i = 0; i < words->n; i++) {
    const char *name = sl_chair_categories[categories[i]].name;
    if (json_array_append_new(mentions, json_string(name)) != 0) SL_FAIL(SL_ERROR_MEMORY, "no memory for a mention");
    if (json_object_get(there, name))
      SL_TRY(sl_metric_set(found, name, json_true()));
    else if (json_array_append_new(wrong, json_pack("[s, s]", words->items[i], name)) != 0)
      SL_FAIL(SL_ERROR_MEMORY, "no memory for a mention");
  }
  const size_t n_wrong = json_array_size(wrong), n_found = json_object_size(found);
  SL_TRY(sl_metric_set(said, "score", json_real(n_wrong > 0)));
  SL_TRY(sl_metric_set(said, "n_mention", json_integer(words->n)));
  SL_TRY(sl_metric_set(said, "n_hallucinated", json_integer((json_int_t)n_wrong)));
  SL_TRY(sl_metric_set(said, "n_found", json_integer((json_int_t)n_found)));
  SL_TRY(sl_metric_set(said, "n_there", json_integer((json_int_t)json_object_size(there))));
  return json_object_del(said, "found") == 0 ? SL_OK : sl_fail(SL_ERROR_MEMORY, "no memory for a caption");
}

static sl_status score(json_t *said, const sl_example *e, const char *prediction, int rule) {
  int *categories = NULL;
  sl_words words = {0};
  (void)rule;
  sl_status status = sl_chair_mentions(prediction, &categories, &words);
  if (status == SL_OK) status = tell(said, json_object_get(e->data, "there"), categories, &words);
  if (status == SL_OK) status = sl_metric_set(said, "length", json_integer(count_words(prediction)));
  free(categories);
  sl_words_dispose(&words);
  return status;
}

static sl_status summarise(json_t *into, const json_t *const *said, int n) {
  const double mentions = sl_metric_sum(said, n, "n_mention"), wrong = sl_metric_sum(said, n, "n_hallucinated");
  const double found = sl_metric_sum(said, n, "n_found"), there = sl_metric_sum(said, n, "n_there");
  SL_TRY(sl_metric_set(into, "chair_s", sl_metric_number(sl_metric_mean(said, n, "score"))));
  SL_TRY(sl_metric_set(into, "chair_i", sl_metric_number(wrong / mentions)));
  SL_TRY(sl_metric_set(into, "recall", sl_metric_number(found / there)));
  return sl_metric_set(into, "length", sl_metric_number(sl_metric_mean(said, n, "length")));
}

const sl_benchmark sl_chair_benchmark = {.name = "chair",
                                         .source = "Rohrbach et al. 2018",
                                         .styles = styles,
                                         .rules = rules,
                                         .max_token = 512,
                                         .headline = "chair_s",
                                         .lower_is_better = true,
                                         .read = read_chair,
                                         .prompt = prompt,
                                         .score = score,
                                         .summarise = summarise,
                                         .ids = ids};
