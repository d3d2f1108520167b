/* Bilinear maps, blending, hatching and a five-by-seven digit font. */
#include "report/overlay.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "report/colour.h"

/* The rectangle that the tokens cover, in px of the output. */
static void extent(const sl_token_map *tokens, double scale_x, double scale_y, int width_px, int height_px,
                   double out[4]) {
  out[0] = out[1] = 0;
  out[2] = width_px;
  out[3] = height_px;
  if (!tokens->box) return;
  for (int k = 0; k < 4; k++) out[k] = tokens->box[k] * (k % 2 ? scale_y : scale_x);
  for (int i = 1; i < tokens->n_token; i++) {
    for (int k = 0; k < 4; k++) {
      double value = tokens->box[i * 4 + k] * (k % 2 ? scale_y : scale_x);
      out[k] = k < 2 ? fmin(out[k], value) : fmax(out[k], value);
    }
  }
}

static double clamp(double value, double low, double high) { return value < low ? low : value > high ? high : value; }

static void raster_grid(float *out, int width_px, int height_px, const sl_token_map *tokens, const float *values,
                        const double area[4]) {
  int gh = tokens->grid_height, gw = tokens->grid_width;
  for (int y = 0; y < height_px; y++) {
    double v = (y + 0.5 - area[1]) / (area[3] - area[1]) * gh - 0.5;
    bool row_covered = v >= -0.5 && v <= gh - 0.5;
    v = clamp(v, 0, gh - 1);
    int y0 = (int)v, y1 = y0 + 1 < gh ? y0 + 1 : y0;
    for (int x = 0; x < width_px; x++) {
      double u = (x + 0.5 - area[0]) / (area[2] - area[0]) * gw - 0.5;
      float *pixel = out + (size_t)y * width_px + x;
      if (!row_covered || u < -0.5 || u > gw - 0.5) {
        *pixel = NAN;
        continue;
      }
      u = clamp(u, 0, gw - 1);
      int x0 = (int)u, x1 = x0 + 1 < gw ? x0 + 1 : x0;
      double top = values[y0 * gw + x0] * (1 - (u - x0)) + values[y0 * gw + x1] * (u - x0);
      double bottom = values[y1 * gw + x0] * (1 - (u - x0)) + values[y1 * gw + x1] * (u - x0);
      *pixel = (float)(top * (1 - (v - y0)) + bottom * (v - y0));
    }
  }
}

static sl_status raster_boxes(float *out, int width_px, int height_px, const sl_token_map *tokens, const float *values,
                              double scale_x, double scale_y) {
  size_t n_pixel = (size_t)width_px * height_px;
  int *count = NULL;
  SL_TRY(SL_ALLOC(count, n_pixel, "overlay"));
  for (size_t i = 0; i < n_pixel; i++) out[i] = 0;
  for (int i = 0; i < tokens->n_token; i++) {
    const float *box = tokens->box + (size_t)i * 4;
    int x0 = (int)clamp(floor(box[0] * scale_x + 0.5), 0, width_px);
    int y0 = (int)clamp(floor(box[1] * scale_y + 0.5), 0, height_px);
    int x1 = (int)clamp(floor(box[2] * scale_x + 0.5), 0, width_px);
    int y1 = (int)clamp(floor(box[3] * scale_y + 0.5), 0, height_px);
    for (int y = y0; y < y1; y++) {
      for (int x = x0; x < x1; x++) {
        out[(size_t)y * width_px + x] += values[i];
        count[(size_t)y * width_px + x]++;
      }
    }
  }
  for (size_t i = 0; i < n_pixel; i++) out[i] = count[i] ? out[i] / (float)count[i] : NAN;
  free(count);
  return SL_OK;
}

