/* sightline lens */
#include "cli.h"

const cli_command cmd_lens = {
    .name = "lens",
    .line = "What the image tokens and the final token say in each layer: the logit lens.",
    .usage = "lens --image FILE --prompt TEXT [options]",
    .example = "sightline lens --image cat.png --prompt \"What is this?\"",
    .options = TRACE_OPTIONS,
    .analyses = {"lens"},
    .run = cli_run_trace,
};
