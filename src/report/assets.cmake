# Finds D3 and rebuilds the embedding sources when an embedded file changes. Include after sl_room(report ...).
find_file(SL_D3 d3.min.js PATHS /usr/share/nodejs/d3/dist /usr/share/nodejs/d3/build NO_DEFAULT_PATH)
if(NOT SL_D3)
  message(FATAL_ERROR "D3 is missing: apt-get install node-d3")
endif()
file(GLOB sl_report_assets CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/report/assets/*)
set_source_files_properties(${PROJECT_SOURCE_DIR}/src/report/assets.c ${PROJECT_SOURCE_DIR}/src/report/section.c
  ${PROJECT_SOURCE_DIR}/src/report/study_section.c ${PROJECT_SOURCE_DIR}/src/report/eval_section.c
  TARGET_DIRECTORY sl_report PROPERTIES OBJECT_DEPENDS "${sl_report_assets};${SL_D3}")
set_property(SOURCE ${PROJECT_SOURCE_DIR}/src/report/assets.c TARGET_DIRECTORY sl_report
  APPEND PROPERTY COMPILE_DEFINITIONS "SL_D3_PATH=\"${SL_D3}\"")