sl_status sl_overlay_raster(float *out, int width_px, int height_px, const sl_token_map *tokens, const float *values,
                            int stored_width_px, int stored_height_px) {
  double scale_x = (double)width_px / stored_width_px, scale_y = (double)height_px / stored_height_px, area[4];
  if (tokens->grid_height > 0) {
    extent(tokens, scale_x, scale_y, width_px, height_px, area);
    if (!(area[2] > area[0] && area[3] > area[1])) SL_FAIL(SL_ERROR_FORMAT, "image.box: the boxes cover no area");
    raster_grid(out, width_px, height_px, tokens, values, area);
    return SL_OK;
  }
  if (!tokens->box) SL_FAIL(SL_ERROR_ARGUMENT, "overlay: image tokens without grid and boxes have no place");
  return raster_boxes(out, width_px, height_px, tokens, values, scale_x, scale_y);
}

void sl_overlay_blend(sl_rgb *picture, const float *raster, float maximum, float strength) {
  if (!(maximum > 0)) return;
  uint8_t table[SL_COLOUR_COUNT][3];
  sl_colour_table(table);
  size_t n_pixel = (size_t)picture->width_px * picture->height_px;
  for (size_t i = 0; i < n_pixel; i++) {
    if (isnan(raster[i])) continue;
    double value = clamp(raster[i] / maximum, 0, 1);
    /* The picture turns grey, so that colour means the map alone; low values stay transparent, to leave it visible. */
    double alpha = strength * (0.12 + 0.88 * value);
    const uint8_t *colour = table[(int)(value * 255 + 0.5)];
    uint8_t *pixel = picture->data + i * 3;
    double grey = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2];
    for (int c = 0; c < 3; c++) {
      double base = pixel[c] * (1 - strength) + grey * strength;
      pixel[c] = (uint8_t)(base * (1 - alpha) + colour[c] * alpha + 0.5);
    }
  }
}

void sl_overlay_hatch(sl_rgb *picture) {
  for (int y = 0; y < picture->height_px; y++) {
    for (int x = 0; x < picture->width_px; x++) {
      uint8_t *pixel = picture->data + ((size_t)y * picture->width_px + x) * 3;
      int grey = (pixel[0] * 77 + pixel[1] * 150 + pixel[2] * 29) >> 8;
      bool line = (x + y) % 12 < 3;
      for (int c = 0; c < 3; c++) pixel[c] = (uint8_t)(line ? 96 : 200 + grey / 6);
    }
  }
}

/* Seven rows of five bits, the leftmost pixel is the highest bit. */
static const uint8_t digits[10][7] = {
    {14, 17, 19, 21, 25, 17, 14}, {4, 12, 4, 4, 4, 4, 14},     {14, 17, 1, 2, 4, 8, 31},    {31, 2, 4, 2, 1, 17, 14},
    {2, 6, 10, 18, 31, 2, 2},     {31, 16, 30, 1, 1, 17, 14},  {6, 8, 16, 30, 17, 17, 14},  {31, 1, 2, 4, 8, 8, 8},
    {14, 17, 17, 14, 17, 17, 14}, {14, 17, 17, 15, 1, 2, 12}};

static void plot(sl_rgb *picture, int x, int y, uint8_t grey) {
  if (x < 0 || y < 0 || x >= picture->width_px || y >= picture->height_px) return;
  uint8_t *pixel = picture->data + ((size_t)y * picture->width_px + x) * 3;
  pixel[0] = pixel[1] = pixel[2] = grey;
}

void sl_overlay_number(sl_rgb *picture, int x, int y, int number) {
  char text[16];
  int length = snprintf(text, sizeof text, "%d", number), scale = 2;
  for (int j = 0; j < 11 * scale; j++) {
    for (int i = 0; i < (length * 6 + 3) * scale; i++) plot(picture, x + i, y + j, 24);
  }
  for (int d = 0; d < length; d++) {
    for (int j = 0; j < 7 * scale; j++) {
      for (int i = 0; i < 5 * scale; i++) {
        int row = text[d] >= '0' && text[d] <= '9' ? digits[text[d] - '0'][j / scale] : 0;
        if (row >> (4 - i / scale) & 1) plot(picture, x + (2 + d * 6) * scale + i, y + 2 * scale + j, 255);
      }
    }
  }
}
