/* The numbers of a run as one JSON text that is safe inside an HTML script element. */
#ifndef SL_REPORT_PAYLOAD_H
#define SL_REPORT_PAYLOAD_H

#include "base/text.h"
#include "report/section.h"
#include "store/run.h"

/* Appends {"run": run.json, "tensors": {...}, "pictures": {...}, "sheets": [{"views": [..], "grid": [h, w] or [],
 * "tokens": [..]}] (report/sheet.h), "sections": [[name, title], ...], "colours": base64 RGB}. Tensors are base64 of
 * little-endian values: {"shape": [..], "type": "f32"|"i32"|"u8"|"q16", "data": ..}; q16 has "scale", one f32 per row
 * (a map): value = entry / 65535 * scale. No "<" occurs anywhere. */
sl_status sl_payload_append(sl_text *out, const sl_run_reader *run);

/* The same of a study: its numbers as root, tensors written exactly, no pictures, the sections of studies. */
sl_status sl_payload_append_study(sl_text *out, const json_t *root, const sl_tensor *tensors, int n_tensor);

/* The same with any sections. */
sl_status sl_payload_append_root(sl_text *out, const json_t *root, const sl_tensor *tensors, int n_tensor,
                                 const sl_section *sections, int n_section);

/* True when the run holds every result that section `index` needs. */
bool sl_section_present(const sl_run_reader *run, int index);

#endif
