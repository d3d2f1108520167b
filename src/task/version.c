/* The library's version. */
#include "sightline/sightline.h"

const char *sl_version(void) { return SL_VERSION; }
