/* Learned positions of a grid of patches, resampled to another grid when a model is loaded. */
#ifndef SL_NN_POSITIONS_H
#define SL_NN_POSITIONS_H

/* out [out_height * out_width, cols] from in [in_height * in_width, cols], rows of the grid one after another: bicubic
 * with a = -0.75, pixel centres at halves, borders repeated, no smoothing when the grid shrinks, as PyTorch's
 * interpolate(mode "bicubic", align_corners false) has it. (Pictures are resized with a = -0.5 and smoothing: input/.)
 * A class token's row is the caller's to leave aside. */
void sl_positions_resample(float *out, int out_height, int out_width, const float *in, int in_height, int in_width,
                           int cols);

#endif
