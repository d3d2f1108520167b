/* sightline cliff */
#include "cli.h"

const cli_command cmd_cliff = {
    .name = "cliff",
    .line = "When the picture has been read: the answer with the image hidden from every layer on.",
    .usage = "cliff --image FILE --prompt TEXT [options]",
    .example = "sightline cliff --image cat.png --prompt \"What is this?\"",
    .options = TRACE_OPTIONS,
    .analyses = {"cliff"},
    .run = cli_run_trace,
};
