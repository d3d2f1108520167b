/* The sections of a report, in reading order. */
#include "report/section.h"

#include "report/assets.h"

SL_ASSET(sl_view_summary, "report/assets/view_summary.js");
SL_ASSET(sl_view_tokens, "report/assets/view_tokens.js");
SL_ASSET(sl_view_flow, "report/assets/view_flow.js");
SL_ASSET(sl_view_cam, "report/assets/view_cam.js");
SL_ASSET(sl_view_converge, "report/assets/view_converge.js");
SL_ASSET(sl_view_cliff, "report/assets/view_cliff.js");
SL_ASSET(sl_view_knockout, "report/assets/view_knockout.js");
SL_ASSET(sl_view_lens, "report/assets/view_lens.js");
SL_ASSET(sl_view_heads, "report/assets/view_heads.js");
SL_ASSET(sl_view_token_scores, "report/assets/view_token_scores.js");
SL_ASSET(sl_view_compare, "report/assets/view_compare.js");
SL_ASSET(sl_view_run, "report/assets/view_run.js");

const sl_section sl_sections[] = {
    {.name = "summary", .title = "", .script = sl_view_summary, .takes = {"image.box", "image.view", "image.patch_box"},
     .maps = {"image.projection"}},
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
    {.name = "cliff",
     .title = "Until which layer is the picture needed?",
     .script = sl_view_cliff,
     .needs = {"cliff.logit"},
     .takes = {"cliff.prob", "cliff.token", "cliff.rank_logit"}},
    {.name = "knockout",
     .title = "Along which way does it travel?",
     .script = sl_view_knockout,
     .needs = {"knockout.change"}},
    {.name = "lens",
     .title = "What would the model say earlier?",
     .script = sl_view_lens,
     .needs = {"lens.final_prob"},
     .takes = {"lens.final_rank", "lens.final_top_prob", "lens.image_top", "lens.image_rank"},
     .maps = {"lens.image_answer", "lens.image_top_prob"}},
    {.name = "heads",
     .title = "Which heads carry it?",
     .script = sl_view_heads,
     .needs = {"heads.score"},
     .takes = {"heads.stderr", "heads.single", "heads.attention", "heads.patching", "heads.target", "heads.predicted",
               "heads.growth", "heads.steps", "heads.faithfulness", "heads.faithfulness_rivals", "heads.completeness",
               "heads.completeness_rivals"},
     .maps = {"flow.image_heads"}},
    {.name = "token_scores",
     .title = "Which tokens give, and which take?",
     .script = sl_view_token_scores,
     .takes = {"tokens.image", "tokens.image_stderr", "tokens.image_target", "tokens.image_predicted",
               "tokens.image_growth", "tokens.image_steps", "tokens.image_faithfulness",
               "tokens.image_faithfulness_rivals", "tokens.image_completeness", "tokens.image_completeness_rivals",
               "tokens.text", "tokens.text_stderr", "tokens.text_target", "tokens.text_predicted",
               "tokens.text_growth", "tokens.text_steps", "tokens.text_faithfulness",
               "tokens.text_faithfulness_rivals", "tokens.text_completeness", "tokens.text_completeness_rivals"}},
    {.name = "compare",
     .title = "Do these pictures use the same heads?",
     .script = sl_view_compare,
     .needs = {"compare.cosine"},
     .takes = {"compare.spearman", "compare.jaccard", "compare.score", "compare.class", "compare.order"}},
    {.name = "run", .title = "How this was made", .script = sl_view_run},
};
const int sl_section_count = (int)(sizeof sl_sections / sizeof *sl_sections);
