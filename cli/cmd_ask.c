/* sightline ask */
#include "cli.h"

const cli_command cmd_ask = {
    .name = "ask",
    .line = "Answer a question about a picture; store activations; answer under an intervention plan.",
    .usage = "ask --image FILE --prompt TEXT [options]",
    .details =
        "Prints the model's greedy answer (the most likely token each time) on standard output, nothing else.\n"
        "With --out, --record or --logits it also makes a run directory: every token with its probability and its four "
        "strongest rivals in run.json, recorded activations as tensors named site/NAME in tensors.safetensors. Values "
        "are recorded over the prompt and the whole answer.\n"
        "With --plan it prints the unmodified answer, the answer under the plan, and a table of the latter's tokens "
        "with their probabilities under the plan and without it. What is recorded stays that of the unmodified run.",
    .example = "sightline ask --image cat.png --prompt \"Is there a cat?\" --record 'blocks.*.hook_resid_post@-1'",
    .options = ASK_OPTIONS | BIT(OPT_PLAN),
    .run = cli_run_trace,
};
