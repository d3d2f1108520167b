/* sightline cam */
#include "cli.h"

const cli_command cmd_cam = {
    .name = "cam",
    .line = "Which parts of the picture the answer depends on: LLaVA-CAM maps of every layer.",
    .usage = "cam --image FILE --prompt TEXT [options]",
    .example = "sightline cam --image cat.png --prompt \"What is this?\" --contrast dog --object-mask cat-mask.png",
    .options = TRACE_OPTIONS,
    .analyses = {"cam"},
    .run = cli_run_trace,
};
