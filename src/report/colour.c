/* viridis (Nathaniel Smith, Stefan van der Walt, Eric Firing; public domain, CC0), from ten control points, linear in
 * sRGB between them. */
#include "report/colour.h"

static const uint8_t control[10][3] = {{68, 1, 84},    {72, 40, 120},  {62, 73, 137},  {49, 104, 142}, {38, 130, 142},
                                       {31, 158, 137}, {53, 183, 121}, {110, 206, 88}, {181, 222, 43}, {253, 231, 37}};

void sl_colour_table(uint8_t rgb[SL_COLOUR_COUNT][3]) {
  for (int i = 0; i < SL_COLOUR_COUNT; i++) {
    int scaled = i * 9, left = scaled / 255, rest = scaled % 255;
    int right = left < 9 ? left + 1 : 9;
    for (int c = 0; c < 3; c++) {
      rgb[i][c] = (uint8_t)((control[left][c] * (255 - rest) + control[right][c] * rest + 127) / 255);
    }
  }
}
