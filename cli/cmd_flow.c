/* sightline flow */
#include "cli.h"

const cli_command cmd_flow = {
    .name = "flow",
    .line = "Where the answer looks: attention by token class, layer and head.",
    .usage = "flow --image FILE --prompt TEXT [options]",
    .example = "sightline flow --image cat.png --prompt \"What is this?\" --out flow-cat",
    .options = TRACE_OPTIONS,
    .analyses = {"flow"},
    .run = cli_run_trace,
};
