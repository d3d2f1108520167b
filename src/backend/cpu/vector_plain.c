/* Row kernels for any processor: what the compiler makes of 16-float vectors on the baseline. */
#define TARGET
#define VECTOR_TABLE sl_vector_plain
#define VECTOR_NAME "plain C"
#define ROWS 3
#define HALF_TO_FLOAT(out, in) sl_convert_to_f32((out), (in), SL_F16, 32)
#include "backend/cpu/vector_body.h"
