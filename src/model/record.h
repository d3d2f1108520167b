/* Recording: sites chosen by pattern, positions and heads, copied to host memory as they are seen. Only what was asked
 * for is kept. A recorder is a probe. */
#ifndef SL_MODEL_RECORD_H
#define SL_MODEL_RECORD_H

#include "model/session.h"

typedef struct sl_record sl_record;

/* `spec`: comma-separated items "PATTERN[@POSITIONS][#HEADS]": pattern as sl_site_match takes it (TransformerLens name,
 * HF module path, glob), positions and heads as lists of numbers and ranges with negative numbers counting from the end
 * ("@0-3,-1" is written "@0-3;-1"). Attention sites take positions as query rows. An item that matches nothing is an
 * error; where two items name one place, it gets the positions and heads of both.
 * `pack` is the layout's (NULL: that of a square picture). Rows of the tower count through all views, one after
 * another; attention within a view has its own rows as keys alone. */
sl_status sl_record_new(sl_record **out, const sl_model *model, const sl_pack *pack, const sl_layout *layout,
                        const char *spec);
void sl_record_free(sl_record *record);

/* The probe to hand to sl_image_encode (SL_PART_VISION, which sees the projector too) or sl_session_forward
 * (SL_PART_DECODER). Valid as long as the record. */
sl_status sl_record_probe(sl_record *record, sl_session *session, sl_part part, sl_probe *probe);

/* Recorded values as named tensors (views into the record), in the order seen. */
int sl_record_count(const sl_record *record);
const sl_tensor *sl_record_at(const sl_record *record, int index);

#endif
