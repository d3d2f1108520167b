/* The sections of a study's page, in reading order. Their views draw run.study (task/study_report.c says what is in it)
 * and, for the comparison of heads, analyses.compare and the tensors compare.*. */
#include "report/assets.h"
#include "report/section.h"

SL_ASSET(sl_view_study_summary, "report/assets/view_study_summary.js");
SL_ASSET(sl_view_study_accuracy, "report/assets/view_study_accuracy.js");
SL_ASSET(sl_view_study_curves, "report/assets/view_study_curves.js");
SL_ASSET(sl_view_study_cliff, "report/assets/view_study_cliff.js");
SL_ASSET(sl_view_study_heads, "report/assets/view_study_heads.js");
SL_ASSET(sl_view_study_run, "report/assets/view_study_run.js");
extern const char sl_view_compare[] __attribute__((visibility("hidden"))); /* section.c */

const sl_section sl_study_sections[] = {
    {.name = "study", .title = "", .script = sl_view_study_summary},
    {.name = "accuracy", .title = "How often is the answer the expected one?", .script = sl_view_study_accuracy},
    {.name = "curves", .title = "Where does the answer look, and does it settle?", .script = sl_view_study_curves},
    {.name = "cliffs", .title = "Until which layer is the picture needed?", .script = sl_view_study_cliff},
    {.name = "mean_heads", .title = "Which heads carry it?", .script = sl_view_study_heads},
    {.name = "compare", .title = "Do these examples use the same heads?", .script = sl_view_compare},
    {.name = "failures", .title = "What could not be done?", .script = ""}, /* of view_study_run.js */
    {.name = "made", .title = "How this was made", .script = sl_view_study_run},
};
const int sl_study_section_count = (int)(sizeof sl_study_sections / sizeof *sl_study_sections);
