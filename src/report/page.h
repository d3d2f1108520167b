/* One self-contained page: the template with title, style, D3, scripts, views and data filled into its slots. */
#ifndef SL_REPORT_PAGE_H
#define SL_REPORT_PAGE_H

#include "base/text.h"

typedef struct sl_page {
  const char *title;        /* any text; the program's name is put behind it */
  const sl_text *data;      /* JSON without "<": payload.h */
  const char *const *views; /* [n_view] scripts of the sections (section.h) */
  int n_view;
} sl_page;

/* Writes the file whole or not at all. */
sl_status sl_page_write(const char *path, const sl_page *page);

#endif
