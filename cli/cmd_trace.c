/* sightline trace */
#include "cli.h"

const cli_command cmd_trace = {
    .name = "trace",
    .line = "Everything about one picture and one question: answer, all analyses, report.",
    .usage = "trace --image FILE --prompt TEXT [options]",
    .details =
        "Answers the question, runs every analysis there is, prints a table of layers, and makes a run directory with "
        "report.html: open it in a browser, it needs no network.\n"
        "The attention cliff is the first layer from which the answer's attention on the image stays small; the CAM "
        "cliff is the first layer from which the answer hardly depends on the image tokens' features any more; the "
        "cliff layer is the first from which the image can be hidden without changing the answer.\n"
        "Most of the time goes to the analyses that draw random masks; --budget limits it.\n"
        "Interrupting (Ctrl-C) keeps what was complete; the same command with --resume goes on.",
    .example =
        "sightline trace --image cat.png --prompt \"What is the main object in the image?\" --object-mask mask.png",
    .options = SAMPLING_OPTIONS,
    .analyses = {"*"},
    .run = cli_run_trace,
};
