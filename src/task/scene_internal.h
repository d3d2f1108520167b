/* The handles of sightline/branch.h, for scene.c and branches.c. */
#ifndef SL_TASK_SCENE_INTERNAL_H
#define SL_TASK_SCENE_INTERNAL_H

#include "sightline/branch.h"
#include "task/plan_file.h"

/* A prefix and how many questions use it. */
typedef struct sl_shared_prefix {
  sl_prefix *prefix;
  char *question; /* that the image tokens were made for; NULL where they do not depend on it */
  int n_user;
} sl_shared_prefix;

struct sl_scene {
  const sl_model *model;
  sl_session *session;
  char *image_path;
  sl_image *image;
  sl_pack pack;
  bool keep_rows;
  sl_log_fn log;
  void *user;
  sl_cancel *cancel;
  sl_shared_prefix **prefixes; /* those in use, and the last one made */
  int n_prefix;
};

struct sl_question {
  sl_scene *scene;
  sl_shared_prefix *prefix;
  sl_layout layout; /* prompt and answer */
  sl_trunk *trunk;
  char *answer;
};

struct sl_scene_baseline {
  sl_standin standin;
};

/* Rows of the question's own, ascending. */
sl_status sl_question_check_rows(const sl_question *question, const int *rows, int n_row);

#endif
