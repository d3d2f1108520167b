# Finds the libraries. A missing one stops the configure step and names its Debian package.
find_package(PkgConfig QUIET)
if(NOT PKG_CONFIG_FOUND)
  message(FATAL_ERROR "pkg-config is missing: apt-get install pkg-config")
endif()

function(sl_package name module package)
  pkg_check_modules(${name}_pc QUIET IMPORTED_TARGET ${module})
  if(NOT ${name}_pc_FOUND)
    message(FATAL_ERROR "${module} is missing: apt-get install ${package}")
  endif()
  add_library(sl_lib_${name} INTERFACE)
  target_link_libraries(sl_lib_${name} INTERFACE PkgConfig::${name}_pc)
endfunction()

sl_package(jansson jansson libjansson-dev)
sl_package(xxhash libxxhash libxxhash-dev)
sl_package(jpeg libjpeg libjpeg62-turbo-dev)
sl_package(png libpng libpng-dev)
sl_package(webp libwebp libwebp-dev)
sl_package(pcre2 libpcre2-8 libpcre2-dev)
sl_package(sqlite3 sqlite3 libsqlite3-dev)
sl_package(utf8proc libutf8proc libutf8proc-dev)
# LAPACKE calls whatever LAPACK is installed; libopenblas-serial-dev brings the fast one that starts no threads of its own.
sl_package(lapacke lapacke "liblapacke-dev libopenblas-serial-dev")

add_library(sl_lib_openmp INTERFACE)
if(NOT SL_FUZZ) # fuzz targets work in one thread, and clang's OpenMP is a package of its own
  find_package(OpenMP REQUIRED COMPONENTS C)
  target_link_libraries(sl_lib_openmp INTERFACE OpenMP::OpenMP_C)
endif()
