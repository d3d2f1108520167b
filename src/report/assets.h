/* Files of the report that are part of the program: page, style, scripts and D3, embedded by the assembler. */
#ifndef SL_REPORT_ASSETS_H
#define SL_REPORT_ASSETS_H

#include <stddef.h>

/* Embeds `path` (found along the include path, so relative to src/) as the NUL-terminated array `symbol`. */
#define SL_ASSET(symbol, path)                                                                           \
  __asm__(".pushsection .rodata\n.balign 16\n.globl " #symbol "\n.hidden " #symbol "\n" #symbol ":\n.incbin \"" path \
          "\"\n.byte 0\n.popsection\n");                                                                 \
  extern const char symbol[]

extern const char sl_asset_page[] __attribute__((visibility("hidden")));    /* template.html */
extern const char sl_asset_style[] __attribute__((visibility("hidden")));   /* report.css */
extern const char sl_asset_licence[] __attribute__((visibility("hidden"))); /* D3's notice */
extern const char sl_asset_d3[] __attribute__((visibility("hidden")));

/* Scripts that every report has, in order; NULL ends the list. The sections' own come between these and the last. */
extern const char *const sl_asset_common[];
extern const char sl_asset_start[] __attribute__((visibility("hidden"))); /* report.js: builds the page */

#endif
