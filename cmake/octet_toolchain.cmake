# Compiler, linker and dependency setup shared by every target.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "build type" FORCE)
endif()
set(OCTET_SANITIZE "" CACHE STRING "comma-separated sanitizers, e.g. address,undefined")

find_program(OCTET_CCACHE ccache)
if(OCTET_CCACHE)
  set(CMAKE_C_COMPILER_LAUNCHER ${OCTET_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${OCTET_CCACHE})
endif()
find_program(OCTET_MOLD mold)
if(OCTET_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# Exactness: the compiler may neither fuse nor reorder floating point (docs/numerics.md).
# CUDA sources have flags of their own (kernels/cuda/CMakeLists.txt).
set(octet_flags -ffp-contract=off -fno-fast-math -Wall -Wextra -Werror=return-type
                -Wno-unused-parameter -fno-omit-frame-pointer)
add_compile_options("$<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:${octet_flags}>")
string(REPLACE "-O3" "-O2" CMAKE_CXX_FLAGS_RELEASE "${CMAKE_CXX_FLAGS_RELEASE}")
# CHECK stays on in release builds and is our own; NDEBUG only silences assert in dependencies.
if(OCTET_SANITIZE)
  add_compile_options("$<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-fsanitize=${OCTET_SANITIZE};-fno-sanitize-recover=all>")
  add_link_options(-fsanitize=${OCTET_SANITIZE})
else()
  add_compile_options("$<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-fstack-protector-strong>")
  add_link_options(-Wl,-z,relro,-z,now)
endif()

include_directories(${CMAKE_SOURCE_DIR})

find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(Protobuf REQUIRED)
find_package(gRPC REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(GTest REQUIRED)
find_package(benchmark)
find_package(PkgConfig REQUIRED)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(HWLOC REQUIRED IMPORTED_TARGET hwloc)

# Headers of NCCL, for the files that call it. Without them NCCL is left out.
find_path(OCTET_NCCL_INCLUDE nccl.h HINTS /usr/local/cuda/include $ENV{CUDA_HOME}/include)
find_path(OCTET_CUDA_INCLUDE cuda_runtime.h HINTS /usr/local/cuda/include $ENV{CUDA_HOME}/include)
set(OCTET_HAVE_NCCL FALSE)
if(OCTET_NCCL_INCLUDE AND OCTET_CUDA_INCLUDE)
  set(OCTET_HAVE_NCCL TRUE)
endif()
set(OCTET_NCCL_COMPILE_OPTIONS "-isystem${OCTET_NCCL_INCLUDE};-isystem${OCTET_CUDA_INCLUDE}")
