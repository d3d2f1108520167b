/* The colour map of all overlays, here and in the page. */
#ifndef SL_REPORT_COLOUR_H
#define SL_REPORT_COLOUR_H

#include <stdint.h>

#define SL_COLOUR_COUNT 256

/* Fills 256 RGB entries, dark blue-violet to yellow; lightness rises evenly, so it reads in grey and for every common
 * kind of colour blindness. */
void sl_colour_table(uint8_t rgb[SL_COLOUR_COUNT][3]);

#endif
