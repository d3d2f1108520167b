/* sightline heads */
#include "cli.h"

const cli_command cmd_heads = {
    .name = "heads",
    .line = "Which attention heads carry the picture into the answer: scores from random head masks.",
    .usage = "heads --image FILE --prompt TEXT [options]",
    .example = "sightline heads --image cat.png --prompt \"What is this?\" --calibration photos --samples 2000",
    .options = SAMPLING_OPTIONS,
    .analyses = {"heads"},
    .run = cli_run_trace,
};
