/* Bicubic resampling of learned positions.
 *
 * Output place o reads around x = (o + 1/2) in / out - 1/2; with t = x - floor(x) the four neighbours weigh
 *   w(1 + t), w(t), w(1 - t), w(2 - t),   w(s) = (a + 2) s^3 - (a + 3) s^2 + 1          for s <= 1
 *                                         w(s) = a s^3 - 5 a s^2 + 8 a s - 4 a          for 1 < s < 2
 * Source: Keys 1981, IEEE TASSP 29, with the a that PyTorch takes. */
#include "nn/positions.h"

#include <math.h>

#define A (-0.75)

static double near_weight(double s) { return ((A + 2) * s - (A + 3)) * s * s + 1; }
static double far_weight(double s) { return ((A * s - 5 * A) * s + 8 * A) * s - 4 * A; }

/* The four source places and weights of one output place along an axis. */
typedef struct taps {
  int at[4];
  double weight[4];
} taps;

static taps make_taps(int o, int n_out, int n_in) {
  const double x = (o + 0.5) * n_in / n_out - 0.5, t = x - floor(x);
  taps r = {.weight = {far_weight(1 + t), near_weight(t), near_weight(1 - t), far_weight(2 - t)}};
  for (int i = 0; i < 4; i++) {
    const int at = (int)floor(x) - 1 + i;
    r.at[i] = at < 0 ? 0 : at >= n_in ? n_in - 1 : at;
  }
  return r;
}

void sl_positions_resample(float *out, int out_height, int out_width, const float *in, int in_height, int in_width,
                           int cols) {
  for (int y = 0; y < out_height; y++) {
    const taps rows = make_taps(y, out_height, in_height);
    for (int x = 0; x < out_width; x++, out += cols) {
      const taps columns = make_taps(x, out_width, in_width);
      for (int c = 0; c < cols; c++) {
        double sum = 0;
        for (int i = 0; i < 16; i++) {
          const long long at = (long long)rows.at[i / 4] * in_width + columns.at[i % 4];
          sum += rows.weight[i / 4] * columns.weight[i % 4] * (double)in[at * cols + c];
        }
        out[c] = (float)sum;
      }
    }
  }
}
