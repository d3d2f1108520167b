/* Pure parts of the knockout analysis. */
#ifndef SL_ANALYSIS_KNOCKOUT_H
#define SL_ANALYSIS_KNOCKOUT_H

/* Layers whose edges are blocked together by default: the odd number nearest to 9 n_layer / 32 (9 of 32 layers, as
 * Geva et al. have it), at least 1. */
int sl_knockout_window(int n_layer);

/* Layers *first .. *end - 1 of the window of `width` (odd) layers around `centre`, clipped at the model's ends. */
void sl_knockout_clip(int centre, int width, int n_layer, int *first, int *end);

/* Mean layer of an edge's effect: sum_c w_c c / sum_c w_c with w_c = max(0, -change[c]), what blocking takes away from
 * the answer. NaN when blocking takes nothing away anywhere. change [n_layer] by window centre; NaN counts as 0. */
double sl_knockout_centroid(const float *change, int n_layer);

#endif
