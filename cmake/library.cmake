# libsightline (shared and static), its headers and its pkg-config file.
get_property(rooms GLOBAL PROPERTY SL_ROOMS)
add_library(sightline SHARED)
add_library(sightline_static STATIC)
set_target_properties(sightline_static PROPERTIES OUTPUT_NAME sightline)
set_target_properties(sightline PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION 0
  LINK_FLAGS "-Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/sightline.map"
  LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/sightline.map)
foreach(target sightline sightline_static)
  set_target_properties(${target} PROPERTIES LINKER_LANGUAGE C)
  target_include_directories(${target} INTERFACE ${PROJECT_SOURCE_DIR}/include)
  sl_use_rooms(${target} ${rooms})
endforeach()

# From the file's own place, so that `cmake --install build --prefix ELSEWHERE` is right too.
file(RELATIVE_PATH SL_PC_UP /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(${PROJECT_SOURCE_DIR}/cmake/sightline.pc.in ${PROJECT_BINARY_DIR}/sightline.pc @ONLY)
install(TARGETS sightline sightline_static LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/sightline DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${PROJECT_BINARY_DIR}/sightline.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/models/pocket-llava DESTINATION ${CMAKE_INSTALL_DATADIR}/sightline/models)
