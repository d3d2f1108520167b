/* The sections of an evaluation's page, in reading order: one view draws them all from metrics.json and the answers that
 * task/eval_page.c adds. */
#include "report/assets.h"
#include "report/section.h"

SL_ASSET(sl_view_eval, "report/assets/view_eval.js");

const sl_section sl_eval_sections[] = {
    {.name = "eval", .title = "", .script = sl_view_eval},
    {.name = "eval_numbers", .title = "How good are the answers?", .script = ""},
    {.name = "eval_curve", .title = "Until which layer is the picture needed?", .script = ""},
    {.name = "eval_answers", .title = "Which answers lost points?", .script = ""},
    {.name = "eval_failures", .title = "What could not be done?", .script = ""},
    {.name = "eval_made", .title = "How this was made", .script = ""},
};
const int sl_eval_section_count = (int)(sizeof sl_eval_sections / sizeof *sl_eval_sections);
