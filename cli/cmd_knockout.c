/* sightline knockout */
#include "cli.h"

const cli_command cmd_knockout = {
    .name = "knockout",
    .line = "In what order information flows: attention edges cut in a window of layers.",
    .usage = "knockout --image FILE --prompt TEXT [options]",
    .example = "sightline knockout --image cat.png --prompt \"What is this?\"",
    .options = TRACE_OPTIONS,
    .analyses = {"knockout"},
    .run = cli_run_trace,
};
