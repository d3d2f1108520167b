/* Which rows of the site table a model has: a tower without norms before its blocks, a projector of one Linear or of
 * queries lack some. */
#include "model/internal.h"

static bool projector_has(const sl_model *m, sl_site site) {
  const sl_connector connector = m->kinds.projector->connector;
  switch (site) {
    case SL_SITE_PROJECTOR_IN:
    case SL_SITE_PROJECTOR_OUT: return true;
    case SL_SITE_PROJECTOR_PRE:
    case SL_SITE_PROJECTOR_POST: return m->projector.linear_2 != NULL;
    case SL_SITE_PROJECTOR_LN: return m->projector.norm_w.buffer != NULL;
    case SL_SITE_RESAMPLER_PATTERN: return connector == SL_CONNECT_RESAMPLER;
    default: return connector == SL_CONNECT_QFORMER; /* blocks and their input */
  }
}

bool sl_model_has_site(const sl_model *m, sl_part part, sl_site site) {
  if (!sl_site_get(site)->in_part[part]) return false;
  if (part == SL_PART_PROJECTOR) return projector_has(m, site);
  if (part == SL_PART_DECODER) return true;
  if (site == SL_SITE_LN_PRE) return m->tower.norm_w.buffer != NULL;
  if (site == SL_SITE_ROT_Q || site == SL_SITE_ROT_K) return m->tower.shape.inv_freq.buffer != NULL;
  if (site == SL_SITE_LN_POST) return m->tower.post_w.buffer != NULL;
  return site != SL_SITE_MLP_PRE_LINEAR || m->tower.shape.gated;
}

bool sl_model_site_module(char out[96], const sl_model *m, sl_part part, sl_site site) {
  const sl_kind *const kinds[] = {[SL_PART_VISION] = m->kinds.vision, [SL_PART_PROJECTOR] = m->kinds.projector,
                                  [SL_PART_DECODER] = m->kinds.text};
  out[0] = '\0';
  return kinds[part]->table_modules && sl_site_module(out, part, site);
}
