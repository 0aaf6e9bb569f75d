# octet_library(NAME SRCS ... DEPS ...) and octet_test(NAME SRCS ... DEPS ...): the only ways to
# add a target, so that dependencies between folders are declared in one place each.

function(octet_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(${name} STATIC ${ARG_SRCS})
    target_link_libraries(${name} PUBLIC ${ARG_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE ${ARG_DEPS})
  endif()
endfunction()

# Test binaries run with the source tree as OCTET_SOURCE_DIR, to reach committed vectors.
function(octet_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE OCTET_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                                             OCTET_BINARY_DIR="${CMAKE_BINARY_DIR}")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
  if(ARG_LABELS)
    set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}")
  endif()
endfunction()

# Runs a test of octet_test's a second time, on the fake of kernels/fake_gpu in the place of a GPU.
function(octet_fake_gpu_test name)
  add_test(NAME ${name}_fake_gpu COMMAND ${name} ${ARGN})
  add_dependencies(${name} octet_fake_gpu)
  # Skipping for want of a device would be the fake's own failure.
  set_tests_properties(${name}_fake_gpu PROPERTIES TIMEOUT 300
    FAIL_REGULAR_EXPRESSION "not run: CUDA"
    ENVIRONMENT "${OCTET_FAKE_GPU_ENVIRONMENT}")
endfunction()

function(octet_bench name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  if(benchmark_FOUND)
    add_executable(${name} ${ARG_SRCS})
    target_link_libraries(${name} PRIVATE ${ARG_DEPS} benchmark::benchmark_main)
  endif()
endfunction()
