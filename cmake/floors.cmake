# penstock_floor(NAME SOURCES... [DEPENDS targets...] [PRIVATE targets...]): one static library, one floor.
# tests/floors.py checks the includes; this fixes the link order.
function(penstock_floor name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;PRIVATE" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${ARG_DEPENDS} PRIVATE penstock_flags ${ARG_PRIVATE})
endfunction()

# How everything of ours is compiled. -ffp-contract=off: results may not depend on what the compiler fuses;
# kernels that want a fused multiply-add say so. -Wno-restrict: g++ 12 warns of std::string's own code (GCC bug 105651).
add_library(penstock_flags INTERFACE)
target_compile_options(penstock_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers -Wno-restrict -ffp-contract=off>
  $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false -Xcompiler=-Wall>)
if(PENSTOCK_SANITIZER)
  # Instrumented code makes g++ 12 see uses of uninitialised variables that are none.
  add_compile_options($<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
endif()
if(PENSTOCK_SANITIZER STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
elseif(PENSTOCK_SANITIZER STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer)
  add_link_options(-fsanitize=thread)
elseif(PENSTOCK_SANITIZER)
  message(FATAL_ERROR "PENSTOCK_SANITIZER: expected address or thread, found ${PENSTOCK_SANITIZER}")
endif()
