/* The sections of a report, in reading order. */
#include "report/section.h"

#include "report/assets.h"

SL_ASSET(sl_view_summary, "report/assets/view_summary.js");
SL_ASSET(sl_view_tokens, "report/assets/view_tokens.js");
SL_ASSET(sl_view_flow, "report/assets/view_flow.js");
SL_ASSET(sl_view_cam, "report/assets/view_cam.js");
SL_ASSET(sl_view_converge, "report/assets/view_converge.js");
SL_ASSET(sl_view_run, "report/assets/view_run.js");

const sl_section sl_sections[] = {
    {.name = "summary", .title = "", .script = sl_view_summary, .takes = {"image.box", "image.view"}},
    {.name = "tokens", .title = "What the model read and wrote", .script = sl_view_tokens},
    {.name = "flow",
     .title = "Where the answer looks",
     .script = sl_view_flow,
     .needs = {"flow.share"},
     .takes = {"flow.share_heads", "flow.sinks", "flow.sink_share"},
     .maps = {"flow.image", "flow.image_heads"}},
    {.name = "cam",
     .title = "Which parts of the picture the answer is sensitive to",
     .script = sl_view_cam,
     .needs = {"cam.heat"},
     .takes = {"cam.defined", "cam.mass"},
     .maps = {"cam.heat", "cam.vision", "flow.image"}},
    {.name = "converge",
     .title = "Does it settle on the object?",
     .script = sl_view_converge,
     .takes = {"flow.stats", "cam.stats", "cam.flow_correlation", "cam.defined"}},
    {.name = "run", .title = "How this was made", .script = sl_view_run},
};
const int sl_section_count = (int)(sizeof sl_sections / sizeof *sl_sections);
