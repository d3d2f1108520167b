/* Stands for the cpu backend in fuzz builds, which leave its sources out. Nothing opens it. */
#include "backend/kind.h"

const sl_kind sl_kind_cpu = {.name = "cpu (not in fuzz builds)"};
