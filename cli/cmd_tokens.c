/* sightline tokens */
#include "cli.h"

const cli_command cmd_tokens = {
    .name = "tokens",
    .line = "Which image tokens give, and which question tokens take, what the answer needs.",
    .usage = "tokens --image FILE --prompt TEXT [options]",
    .example = "sightline tokens --image cat.png --prompt \"What is this?\" --object-mask cat-mask.png",
    .options = SAMPLING_OPTIONS,
    .analyses = {"tokens"},
    .run = cli_run_trace,
};
