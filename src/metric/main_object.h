/* What the two ways to main objects share. */
#ifndef SL_METRIC_MAIN_OBJECT_H
#define SL_METRIC_MAIN_OBJECT_H

#include "metric/metric.h"

#define SL_MAIN_OBJECT_QUESTION "What is the main object in the image?"

/* Pictures of COCO's instances_*.json that one class dominates. */
sl_status sl_main_object_read_coco(sl_examples *out, const char *path, sl_rows *rows);

#endif
