/* The embedded files. assets.cmake makes this file depend on them and finds D3 at configure time. */
#include "report/assets.h"

#ifndef SL_D3_PATH
#define SL_D3_PATH "/usr/share/nodejs/d3/dist/d3.min.js"
#if !__has_include(SL_D3_PATH)
#error "D3 is missing: apt-get install node-d3"
#endif
#endif

SL_ASSET(sl_asset_page, "report/assets/template.html");
SL_ASSET(sl_asset_style, "report/assets/report.css");
SL_ASSET(sl_asset_licence, "report/assets/d3_licence.txt");
SL_ASSET(sl_asset_d3, SL_D3_PATH);
SL_ASSET(sl_asset_core, "report/assets/core.js");
SL_ASSET(sl_asset_figure, "report/assets/figure.js");
SL_ASSET(sl_asset_map, "report/assets/map.js");
SL_ASSET(sl_asset_chart, "report/assets/chart.js");
SL_ASSET(sl_asset_curve, "report/assets/curve.js");
SL_ASSET(sl_asset_squares, "report/assets/squares.js");
SL_ASSET(sl_asset_attribution, "report/assets/attribution.js");
SL_ASSET(sl_asset_findings, "report/assets/findings.js");
SL_ASSET(sl_asset_start, "report/assets/report.js");

const char *const sl_asset_common[] = {sl_asset_core,    sl_asset_figure,      sl_asset_map,
                                       sl_asset_chart,   sl_asset_curve,       sl_asset_squares,
                                       sl_asset_attribution, sl_asset_findings, NULL};
